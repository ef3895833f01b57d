"""Processes of this machine that write the parts of a prediction; killed ones are replaced."""

import logging
import multiprocessing
import signal
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from cluster.machine import end_with_parent
from jobs.datasets.formats.rows import DataError, SourceFile
from jobs.inference.batch.part_writer import PartResult, PartWriter
from jobs.inference.batch.shared_classifier import SharedClassifier, share_classifier
from jobs.inference.classifier import Classifier

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # while processes are killed and no part is completed


def write_parts(
    writer: PartWriter, parts: Mapping[str, SourceFile], classifier: Classifier, workers: int
) -> Generator[PartResult, None, None]:
    """Write the files of parts, by name, and yield the result of each when it is complete.

    Args:
        workers: number of processes; with 1 it is this one.

    Raises:
        DataError: a row is invalid, or processes are killed again and again.
        StorageError: a file cannot be written, such as the temporary one of the classifier.
    """
    if workers == 1:
        for name, part in parts.items():
            yield writer.write(name, part, classifier)
        return
    rest, attempts = dict(parts), 0
    with share_classifier(classifier) as shared:
        del classifier  # of which this process needs no copy
        while rest:
            num_before = len(rest)
            try:
                yield from _run_processes(writer, rest, shared, workers)
            except BrokenProcessPool as error:
                attempts = attempts + 1 if len(rest) == num_before else 1
                if attempts == MAX_ATTEMPTS:
                    raise DataError(
                        f"{writer.out}: worker processes were killed {attempts} times, perhaps for lack of memory; "
                        "repeat the command, with fewer --workers"
                    ) from error
                logger.warning("a worker process was killed; its part starts again")


def _run_processes(
    writer: PartWriter, rest: dict[str, SourceFile], classifier: SharedClassifier, workers: int
) -> Iterator[PartResult]:
    """Write parts in several processes, remove complete ones from `rest`, and yield their results."""
    # Forked processes would inherit locks of threads, and clients of object stores. Those of a fork server would start
    # with a core second less, but the system would not count their time as that of the command.
    context = multiprocessing.get_context("spawn")
    processes_of_others = {*multiprocessing.active_children()}

    def terminate() -> None:
        for process in {*multiprocessing.active_children()} - processes_of_others:
            process.terminate()

    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_process, initargs=(writer, classifier))
    try:
        with _block_sigint():
            running: dict[Future[PartResult], str] = {
                pool.submit(_write_part_in_process, name, part): name for name, part in rest.items()
            }
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                del rest[running.pop(future)]
                yield result
        terminate()  # they are idle; the shutdown waits forever for processes if it is then that one is killed
    except KeyboardInterrupt:
        terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _block_sigint() -> Iterator[None]:
    """Context manager: Ctrl-C has its effect at the end; new processes block it until `_prepare_process`."""
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


_process: list[tuple[PartWriter, Classifier]] = []
"""Writer and classifier of a worker process; empty in other processes."""


def _prepare_process(writer: PartWriter, classifier: SharedClassifier) -> None:
    """Set the worker's writer and classifier; let it end with its parent, and at once when Ctrl-C is pressed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    end_with_parent()
    _process[:] = [(writer, classifier.load())]


def _write_part_in_process(name: str, part: SourceFile) -> PartResult:
    [(writer, classifier)] = _process
    return writer.write(name, part, classifier)
