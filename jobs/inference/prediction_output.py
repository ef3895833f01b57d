"""Output of batch prediction: the rows of the input with labels and scores, as csv, tsv, jsonl or parquet."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from cluster.input_files import create_file
from jobs.datasets.chunks import Chunk, ColumnTypes
from jobs.datasets.formats.rows import DataError, Record

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

OUTPUT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
COMPRESSED_SUFFIXES = OUTPUT_SUFFIXES[:3]  # parquet has a compression of its own
# Of a row group of parquet, whichever is reached first.
GROUP_ROWS, GROUP_BYTES = 1 << 17, 1 << 26

_TSV_SEPARATOR = re.compile(r"\r\n|[\t\r\n]")

Write = Callable[[Chunk, np.ndarray], None]
"""Writes a chunk with the probabilities of its texts, `(texts, classes)` float32."""


@dataclass(frozen=True)
class OutputFormat:
    """Format of an output file.

    suffix: one of OUTPUT_SUFFIXES; is_gzipped: the file is compressed; delimiter: of csv; ascii_only: jsonl escapes
    other characters.
    """

    suffix: str
    is_gzipped: bool = False
    delimiter: str = ","
    ascii_only: bool = False


@dataclass(frozen=True)
class OutputColumns:
    """Columns of an output file.

    labels: the classes, in the order of the probabilities. types: those of the input's columns. label, score: names of
    the new columns; scores: that of the labels and scores of the best classes. num_scores: how many; 0: no such column.
    """

    labels: Sequence[str]
    types: ColumnTypes
    label: str
    score: str
    scores: str
    num_scores: int = 0

    @property
    def new(self) -> list[str]:
        """Names of the new columns."""
        return [self.label, self.score, *([self.scores] if self.num_scores else [])]


def parse_output_format(out: str) -> OutputFormat:
    """Return the format that the name of an output file shows; DataError if it shows none."""
    name = out.partition("?")[0].lower()
    output = OutputFormat(PurePath(name.removesuffix(".gz")).suffix, name.endswith(".gz"))
    if output.suffix not in (COMPRESSED_SUFFIXES if output.is_gzipped else OUTPUT_SUFFIXES):
        compressed = ", ".join(COMPRESSED_SUFFIXES)
        raise DataError(f"{out}: the name must end in {', '.join(OUTPUT_SUFFIXES)}, or in {compressed} and .gz")
    return output


def choose_columns(labels: Sequence[str], types: ColumnTypes, num_scores: int) -> OutputColumns:
    """Return the columns of the output; a new one has a name that no column of the input has."""

    def choose(name: str) -> str:
        while name in types:
            name = f"predicted_{name}"
        return name

    return OutputColumns(
        labels, types, choose("label"), choose("score"), choose("scores"), min(num_scores, len(labels))
    )


@contextmanager
def open_output(path: Path, output: OutputFormat, columns: OutputColumns) -> Iterator[Write]:
    """Yield a function that writes chunks to a new local file; the file is complete afterwards."""
    if output.suffix == ".parquet":
        with _open_parquet(path, columns) as write:
            yield write
        return
    with create_file(path, compress=output.is_gzipped) as stream:
        # A half of a surrogate pair becomes the escape sequence that it was in JSON.
        text = io.TextIOWrapper(stream, "utf-8", errors="backslashreplace", newline="")
        yield make_text_writer(text, output, columns)
        text.detach()


def make_text_writer(stream: TextIO, output: OutputFormat, columns: OutputColumns) -> Write:
    """Return a function that writes chunks to a stream, as csv, tsv or jsonl; the header is written at once."""
    if output.suffix == ".jsonl":
        encode = json.JSONEncoder(ensure_ascii=output.ascii_only).encode

        def write_json(chunk: Chunk, probabilities: np.ndarray) -> None:
            stream.write("".join(encode(row) + "\n" for row in _iter_rows(chunk, probabilities, columns)))

        return write_json
    names = [*columns.types, *columns.new]
    writer = csv.writer(stream, delimiter=output.delimiter, lineterminator="\n")

    def write_values(rows: Iterator[list[str]]) -> None:
        if output.suffix == ".csv":
            writer.writerows(rows)
        else:  # without quotes, so a tab or a line end becomes a space
            lines = ("\t".join(_TSV_SEPARATOR.sub(" ", value) for value in values) + "\n" for values in rows)
            stream.write("".join(lines))

    def write(chunk: Chunk, probabilities: np.ndarray) -> None:
        rows = _iter_rows(chunk, probabilities, columns)
        write_values([_format_value(row.get(name)) for name in names] for row in rows)

    write_values(iter([names]))
    return write


def _iter_rows(chunk: Chunk, probabilities: np.ndarray, columns: OutputColumns) -> Iterator[Record]:
    best = probabilities.argmax(axis=1)
    scores = probabilities[np.arange(len(best)), best].tolist()
    label_column, score_column, labels = columns.label, columns.score, columns.labels
    rows: Iterator[dict[str, object]] = (
        {**record, label_column: labels[index], score_column: round(score, 6)}
        for record, index, score in zip(chunk.records, best.tolist(), scores, strict=True)
    )
    if not columns.num_scores:
        yield from rows
        return
    order = _order_classes(probabilities, columns.num_scores)
    selected = np.take_along_axis(probabilities, order, axis=1)
    for row, indices, values in zip(rows, order.tolist(), selected.tolist(), strict=True):
        pairs = zip(indices, values, strict=True)
        row[columns.scores] = [{"label": labels[index], "score": round(value, 6)} for index, value in pairs]
        yield row


def _order_classes(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return the classes of the highest probabilities of each text, the best first, `(texts, count)` int64."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def _format_value(value: object) -> str:
    """Return a value of a record as a field of csv."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextmanager
def _open_parquet(path: Path, columns: OutputColumns) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet

    pending: list[RecordBatch] = []
    writers: list[Any] = []

    def flush() -> None:
        if not pending:
            return
        if not writers:
            writers.append(pyarrow.parquet.ParquetWriter(path, pending[0].schema, compression="zstd"))
        writers[0].write_table(pa.Table.from_batches(pending), row_group_size=GROUP_ROWS)
        pending.clear()

    def write(chunk: Chunk, probabilities: np.ndarray) -> None:
        batch = _add_columns(chunk.batch or _build_batch(chunk.records, columns.types), probabilities, columns)
        first = writers[0].schema if writers else pending[0].schema if pending else batch.schema
        if not batch.schema.equals(first):
            raise DataError(
                f"the files of the input have different columns ({', '.join(first.names)}; "
                f"{', '.join(batch.schema.names)}) or types; write parquet into a folder, or jsonl"
            )
        pending.append(batch)
        if sum(map(len, pending)) >= GROUP_ROWS or sum(batch.nbytes for batch in pending) >= GROUP_BYTES:
            flush()

    try:
        yield write
        if not writers and not pending:  # without rows
            write(Chunk([], []), np.empty((0, len(columns.labels)), np.float32))
        flush()
    finally:
        for writer in writers:
            writer.close()


def _build_batch(records: Sequence[Record], types: ColumnTypes) -> "RecordBatch":
    """Return records as a batch: numbers, booleans and strings have types of Arrow, other columns hold JSON."""
    import pyarrow as pa

    numbers: Mapping[frozenset[type], Any] = {
        frozenset([bool]): pa.bool_(),
        frozenset([int]): pa.int64(),
        frozenset([float]): pa.float64(),
        frozenset([int, float]): pa.float64(),
    }
    arrays = []
    for name, kinds in types.items():
        values = [record.get(name) for record in records]
        kind = numbers.get(frozenset(kinds - {type(None)}))
        if kind is not None:
            if kind == pa.float64():
                values = [value if value is None else float(value) for value in values]  # type: ignore[arg-type]
            arrays.append(pa.array(values, kind))
            continue
        strings = [None if value is None else _format_value(value) for value in values]
        try:
            arrays.append(pa.array(strings, pa.string()))
        except UnicodeEncodeError:  # a half of a surrogate pair
            encoded = [value and value.encode("utf-8", "backslashreplace") for value in strings]
            arrays.append(pa.array(encoded, pa.binary()).cast(pa.string()))
    return pa.RecordBatch.from_arrays(arrays, list(types))


def _add_columns(batch: "RecordBatch", probabilities: np.ndarray, columns: OutputColumns) -> "RecordBatch":
    import pyarrow as pa

    best = probabilities.argmax(axis=1) if len(probabilities) else np.empty(0, np.int64)
    labels = pa.array(columns.labels, pa.string())
    arrays: list[Array] = [labels.take(pa.array(best)), pa.array(probabilities[np.arange(len(best)), best])]
    if columns.num_scores:
        order = _order_classes(probabilities, columns.num_scores)
        selected = np.take_along_axis(probabilities, order, axis=1)
        pairs = pa.StructArray.from_arrays(
            [labels.take(pa.array(order.reshape(-1))), pa.array(selected.reshape(-1))], ["label", "score"]
        )
        offsets = np.arange(0, order.size + 1, columns.num_scores, dtype=np.int32)
        arrays.append(pa.ListArray.from_arrays(offsets, pairs))
    schema = batch.schema
    for name, array in zip(columns.new, arrays, strict=True):
        schema = schema.append(pa.field(name, array.type))
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema)
