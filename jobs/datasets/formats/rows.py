"""Rows of labelled texts, as the readers of all formats yield them, and the errors that name their positions."""

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster import UsageError
from jobs.config.formats import FormatName
from jobs.config.settings import DataSettings

MAX_NAMES = 20  # of columns in a message

Record = Mapping[str, object]
"""Values of a row by column, which JSON can represent."""

Label = str | tuple[str, ...]
"""Label of a row; with several labels per text, those of the row, sorted."""

Row = tuple[int, str, Label, Record | None]
"""Number of the line, or of the row in formats without lines; text; label; record if it is wanted."""


class DataError(UsageError):
    """The labelled texts are missing or invalid."""


@dataclass(frozen=True)
class FilePart:
    """A part of a file that is read by itself.

    start, end: positions in bytes, the end exclusive; in parquet, numbers of rows. num_before: number of the lines, or
    rows, before it. header: lines of the header of csv and tsv. content: the bytes of the part; None: in the file.
    """

    start: int
    end: int
    num_before: int
    header: tuple[str, ...] = ()
    content: bytes | None = None


@dataclass(frozen=True)
class SourceFile:
    """A file to read, at a path or URI.

    format: None: a text on each line. class_names: of columns of class numbers, by column. part: None: all of it.
    """

    path: str
    format: FormatName | None
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    part: FilePart | None = None

    @property
    def first_number(self) -> int:
        """Number of the first line, or row, that is read."""
        return self.part.num_before + 1 if self.part else 1

    @property
    def unit(self) -> str:
        """Unit of row numbers in messages: `line`, or `row` in formats without lines."""
        return "row" if self.format in ("parquet", "arrow") else "line"

    def describe_position(self, number: int) -> str:
        """Return the file and the number of a row, for a message."""
        return f"{self.path}, {self.unit} {number}"


@dataclass(frozen=True)
class InvalidRow:
    """A row that cannot be read. unit: of its number, as of `SourceFile.unit`."""

    path: str
    unit: str
    number: int
    reason: str


@dataclass(frozen=True)
class ReadOptions:
    """Options of a reader.

    labelled: False: the label column is not read, and every label is "". with_records: each row has a record of all
    columns. on_bytes_read: called with the number of bytes of each read. on_invalid_row: called with each invalid row,
    which is skipped; None: an invalid row is an error. selected: columns of records, of which only formats that store
    columns apart take notice; None for all.
    """

    data: DataSettings
    labelled: bool = True
    with_records: bool = False
    on_bytes_read: Callable[[int], None] | None = None
    on_invalid_row: Callable[[InvalidRow], None] | None = None
    selected: tuple[str, ...] | None = None

    @property
    def columns(self) -> dict[str, str]:
        """Names of the columns to read, by the setting that names them; the one of the texts is first."""
        columns = {"text_column": self.data.text_column}
        if self.labelled:
            columns["label_column"] = self.data.label_column
        return {key: unicodedata.normalize("NFC", name) for key, name in columns.items()}

    def reject(self, file: SourceFile, number: int, error: DataError) -> None:
        """Pass an invalid row on to `on_invalid_row`; without it the error is raised."""
        if self.on_invalid_row is None:
            raise error
        reason = str(error).removeprefix(f"{file.describe_position(number)}: ")
        self.on_invalid_row(InvalidRow(file.path, file.unit, number, reason))


Reader = Callable[[SourceFile, ReadOptions], Iterator[Row]]


def find_column(path: str, names: Sequence[str], key: str, name: str, hint: str = "") -> int:
    """Return the index of a column.

    Args:
        names: of all columns, in Unicode NFC.
        key: setting that names the column.
        hint: added to the names in the message.

    Raises:
        DataError: the column is missing or occurs twice.
    """
    if names.count(name) > 1:
        raise DataError(f"{path}: has the column '{name}' (data.{key}) twice; rename or remove one of them")
    if name not in names:
        raise DataError(f"{path}: has no column '{name}' (data.{key}); it has {describe_names(names, name, hint)}")
    return names.index(name)


def check_names_differ(path: str, names: Sequence[str]) -> None:
    """Raise a DataError if a column's name occurs twice: a record has one value for each name."""
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        columns = f"columns with the name '{name}'" if name else "columns without a name"
        raise DataError(f"{path}: has {count} {columns}; rename or remove all but one of them")


def describe_names(names: Sequence[str], name: str, hint: str = "") -> str:
    """Return names as text, with a hint, and the one that is most similar to a name that is not among them."""
    folded = {other.casefold(): other for other in names}
    similar = difflib.get_close_matches(name.casefold(), folded, n=1)
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more + hint + "".join(f"; did you mean '{folded[key]}'?" for key in similar)
