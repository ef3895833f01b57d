"""Batch prediction into a folder: files of parts of the input, written by several processes, completed after a failure.

The input is divided into parts of whole rows, in the same way every time. Each part becomes a file, part-00000.parquet
and so on, which is named when it is complete and on the disk. _predictions.json identifies the input, the checkpoint
and the options, so that the same command completes the files of a folder, and another one does not mix with them.
"""

import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any

from cluster.console.logs import RESULT
from cluster.input_files import file_size, fingerprint, is_same_file
from cluster.machine import count_cpus
from cluster.storage import (
    StorageError,
    exists,
    join,
    list_file_sizes,
    local_path,
    lock_folder,
    output_file,
    parent,
    read_text,
    remove_file,
    write_json,
)
from jobs.datasets.chunks import divide_files, iter_chunks
from jobs.datasets.formats.rows import DataError, ReadOptions, SourceFile
from jobs.inference.classifier import Classifier
from jobs.inference.prediction_output import OutputColumns, OutputFormat, open_output
from jobs.model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

MANIFEST = "_predictions.json"
PART_BYTES = 16 << 20
MAX_PARTS = 2000  # of a large input, whose parts are larger
LOG_INTERVAL_S = 5
MAX_ATTEMPTS = 3  # while processes are killed and no part is completed
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h

_PART = re.compile(r"part-\d+\.\w+")


def is_folder_name(out: str) -> bool:
    """Return whether the name of an output is that of a folder: it ends with a slash."""
    return out.partition("?")[0].endswith("/")


def check_output_folder(out: str, files: Iterable[SourceFile]) -> None:
    """Raise a StorageError if a file of the input is in the folder of the output."""
    for folder in {parent(file.path) for file in files}:
        if is_same_file(folder, parent(join(out, MANIFEST))):
            raise StorageError(f"{out}: is the folder of the input, which is never changed; name another one")


@dataclass
class ShardedPrediction:
    """Prediction of the rows of files into a folder.

    source: name of the input in the folder's manifest; options: with records, without labels; out: path or URI.
    """

    source: str
    files: Sequence[SourceFile]
    options: ReadOptions
    checkpoint: Checkpoint
    output: OutputFormat
    columns: OutputColumns
    out: str

    def run(self, build: Callable[[], Classifier], workers: int | None, *, restart: bool) -> None:
        """Write the files that are not there.

        Args:
            build: returns the classifier; it is called if there is something to write.
            workers: number of processes; None for one for each processor.
            restart: remove the files of an earlier prediction first.

        Raises:
            DataError: a row is invalid, or processes are killed again and again.
            StorageError: the folder holds other files or another prediction, or cannot be written.
        """
        parts = divide_files(self.files, self.options, self._choose_part_bytes())
        names = [f"part-{index:05}{self.output.suffix}" for index in range(len(parts))]
        with lock_folder(self.out):
            written = self._prepare_folder(parts, restart=restart)
            rest = {name: part for name, part in zip(names, parts, strict=True) if name not in written}
            if len(rest) < len(parts):
                logger.info(f"{self.out}: {len(parts) - len(rest):,} of {len(parts):,} files are complete")
            progress = ProgressLog()
            try:
                if rest:
                    self._label_parts(rest, build(), min(workers or count_cpus(), len(rest)), progress)
            finally:
                self._remove_temporary_files()
        *columns, last = self.columns.new
        logger.log(
            RESULT,
            f"wrote {self.out}: {progress.num_rows:,} rows in {len(rest):,} of {len(parts):,} files, "
            f"with the columns {', '.join(columns)} and {last} added",
        )

    def _choose_part_bytes(self) -> int:
        sizes = [file_size(file.path) or 0 for file in self.files]
        return max(PART_BYTES, sum(sizes) // MAX_PARTS)

    def _prepare_folder(self, parts: Sequence[SourceFile], *, restart: bool) -> set[str]:
        """Return the names of the complete files of this prediction, after the folder has its manifest."""
        manifest = {"prediction": self._identify(parts), "source": self.source, "checkpoint": self.checkpoint.path}
        path = join(self.out, MANIFEST)
        names = {name for name in list_file_sizes(self.out) if "/" not in name}
        visible = {name for name in names if not name.startswith((".", "_"))}
        if exists(path):
            try:
                earlier = json.loads(read_text(path))
            except ValueError as error:
                raise StorageError(f"{path}: cannot be read: {error}") from error
            if restart:
                for name in filter(_PART.fullmatch, names):
                    remove_file(join(self.out, name))
                names = set()
            elif earlier.get("prediction") != manifest["prediction"]:
                raise StorageError(
                    f"{self.out}: holds predictions of {earlier.get('source')} by {earlier.get('checkpoint')}, with "
                    "another content or other options; name another folder, or add --force to replace them"
                )
        elif visible:
            raise StorageError(f"{self.out}: holds other files, such as {min(visible)}; name a new or empty folder")
        write_json(path, manifest)
        self._remove_temporary_files()
        return names

    def _remove_temporary_files(self) -> None:
        """Remove what killed processes left; an object store has no temporary files."""
        folder = local_path(self.out)
        for path in folder.glob(".part-*.part") if folder is not None else ():
            path.unlink(missing_ok=True)

    def _identify(self, parts: Sequence[SourceFile]) -> str:
        """Return a digest of what decides about the content of the files."""
        columns = {name: sorted(kind.__name__ for kind in kinds) for name, kinds in self.columns.types.items()}
        content: list[Any] = [
            [self.checkpoint.manifest_sha256, *self.columns.new, self.columns.num_scores, columns],
            *([asdict(self.columns.abstention)] if self.columns.abstention else []),
            [self.options.data.model_dump(), asdict(self.output)],
            [[file.path, fingerprint(file.path)] for file in self.files],
            [[file.path, file.part and asdict(file.part)] for file in parts],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _label_parts(
        self, parts: dict[str, SourceFile], classifier: Classifier, workers: int, progress: "ProgressLog"
    ) -> None:
        """Write the files of parts, by name."""
        if workers == 1:
            for done, (name, part) in enumerate(parts.items(), start=1):
                progress.add(self.label_part(name, part, classifier), done / len(parts))
            return
        rest = dict(parts)
        attempts = 0
        while rest:
            num_before = len(rest)
            try:
                for num_rows in self._run_processes(rest, classifier, workers):
                    progress.add(num_rows, 1 - len(rest) / len(parts))
            except BrokenProcessPool as error:
                attempts = attempts + 1 if len(rest) == num_before else 1
                if attempts == MAX_ATTEMPTS:
                    raise DataError(
                        f"{self.out}: worker processes were killed {attempts} times, perhaps for lack of memory; "
                        "repeat the command, with fewer --workers"
                    ) from error
                logger.warning("a worker process was killed; its part starts again")

    def _run_processes(self, rest: dict[str, SourceFile], classifier: Classifier, workers: int) -> Iterator[int]:
        """Write parts in several processes, remove complete ones from `rest`, and yield their numbers of rows."""
        # Forked processes share the memory of the classifier.
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_prepare_process, initargs=(self, classifier, os.getpid())
        )
        try:
            running: dict[Future[int], str] = {
                pool.submit(_label_part_in_process, name, part): name for name, part in rest.items()
            }
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    num_rows = future.result()
                    del rest[running.pop(future)]
                    yield num_rows
        finally:
            pool.shutdown(cancel_futures=True)

    def label_part(self, name: str, part: SourceFile, classifier: Classifier) -> int:
        """Write the file of a part, and return its number of rows."""
        num_rows = 0
        chunks = iter_chunks([part], self.options, as_batches=self.output.suffix == ".parquet")
        with output_file(join(self.out, name)) as path, open_output(path, self.output, self.columns) as write:
            for chunk in chunks:
                write(chunk, classifier.predict_proba(chunk.texts))
                num_rows += len(chunk.texts)
        return num_rows


class ProgressLog:
    """Logs the number of rows, their rate, and the remaining time if it is known, every few seconds."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._start = self._last = time.monotonic()

    def add(self, num_rows: int, share: float | None) -> None:
        """Count rows; share: the part of the work that is done, None if unknown."""
        self.num_rows += num_rows
        now = time.monotonic()
        if now - self._last >= LOG_INTERVAL_S:
            self._last = now
            seconds = now - self._start
            rest = f", {share:.0%} done, {seconds * (1 - share) / share:,.0f} s remaining" if share else ""
            logger.info(f"labelled {self.num_rows:,} rows, {self.num_rows / seconds:,.0f} rows a second{rest}")


_process: list[tuple[ShardedPrediction, Classifier]] = []
"""Prediction and classifier of a worker process; empty in other processes."""


def _prepare_process(prediction: ShardedPrediction, classifier: Classifier, parent: int) -> None:
    """Set the worker's prediction and classifier; let it end with its parent, and at once when Ctrl-C is pressed."""
    _process[:] = [(prediction, classifier)]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _label_part_in_process(name: str, part: SourceFile) -> int:
    [(prediction, classifier)] = _process
    return prediction.label_part(name, part, classifier)
