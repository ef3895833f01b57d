"""Processes of this machine that write the parts of a prediction; killed ones are replaced."""

import ctypes
import logging
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from jobs.datasets.formats.rows import DataError, SourceFile
from jobs.inference.batch.part_writer import PartResult, PartWriter
from jobs.inference.classifier import Classifier

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # while processes are killed and no part is completed
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def write_parts(
    writer: PartWriter, parts: Mapping[str, SourceFile], classifier: Classifier, workers: int
) -> Generator[PartResult, None, None]:
    """Write the files of parts, by name, and yield the result of each when it is complete.

    Args:
        workers: number of processes; with 1 it is this one.

    Raises:
        DataError: a row is invalid, or processes are killed again and again.
        StorageError: a file cannot be written.
    """
    if workers == 1:
        for name, part in parts.items():
            yield writer.write(name, part, classifier)
        return
    rest = dict(parts)
    attempts = 0
    while rest:
        num_before = len(rest)
        try:
            yield from _run_processes(writer, rest, classifier, workers)
        except BrokenProcessPool as error:
            attempts = attempts + 1 if len(rest) == num_before else 1
            if attempts == MAX_ATTEMPTS:
                raise DataError(
                    f"{writer.out}: worker processes were killed {attempts} times, perhaps for lack of memory; "
                    "repeat the command, with fewer --workers"
                ) from error
            logger.warning("a worker process was killed; its part starts again")


def _run_processes(
    writer: PartWriter, rest: dict[str, SourceFile], classifier: Classifier, workers: int
) -> Iterator[PartResult]:
    """Write parts in several processes, remove complete ones from `rest`, and yield their results."""
    # Forked processes share the memory of the classifier.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_prepare_process, initargs=(writer, classifier, os.getpid())
    )
    try:
        running: dict[Future[PartResult], str] = {
            pool.submit(_write_part_in_process, name, part): name for name, part in rest.items()
        }
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                del rest[running.pop(future)]
                yield result
    finally:
        pool.shutdown(cancel_futures=True)


_process: list[tuple[PartWriter, Classifier]] = []
"""Writer and classifier of a worker process; empty in other processes."""


def _prepare_process(writer: PartWriter, classifier: Classifier, parent: int) -> None:
    """Set the worker's writer and classifier; let it end with its parent, and at once when Ctrl-C is pressed."""
    _process[:] = [(writer, classifier)]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _write_part_in_process(name: str, part: SourceFile) -> PartResult:
    [(writer, classifier)] = _process
    return writer.write(name, part, classifier)
