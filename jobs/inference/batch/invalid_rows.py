"""Invalid rows of the input of batch prediction: a file that lists them with reasons, and the limit on their share."""

import json
import shutil
import tempfile
from dataclasses import dataclass
from typing import BinaryIO

from cluster.storage import exists, output_file, remove_file, split_query
from jobs.datasets.formats.rows import DataError, InvalidRow

DEFAULT_LIMIT = 0.01  # of the share of invalid rows
MIN_ROWS = 10_000  # from which on a share above the limit ends the command before all rows are read


class InvalidRows:
    """Invalid rows of one reading of the input, collected in a temporary file.

    `write` copies them to the report; the end of the `with` statement deletes the file. first: the first one, for
    messages.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self.first = ""
        self._stream: BinaryIO | None = None

    def __enter__(self) -> "InvalidRows":
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def add(self, row: InvalidRow) -> None:
        """Add a row."""
        if self._stream is None:
            self._stream = tempfile.TemporaryFile()  # noqa: SIM115  # __exit__ closes it
            self.first = f"{row.path}, {row.unit} {row.number}: {row.reason}"
        self.num_rows += 1
        # In ASCII: a reason may hold a half of a surrogate pair.
        line = json.dumps({"file": row.path, row.unit: row.number, "reason": row.reason})
        self._stream.write(line.encode() + b"\n")

    def write(self, path: str) -> None:
        """Write the rows to a path or URI, an object of JSON on each line; StorageError if that fails."""
        with output_file(path) as part, part.open("wb") as target:
            if self._stream is not None:
                self._stream.seek(0)
                shutil.copyfileobj(self._stream, target)

    def write_or_remove(self, path: str) -> None:
        """Write the rows to a path or URI; without any, there is no file afterwards."""
        if self.num_rows:
            self.write(path)
        elif exists(path):
            remove_file(path)


@dataclass
class RowCounts:
    """Numbers of labelled and of invalid rows, and the limit on the share of the invalid ones, from 0 to 1."""

    limit: float
    num_labelled: int = 0
    num_invalid: int = 0
    first_invalid: str = ""

    def add(self, num_labelled: int, num_invalid: int, first_invalid: str = "") -> None:
        """Count rows."""
        self.num_labelled += num_labelled
        self.num_invalid += num_invalid
        self.first_invalid = self.first_invalid or first_invalid

    @property
    def share(self) -> float:
        """Share of the invalid rows."""
        return self.num_invalid / max(1, self.num_labelled + self.num_invalid)

    @property
    def is_hopeless(self) -> bool:
        """True if so many of the first rows are invalid that the others are not read."""
        return self.share > self.limit and self.num_labelled + self.num_invalid >= MIN_ROWS

    def check(self, report: str) -> None:
        """Raise a DataError if the share is above the limit; report: where the invalid rows are listed."""
        if self.share > self.limit:
            total = self.num_labelled + self.num_invalid
            first = f", the first is {self.first_invalid}" if self.first_invalid else ""
            raise DataError(
                f"{self.num_invalid:,} of {total:,} rows are invalid, {self.share:.2%}, which is above the limit of "
                f"{self.limit:.2%} (--max-invalid): {report} lists them{first}"
            )

    def describe(self, report: str) -> str:
        """Return a part of the final message; empty without invalid rows."""
        return f"; {self.num_invalid:,} invalid rows are in {report}" if self.num_invalid else ""


def ignore_invalid_row(row: InvalidRow) -> None:
    """Skip an invalid row that another reading of the file reports."""


def report_path(out: str) -> str:
    """Return the path or URI of the invalid rows of an output file."""
    path, query = split_query(out)
    return f"{path}.invalid.jsonl{query}"
