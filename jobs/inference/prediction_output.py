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
from jobs.config.abstention import AbstentionRule
from jobs.datasets.chunks import Chunk, ColumnTypes
from jobs.datasets.formats.rows import DataError, Record
from jobs.inference.classifier import select_labels
from jobs.model.checkpoint import Checkpoint

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
    thresholds: with several labels per text, those of the labels, `(labels,)`; `label` is then the column of the labels
    that a text gets, no column has a single score, and `scores` has the labels that a text gets if num_scores is 0.
    separator: between these labels in csv and tsv; None for a JSON list. abstention: decides which texts have no label,
    with one label per text; None: all have one.
    """

    labels: Sequence[str]
    types: ColumnTypes
    label: str
    score: str
    scores: str
    num_scores: int = 0
    thresholds: np.ndarray | None = None
    separator: str | None = None
    abstention: AbstentionRule | None = None

    @property
    def new(self) -> list[str]:
        """Names of the new columns."""
        if self.thresholds is not None:
            return [self.label, self.scores]
        return [self.label, self.score, *([self.scores] if self.num_scores else [])]


def parse_output_format(out: str) -> OutputFormat:
    """Return the format that the name of an output file shows; DataError if it shows none."""
    name = out.partition("?")[0].lower()
    output = OutputFormat(PurePath(name.removesuffix(".gz")).suffix, name.endswith(".gz"))
    if output.suffix not in (COMPRESSED_SUFFIXES if output.is_gzipped else OUTPUT_SUFFIXES):
        compressed = ", ".join(COMPRESSED_SUFFIXES)
        raise DataError(f"{out}: the name must end in {', '.join(OUTPUT_SUFFIXES)}, or in {compressed} and .gz")
    return output


def choose_columns(
    checkpoint: Checkpoint, types: ColumnTypes, num_scores: int, abstention: AbstentionRule | None = None
) -> OutputColumns:
    """Return the columns of the output; a new one has a name that no column of the input has."""
    labels, data = checkpoint.labels, checkpoint.experiment.data

    def choose(name: str) -> str:
        while name in types:
            name = f"predicted_{name}"
        return name

    return OutputColumns(
        labels,
        types,
        choose("labels" if data.is_multi_label else "label"),
        choose("score"),
        choose("scores"),
        min(num_scores, len(labels)),
        checkpoint.label_thresholds if data.is_multi_label else None,
        data.label_separator,
        abstention,
    )


def _select_classes(probabilities: np.ndarray, columns: OutputColumns) -> tuple[np.ndarray, np.ndarray]:
    """Return the best class of each text, -1 for none, and the best score, also of a text without a class."""
    if columns.abstention is not None:
        return columns.abstention.apply(probabilities)
    best = probabilities.argmax(axis=1) if len(probabilities) else np.empty(0, np.int64)
    return best, probabilities[np.arange(len(best)), best]


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
    separator = columns.separator if columns.thresholds is not None else None
    writer = csv.writer(stream, delimiter=output.delimiter, lineterminator="\n")

    def write_values(rows: Iterator[list[str]]) -> None:
        if output.suffix == ".csv":
            writer.writerows(rows)
        else:  # without quotes, so a tab or a line end becomes a space
            lines = ("\t".join(_TSV_SEPARATOR.sub(" ", value) for value in values) + "\n" for values in rows)
            stream.write("".join(lines))

    def write(chunk: Chunk, probabilities: np.ndarray) -> None:
        rows = _iter_rows(chunk, probabilities, columns)
        if separator is not None:
            rows = ({**row, columns.label: separator.join(row[columns.label])} for row in rows)  # type: ignore[arg-type]
        write_values([_format_value(row.get(name)) for name in names] for row in rows)

    write_values(iter([names]))
    return write


def _iter_multi_label_rows(
    chunk: Chunk, probabilities: np.ndarray, columns: OutputColumns, thresholds: np.ndarray
) -> Iterator[Record]:
    labels, selected = columns.labels, select_labels(probabilities, thresholds)
    listed = _order_classes(probabilities, columns.num_scores).tolist() if columns.num_scores else selected
    for record, row, own, indices in zip(chunk.records, probabilities, selected, listed, strict=True):
        scores = [{"label": labels[index], "score": round(float(row[index]), 6)} for index in indices]
        yield {**record, columns.label: [labels[index] for index in own], columns.scores: scores}


def _iter_rows(chunk: Chunk, probabilities: np.ndarray, columns: OutputColumns) -> Iterator[Record]:
    if columns.thresholds is not None:
        yield from _iter_multi_label_rows(chunk, probabilities, columns, columns.thresholds)
        return
    best, scores = _select_classes(probabilities, columns)
    label_column, score_column = columns.label, columns.score
    labels: list[str | None] = [*columns.labels, None]  # that of no class is last
    rows: Iterator[dict[str, object]] = (
        {**record, label_column: labels[index], score_column: round(score, 6)}
        for record, index, score in zip(chunk.records, best.tolist(), scores.tolist(), strict=True)
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

    labels = pa.array(columns.labels, pa.string())
    arrays: list[Array]
    order = _order_classes(probabilities, columns.num_scores).tolist() if columns.num_scores else []
    if columns.thresholds is not None:
        selected = select_labels(probabilities, columns.thresholds)
        arrays = [
            pa.ListArray.from_arrays(_offsets(selected), labels.take(_concatenate(selected))),
            _build_scores(labels, probabilities, order or selected),
        ]
    else:
        best, scores = _select_classes(probabilities, columns)
        arrays = [labels.take(pa.array(best, mask=best < 0)), pa.array(scores)]
        if columns.num_scores:
            arrays.append(_build_scores(labels, probabilities, order))
    schema = batch.schema
    for name, array in zip(columns.new, arrays, strict=True):
        schema = schema.append(pa.field(name, array.type))
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema)


def _build_scores(labels: "Array", probabilities: np.ndarray, indices: Sequence[Sequence[int]]) -> "Array":
    """Return the labels and probabilities of some classes of each text as lists."""
    import pyarrow as pa

    rows = np.repeat(np.arange(len(indices)), [len(own) for own in indices])
    classes = _concatenate(indices)
    pairs = pa.StructArray.from_arrays(
        [labels.take(classes), pa.array(probabilities[rows, classes.to_numpy()])], ["label", "score"]
    )
    return pa.ListArray.from_arrays(_offsets(indices), pairs)


def _offsets(lists: Sequence[Sequence[int]]) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)], dtype=np.int32)


def _concatenate(lists: Sequence[Sequence[int]]) -> "Array":
    import pyarrow as pa

    return pa.array([index for own in lists for index in own], pa.int64())
