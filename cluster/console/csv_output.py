"""Writing of csv files."""

import csv
from typing import Any, TextIO


class _Lines:
    """Stream of a csv writer whose rows end in a carriage return and a line feed; it writes a line feed alone."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, row: str) -> None:
        self._stream.write(row[:-2] + "\n")


def create_csv_writer(stream: TextIO, delimiter: str = ",") -> Any:
    """Return a `csv.writer` whose rows end in a line feed, and whose fields with any kind of line end are quoted.

    Before Python 3.13 the module `csv` quotes a carriage return only if rows end in one, and readers then take a field
    with one for two rows.
    """
    return csv.writer(_Lines(stream), delimiter=delimiter, lineterminator="\r\n")
