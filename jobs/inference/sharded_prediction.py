"""Batch prediction into a folder: files of parts of the input, written by several processes, completed after a failure.

The input is divided into parts of whole rows, in the same way every time. Each part becomes a file, part-00000.parquet
and so on, which is named when it is complete and on the disk. _predictions.json identifies the input, the checkpoint
and the options, so that the same command completes the files of a folder, and another one does not mix with them. A
command that fails before its first part is complete leaves none of its files.
"""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.durable_files import remove_new_folders
from cluster.input_files import file_size, fingerprint, is_same_file
from cluster.storage import (
    LOCK_FILE,
    StorageError,
    exists,
    join,
    list_file_sizes,
    local_path,
    lock_folder,
    parent,
    read_text,
    remove_file,
    split_query,
    write_json,
)
from jobs.datasets.chunks import divide_files
from jobs.datasets.formats.rows import SourceFile
from jobs.datasets.sources import map_files
from jobs.inference.batch.invalid_rows import RowCounts
from jobs.inference.batch.part_writer import INVALID_FOLDER, MANIFEST, PartResult, PartWriter, parse_counts
from jobs.inference.batch.progress_log import ProgressLog
from jobs.inference.projection_table import TableDtype
from jobs.model.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

PART_BYTES = 16 << 20
MAX_PARTS = 2000  # of a large input, whose parts are larger

WriteParts = Callable[[PartWriter, Mapping[str, SourceFile]], Generator[PartResult, None, None]]
"""Writes the files of parts, by name, and yields the result of each when it is complete."""

_PART = re.compile(r"part-\d+\.\w+")
_INVALID_ROWS = re.compile(rf"{INVALID_FOLDER}/.*")


def is_folder_name(out: str) -> bool:
    """Return whether the name of an output is that of a folder: it ends with a slash."""
    return split_query(out)[0].endswith("/")


def check_output_folder(out: str, files: Iterable[SourceFile]) -> None:
    """Raise a StorageError if a file of the input is in the folder of the output."""
    for folder in {parent(file.path) for file in files}:
        if is_same_file(folder, parent(join(out, MANIFEST))):
            raise StorageError(f"{out}: is the folder of the input, which is never changed; name another one")


@dataclass
class ShardedPrediction:
    """Prediction of the rows of files into a folder.

    source: name of the input in the folder's manifest; table_dtype: of the classifier's table; max_invalid: limit on
    the share of invalid rows.
    """

    source: str
    files: Sequence[SourceFile]
    writer: PartWriter
    checkpoint: Checkpoint
    table_dtype: TableDtype
    max_invalid: float = 0.0

    def run(self, write: WriteParts, *, restart: bool) -> None:
        """Write the files that are not there.

        Args:
            write: writes parts and yields their results; it is called if there is something to write.
            restart: remove the files of an earlier prediction first.

        Raises:
            DataError: a row is invalid, or more of them than the limit, or processes are killed again and again.
            StorageError: the folder holds other files or another prediction, or cannot be written.
        """
        out, writer = self.writer.out, self.writer
        named_parts = self.divide()
        names, parts = list(named_parts), list(named_parts.values())
        counts, num_written = RowCounts(self.max_invalid), 0
        with self._lock_folder(restart=restart), ProgressLog() as progress:
            written = self._prepare_folder(parts, restart=restart)
            rest = {name: part for name, part in named_parts.items() if name not in written}
            if len(rest) < len(parts):
                logger.info(f"{out}: {len(parts) - len(rest):,} of {len(parts):,} files are complete")
            for complete in parse_counts(written, set(names) & written):
                counts.add(*complete)
            try:
                results = contextlib.closing(write(writer, rest)) if rest else contextlib.nullcontext(())
                with results as iterator:
                    for done, result in enumerate(iterator, start=1):
                        for message in result.messages:
                            logger.warning(message)
                        counts.add(result.num_rows, result.num_invalid, result.first_invalid)
                        progress.add(result.num_rows, done / len(rest))
                        num_written += result.num_written
                        if counts.is_hopeless:
                            break
            finally:
                self._remove_temporary_files()
        report = join(out, INVALID_FOLDER)
        counts.check(report)
        *columns, last = writer.columns.new
        logger.log(
            RESULT,
            f"wrote {out}: {writer.columns.describe_rows(num_written, progress.num_rows)} in {len(rest):,} of "
            f"{len(parts):,} files, with the columns {', '.join(columns)} and {last} added, scored in "
            f"{self.table_dtype}{counts.describe(report)}",
        )
        files = {"files": len(parts), "written": len(rest)}
        scores = {"table_dtype": self.table_dtype}
        report_result({"path": out, "rows": num_written, "invalid": counts.num_invalid, **scores, **files})

    def divide(self) -> Mapping[str, SourceFile]:
        """Return the part of the input that each file of the output is made of, by name."""
        parts = divide_files(self.files, self.writer.options, self._choose_part_bytes())
        return {f"part-{index:05}{self.writer.output.suffix}": part for index, part in enumerate(parts)}

    def _choose_part_bytes(self) -> int:
        sizes = map_files(lambda file: file_size(file.path) or 0, self.files)
        return max(PART_BYTES, sum(sizes) // MAX_PARTS)

    @contextlib.contextmanager
    def _lock_folder(self, *, restart: bool) -> Iterator[None]:
        """Context manager: lock the folder; after an error that no complete part precedes, it is as it was before.

        Args:
            restart: the files of an earlier prediction do not come back.
        """
        out, local = self.writer.out, local_path(self.writer.out)
        earlier = set() if restart else set(list_file_sizes(out))
        with remove_new_folders(local and local / INVALID_FOLDER), lock_folder(out):
            try:
                yield
            except BaseException:
                with contextlib.suppress(StorageError):
                    self._remove_own_files(earlier)
                raise

    def _remove_own_files(self, earlier: Collection[str]) -> None:
        """Remove the files of a prediction without a complete part, except those that were there before."""
        names = set(list_file_sizes(self.writer.out))
        if any(map(_PART.fullmatch, names)):
            return
        for name in sorted(names.difference(earlier), key=lambda name: name == LOCK_FILE):  # the lock is the last one
            if name in (MANIFEST, LOCK_FILE) or _INVALID_ROWS.fullmatch(name):
                remove_file(join(self.writer.out, name))

    def _prepare_folder(self, parts: Sequence[SourceFile], *, restart: bool) -> set[str]:
        """Return the names of the folder's files, after it has its manifest and no file of another prediction."""
        manifest = {"prediction": self._identify(parts), "source": self.source, "checkpoint": self.checkpoint.path}
        out = self.writer.out
        path, names = join(out, MANIFEST), set(list_file_sizes(out))
        visible = {name for name in names if not name.startswith((".", "_")) and "/" not in name}
        if exists(path):
            try:
                earlier = json.loads(read_text(path))
            except ValueError as error:
                raise StorageError(f"{path}: cannot be read: {error}") from error
            if restart:
                for name in names:
                    if _PART.fullmatch(name) or _INVALID_ROWS.fullmatch(name):
                        remove_file(join(out, name))
                names = set()
            elif earlier.get("prediction") != manifest["prediction"]:
                raise StorageError(
                    f"{out}: holds predictions of {earlier.get('source')} by {earlier.get('checkpoint')}, with "
                    "another content or other options; name another folder, or add --force to replace them"
                )
        elif visible:
            raise StorageError(f"{out}: holds other files, such as {min(visible)}; name a new or empty folder")
        write_json(path, manifest)
        self._remove_temporary_files()
        return names

    def _remove_temporary_files(self) -> None:
        """Remove what killed processes left; an object store has no temporary files."""
        folder = local_path(self.writer.out)
        for path in folder.rglob(".part-*.part") if folder is not None else ():
            path.unlink(missing_ok=True)

    def _identify(self, parts: Sequence[SourceFile]) -> str:
        """Return a digest of what decides about the content of the files."""
        columns = self.writer.columns
        types = {name: sorted(kind.__name__ for kind in kinds) for name, kinds in columns.types.items()}
        content: list[Any] = [
            [self.checkpoint.manifest_sha256, *columns.new, columns.num_scores, types],
            *([asdict(columns.abstention)] if columns.abstention else []),
            [self.table_dtype, *([] if columns.min_scores is None else columns.min_scores.tolist())],
            [self.writer.options.data.model_dump(), asdict(self.writer.output)],
            map_files(lambda file: [file.path, fingerprint(file.path)], self.files),
            [[file.path, file.part and asdict(file.part)] for file in parts],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
