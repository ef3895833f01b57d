"""Output of batch prediction in Arrow and parquet: rows of the input with the new columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import to_single_line
from jobs.datasets.chunks import Chunk, ColumnTypes
from jobs.datasets.formats.columnar.column_values import require_equal_schemas
from jobs.datasets.formats.rows import DataError, Record
from jobs.inference.batch.output_columns import OutputColumns, Write, label_texts, order_classes
from jobs.inference.classifier import select_labels
from jobs.inference.explanation import Explanation

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch

# Of a row group of parquet, whichever is reached first.
GROUP_ROWS, GROUP_BYTES = 1 << 17, 1 << 26


def format_value(value: object) -> str:
    """Return a value of a record as a field of csv."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextmanager
def open_parquet(path: Path, columns: OutputColumns) -> Iterator[Write]:
    """Yield a function that writes chunks to a new local file; the file is complete afterwards."""
    import pyarrow as pa
    import pyarrow.parquet

    pending: list[RecordBatch] = []
    writers: list[Any] = []

    def flush() -> None:
        if pending:
            with _convert_errors():
                writers[0].write_table(pa.Table.from_batches(pending), row_group_size=GROUP_ROWS)
            pending.clear()

    def write(chunk: Chunk, probabilities: np.ndarray, explanations: Sequence[Explanation]) -> None:
        batch = _build_batch(chunk.records, columns.types) if chunk.batch is None else chunk.batch
        if columns.is_selection:
            if missing := {*columns.types}.difference(batch.schema.names):
                raise DataError(f"a file of the input has no column '{min(missing)}', which --columns names")
            batch = batch.select([*columns.types])
        batch = _add_columns(batch, build_columns(probabilities, explanations, columns), columns)
        if not writers:
            with _convert_errors():
                writers.append(pyarrow.parquet.ParquetWriter(path, batch.schema, compression="zstd"))
        require_equal_schemas(writers[0].schema, batch.schema, "write parquet into a folder, or jsonl")
        pending.append(batch)
        if sum(map(len, pending)) >= GROUP_ROWS or sum(batch.nbytes for batch in pending) >= GROUP_BYTES:
            flush()

    try:
        yield write
        if not writers:  # without rows
            write(Chunk([], []), np.empty((0, len(columns.labels)), np.float32), ())
        flush()
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def _convert_errors() -> Iterator[None]:
    """Context manager: a type or value that parquet cannot hold becomes a DataError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise DataError(f"{to_single_line(error)}; leave the column out with --columns, or write jsonl") from error


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
        strings = [None if value is None else format_value(value) for value in values]
        try:
            arrays.append(pa.array(strings, pa.string()))
        except UnicodeEncodeError:  # a half of a surrogate pair
            encoded = [value and value.encode("utf-8", "backslashreplace") for value in strings]
            arrays.append(pa.array(encoded, pa.binary()).cast(pa.string()))
    return pa.RecordBatch.from_arrays(arrays, list(types))


def build_columns(
    probabilities: np.ndarray, explanations: Sequence[Explanation], columns: OutputColumns
) -> "list[Array]":
    """Return the new columns, in the order of `columns.new`, for some texts; arguments as of `Write`."""
    import pyarrow as pa

    labels = pa.array(columns.labels, pa.string())
    arrays: list[Array]
    order = order_classes(probabilities, columns.num_scores).tolist() if columns.num_scores else []
    if columns.thresholds is not None:
        selected = select_labels(probabilities, columns.thresholds)
        arrays = [
            pa.ListArray.from_arrays(_offsets(selected), labels.take(_concatenate(selected))),
            _build_scores(labels, probabilities, order or selected),
        ]
    else:
        best, scores = label_texts(probabilities, columns)
        arrays = [labels.take(pa.array(best, mask=best < 0)), pa.array(scores)]
        if columns.num_scores:
            arrays.append(_build_scores(labels, probabilities, order))
    if columns.explanation is not None:
        phrase = {"text": pa.string(), "start": pa.int32(), "end": pa.int32(), "share": pa.float64()}
        numbers = {"score": pa.float64(), "bias": pa.float64()}
        fields = {"label": pa.string(), **numbers, "phrases": pa.list_(pa.struct(phrase))}
        arrays.append(pa.array([asdict(value) for value in explanations], pa.struct(fields)))
    return arrays


def _add_columns(batch: "RecordBatch", arrays: "list[Array]", columns: OutputColumns) -> "RecordBatch":
    import pyarrow as pa

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
