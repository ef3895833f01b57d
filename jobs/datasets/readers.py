"""Readers of labelled texts: files of all formats, at a path, in a folder, by a glob pattern or URI, or a list."""

import codecs
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from unicodedata import normalize

import numpy as np

from cluster import input_files
from cluster.storage import StorageError
from jobs.config.formats import FormatName
from jobs.config.settings import DataSettings, Source, describe_source
from jobs.datasets.formats.columnar.arrow import read_arrow
from jobs.datasets.formats.columnar.parquet import read_parquet
from jobs.datasets.formats.delimited import read_delimited
from jobs.datasets.formats.fasttext_lines import read_fasttext
from jobs.datasets.formats.json_lines import read_jsonl
from jobs.datasets.formats.rows import DataError as DataError
from jobs.datasets.formats.rows import Label, Reader, ReadOptions, Row, SourceFile
from jobs.datasets.formats.text_lines import read_plain
from jobs.datasets.json_digest import digest_lists
from jobs.datasets.prepared.array_file import release
from jobs.datasets.prepared.texts import Texts, concatenate_texts
from jobs.datasets.row_weights import parse_weight
from jobs.datasets.sources import locate, map_files, resolve_source

logger = logging.getLogger(__name__)

LARGE_FILE_BYTES = 20_000_000  # are read in more than a second
MIN_PREPARED_BYTES = 8_000_000  # of files whose texts are prepared for the next command
READERS: dict[FormatName, Reader] = {
    "csv": read_delimited,
    "tsv": read_delimited,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "fasttext": read_fasttext,
}
BINARY_FORMATS = ("parquet", "arrow")


@dataclass(frozen=True)
class Split:
    """Rows of one part of a dataset.

    path: name of the source in messages. line_numbers: line of each row in its file, or its number in a file without
    lines. files: the files that were read; file_indices: index in `files` of each row's file, None for the first.
    weights: of the rows in the loss; None if they are equal. label_sets: the labels of each row, sorted, if a row may
    have several; `labels` is then a text that lists them. The texts of large files are `Texts`.
    """

    texts: Sequence[str]
    labels: list[str]
    path: str = ""
    line_numbers: Sequence[int] | None = None
    files: tuple[SourceFile, ...] = ()
    file_indices: Sequence[int] | None = None
    weights: list[float] | None = None
    label_sets: list[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def digest(self) -> str:
        """Return 8 hex digits that identify the texts and labels of these rows."""
        return digest_lists(self.texts, self.labels if self.label_sets is None else self.label_sets)

    def distinct_labels(self) -> set[str]:
        """Return the labels that occur."""
        return set(self.labels) if self.label_sets is None else set().union(*self.label_sets)

    def describe_position(self, index: int) -> str:
        """Return the file and the line of a row."""
        if self.line_numbers is None:
            return self.path
        number = self.line_numbers[index]
        if not self.files:
            return f"{self.path}, line {number}"
        return self.files[self.file_indices[index] if self.file_indices else 0].describe_position(number)

    def select(self, indices: Iterable[int]) -> "Split":
        """Return the rows at some indices."""
        if isinstance(self.texts, Texts):
            texts: Sequence[str] = self.texts.select(rows := np.fromiter(indices, np.int64))
            indices = array("q", rows.tobytes())
        else:
            indices = list(indices)
            texts = [self.texts[index] for index in indices]
        lines = _select(self.line_numbers, indices) if self.line_numbers else None
        files = _select(self.file_indices, indices) if self.file_indices else None
        labels = [self.labels[index] for index in indices]
        weights = [self.weights[index] for index in indices] if self.weights else None
        sets = [self.label_sets[index] for index in indices] if self.label_sets is not None else None
        return Split(texts, labels, self.path, lines, self.files, files, weights, sets)

    def concatenate(self, other: "Split") -> "Split":
        """Return these rows, followed by those of another part; the name in messages is that of these.

        If these have weights and the others do not, the others have their mean: only the ratios of weights matter.
        """
        texts = concatenate_texts(self.texts, other.texts)
        labels = self.labels + other.labels
        weights = sets = None
        if self.weights is not None:
            weights = self.weights + (other.weights or [fmean(self.weights)] * len(other))
        if self.label_sets is not None:
            sets = self.label_sets + (other.label_sets or [])
        return Split(texts, labels, self.path, *self._concatenate_positions(other), weights, sets)

    def _concatenate_positions(
        self, other: "Split"
    ) -> tuple[Sequence[int] | None, tuple[SourceFile, ...], Sequence[int] | None]:
        """Return the line numbers, files and file indices of both parts; none unless both are of files."""
        if not self.files or not other.files or self.line_numbers is None or other.line_numbers is None:
            return None, (), None
        lines = array("q", self.line_numbers)
        lines.extend(array("q", other.line_numbers))
        is_same = self.files == other.files
        files = self.files if is_same else self.files + other.files
        if len(files) == 1:
            return lines, files, None
        start = 0 if is_same else len(self.files)
        indices = array("i", self.file_indices or bytes(4 * len(self)))
        indices.extend(start + index for index in other.file_indices or [0] * len(other))
        return lines, files, indices


def read_rows(
    source: Source,
    data: DataSettings,
    *,
    labelled: bool = True,
    weighted: bool = False,
    records: list[Mapping[str, object]] | None = None,
    cache: str | None = None,
) -> Split:
    """Return the rows of a source, in the order of its files.

    Args:
        labelled: False: the label column is not read, and every label is "".
        weighted: read the column of weights, if `data.weight_column` names one.
        records: each row is added to it with the values of all its columns.
        cache: folder in which the texts of large files are stored, prepared for the next command, instead of in memory;
            with a URI, it is a folder of this user on this machine.

    Raises:
        DataError: a file is missing, damaged or of another format, or a row has no text, label or weight, or there are
            no rows.
    """
    files = tuple(resolve_source(source, data))
    name = locate(describe_source(source), data)
    num_bytes = sum_sizes(files) or 0
    if len(files) > 1 or num_bytes > LARGE_FILE_BYTES:
        logger.info(f"reading {name}" + (f": {len(files):,} files" if len(files) > 1 else ""))
    weight_column = data.weight_column if weighted else None
    options = _choose_options(data, labelled, weight_column, with_records=records is not None)
    if cache is not None and labelled and records is None and num_bytes >= MIN_PREPARED_BYTES:
        return _read_large(files, options, weight_column, name, cache)
    texts, labels, lines, file_indices = [], [], [], []
    label_sets: list[tuple[str, ...]] = []
    weights: list[float] = []
    for file_index, file in enumerate(files):
        for line, text, label, record in iter_rows(file, options):
            texts.append(text)
            if isinstance(label, tuple):
                label_sets.append(label)
            labels.append(_name(label))
            lines.append(line)
            file_indices.append(file_index)
            if records is not None and record is not None:
                records.append(record)
            if weight_column is not None and record is not None:
                weights.append(parse_weight(file, line, record, weight_column))
    if not texts:
        raise DataError(f"{name}: has no rows")
    return Split(
        texts, labels, name, lines, files, file_indices if len(files) > 1 else None, weights or None, label_sets or None
    )


def _read_large(
    files: tuple[SourceFile, ...], options: ReadOptions, weight_column: str | None, name: str, cache: str
) -> Split:
    from jobs.datasets.prepared.large_source import prepare_rows  # imports numba, which `init` does without

    file, folder = prepare_rows(files, options, iter_rows, weight_column, cache)
    arrays = file.arrays
    if not len(arrays["lines"]):
        raise DataError(f"{name}: has no rows")
    # JSON has no tuples.
    values: list[Label] = [value if isinstance(value, str) else tuple(value) for value in file.metadata["labels"]]
    names = [_name(value) for value in values]
    indices = array("i", arrays["labels"].tobytes())
    labels = list(map(names.__getitem__, indices))
    sets = None
    if options.data.is_multi_label:
        distinct = [value for value in values if isinstance(value, tuple)]
        sets = list(map(distinct.__getitem__, indices))
    lines = array("q", arrays["lines"].tobytes())
    file_indices = array("i", arrays["file_indices"].tobytes()) if len(files) > 1 else None
    weights = arrays["weights"].tolist() if "weights" in arrays else None
    for column in ("lines", "file_indices", "labels"):
        release(arrays[column])
    return Split(Texts(file, folder), labels, name, lines, files, file_indices, weights, sets)


def _name(label: Label) -> str:
    """Return a label, or a text that lists several."""
    return label if isinstance(label, str) else ", ".join(label)


def _select(values: Sequence[int], indices: Iterable[int]) -> Sequence[int]:
    selected = (values[index] for index in indices)
    return array(values.typecode, selected) if isinstance(values, array) else list(selected)


def _choose_options(
    data: DataSettings, labelled: bool, weight_column: str | None, *, with_records: bool = False
) -> ReadOptions:
    """Return options that read the column of weights, if there is one, in records of all columns or of no other."""
    if with_records or weight_column is None:
        return ReadOptions(data, labelled, with_records=with_records)
    return ReadOptions(data, labelled, with_records=True, selected=(normalize("NFC", weight_column),))


def check_file(source: Source, data: DataSettings, *, labelled: bool = True, weighted: bool = False) -> None:
    """Check that the files of a source exist, and the columns and the first row of the first file of each path.

    Args:
        labelled, weighted: as of `read_rows`.

    Raises:
        DataError: as for `read_rows`.
    """
    weight_column = data.weight_column if weighted else None
    options = _choose_options(data, labelled, weight_column)
    for path in [source] if isinstance(source, str) else source:
        rows = ((file, row) for file in resolve_source(path, data) for row in iter_rows(file, options))
        first = next(rows, None)
        if first is None:
            raise DataError(f"{locate(path, data)}: has no rows")
        file, (line, _, _, record) = first
        if weight_column is not None and record is not None:
            parse_weight(file, line, record, weight_column)


def stream_texts(source: Source, data: DataSettings, on_bytes_read: Callable[[int], None]) -> Iterator[str]:
    """Yield the texts of a source, or the lines of a file of another format, without storing them.

    Args:
        on_bytes_read: called with the number of bytes of each read.

    Raises:
        DataError: a file is missing or damaged, or a row has no text.
    """
    options = ReadOptions(data, labelled=False, on_bytes_read=on_bytes_read)
    for file in resolve_source(source, data, any_lines=True):
        for _, text, _, _ in iter_rows(file, options):
            yield text


def file_size(source: Source, data: DataSettings) -> int | None:
    """Return the size of the files of a source in bytes, None if unknown; DataError if there are no such files."""
    return sum_sizes(resolve_source(source, data, any_lines=True))


def choose_encoding(source: Source, data: DataSettings) -> str:
    """Return utf-8 if the text files of a source are valid UTF-8, else the encoding of the settings."""
    try:
        for file in resolve_source(source, data):
            if file.format not in BINARY_FORMATS:
                _check_utf8(file.path)
    except UnicodeDecodeError:
        return data.encoding
    except (*input_files.READ_ERRORS, StorageError):
        return data.encoding  # reading the rows reports it
    return "utf-8"


def _check_utf8(path: str) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with input_files.open_decompressed(path) as stream:
        while block := stream.read(1 << 20):
            decoder.decode(block)
    decoder.decode(b"", final=True)


def sum_sizes(files: Sequence[SourceFile]) -> int | None:
    """Return the size of files in bytes, None if unknown; DataError if one cannot be opened."""
    try:
        sizes = map_files(lambda file: input_files.file_size(file.path), files)
    except StorageError as error:
        raise DataError(str(error)) from error
    return None if None in sizes else sum(size or 0 for size in sizes)


def iter_rows(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a file, or of its part; DataError if it cannot be read."""
    try:
        yield from (read_plain if file.format is None else READERS[file.format])(file, options)
    except StorageError as error:
        raise DataError(str(error)) from error
