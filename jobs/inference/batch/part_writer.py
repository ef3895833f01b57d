"""Writer of the parts of a prediction into a folder: one part of the input becomes one file, whole or not at all."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from cluster.storage import StorageError, is_uri, join, output_file
from jobs.datasets.chunks import iter_chunks
from jobs.datasets.formats.rows import DataError, ReadOptions, SourceFile
from jobs.inference.batch.invalid_rows import InvalidRows
from jobs.inference.batch.output_columns import OutputColumns, score_chunk
from jobs.inference.classifier import Classifier
from jobs.inference.prediction_output import OutputFormat, open_output

MANIFEST = "_predictions.json"  # of the folder
INVALID_FOLDER = "_invalid"
RETRY_DELAYS_S = (1.0, 5.0, 20.0)  # after failures of a storage; its client has retried each request before

_INVALID_FILE = re.compile(r"(part-\d+)-(\d+)-of-(\d+)\.jsonl")


@dataclass(frozen=True)
class PartResult:
    """Result of a part.

    num_rows: labelled rows; num_written: those of them that were written. first_invalid: describes the first invalid
    row; messages: warnings for the user's log.
    """

    name: str
    num_rows: int
    num_written: int
    num_invalid: int = 0
    first_invalid: str = ""
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PartWriter:
    """Writer of the files of a folder, in any process that sees the input and the folder.

    options: with records, without labels; with `on_invalid_row` invalid rows are skipped and listed in INVALID_FOLDER.
    out: path or URI of the folder.
    """

    options: ReadOptions
    output: OutputFormat
    columns: OutputColumns
    out: str

    def write(self, name: str, part: SourceFile, classifier: Classifier) -> PartResult:
        """Write the file of a part, and return the numbers of its rows.

        A failure of an object store is retried, from the start of the part.

        Raises:
            DataError: the part cannot be read.
            StorageError: the file cannot be written.
        """
        messages: list[str] = []
        for delay in RETRY_DELAYS_S:
            try:
                return replace(self._write(name, part, classifier), messages=messages)
            except (DataError, StorageError) as error:
                if not (is_uri(part.path) or is_uri(self.out)) or not _is_failure_of_storage(error):
                    raise
                messages.append(f"{name} starts again in {delay:g} s: {error}")
            time.sleep(delay)
        return replace(self._write(name, part, classifier), messages=messages)

    def _write(self, name: str, part: SourceFile, classifier: Classifier) -> PartResult:
        options, num_rows, num_written = self.options, 0, 0
        with InvalidRows() as invalid, output_file(join(self.out, name)) as path:
            if options.on_invalid_row:
                options = replace(options, on_invalid_row=invalid.add)
            with open_output(path, self.output, self.columns) as write:
                for chunk in iter_chunks([part], options, as_batches=self.output.suffix == ".parquet"):
                    selected, probabilities, explanations = score_chunk(classifier, chunk, self.columns)
                    write(selected, probabilities, explanations)
                    num_rows += len(chunk.texts)
                    num_written += len(probabilities)
            if options.on_invalid_row:  # before the part has its name, so that no complete part lacks it
                counts = f"{invalid.num_rows}-of-{num_rows + invalid.num_rows}"
                invalid.write(join(self.out, INVALID_FOLDER, f"{name.partition('.')[0]}-{counts}.jsonl"))
        return PartResult(name, num_rows, num_written, invalid.num_rows, invalid.first)


def parse_counts(files: Iterable[str], parts: Iterable[str]) -> list[tuple[int, int]]:
    """Return the numbers of labelled and invalid rows of complete parts, from the names of their lists of invalid rows.

    Args:
        files: paths inside the folder; parts: names of the complete parts. One that was written without skipping
            invalid rows has no list.
    """
    complete = {name.partition(".")[0] for name in parts}
    matches = [_INVALID_FILE.fullmatch(path.removeprefix(f"{INVALID_FOLDER}/")) for path in files]
    return [(int(match[3]) - int(match[2]), int(match[2])) for match in matches if match and match[1] in complete]


def _is_failure_of_storage(error: BaseException) -> bool:
    """Return whether an error comes from a file system, and another attempt may succeed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | PermissionError):
            return True
        cause = cause.__cause__
    return False
