"""Output of batch prediction: the rows of the input with labels and scores, as csv, tsv, jsonl or parquet."""

import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import TextIO

import numpy as np

from cluster.console.csv_output import create_csv_writer
from cluster.input_files import create_file
from cluster.storage import split_query
from jobs.datasets.chunks import Chunk
from jobs.datasets.formats.label_names import choose_separator
from jobs.datasets.formats.rows import DataError, Record
from jobs.inference.batch.arrow_output import format_value, open_parquet
from jobs.inference.batch.output_columns import OutputColumns, Write, label_texts, order_classes
from jobs.inference.classifier import select_labels
from jobs.inference.explanation import Explanation

OUTPUT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
COMPRESSED_SUFFIXES = OUTPUT_SUFFIXES[:3]  # parquet has a compression of its own

_TSV_SEPARATOR = re.compile(r"\r\n|[\t\r\n]")


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


def parse_output_format(out: str) -> OutputFormat:
    """Return the format that the name of an output file shows; DataError if it shows none."""
    name = split_query(out)[0].lower()
    output = OutputFormat(PurePath(name.removesuffix(".gz")).suffix, name.endswith(".gz"))
    if output.suffix not in (COMPRESSED_SUFFIXES if output.is_gzipped else OUTPUT_SUFFIXES):
        compressed = ", ".join(COMPRESSED_SUFFIXES)
        raise DataError(f"{out}: the name must end in {', '.join(OUTPUT_SUFFIXES)}, or in {compressed} and .gz")
    return output


@contextmanager
def open_output(path: Path, output: OutputFormat, columns: OutputColumns) -> Iterator[Write]:
    """Yield a function that writes chunks to a new local file; the file is complete afterwards."""
    if output.suffix == ".parquet":
        with open_parquet(path, columns) as write:
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
        encoder = json.JSONEncoder(ensure_ascii=output.ascii_only, allow_nan=False)

        def encode(row: Record) -> str:
            try:
                return encoder.encode(row)
            except ValueError:  # it has infinity or NaN, which JSON lacks; those of parquet and Arrow are None already
                return encoder.encode(json.loads(json.dumps(row), parse_constant=lambda name: None))

        def write_json(chunk: Chunk, probabilities: np.ndarray, explanations: Sequence[Explanation]) -> None:
            rows = _iter_rows(chunk, probabilities, explanations, columns)
            stream.write("".join(encode(row) + "\n" for row in rows))

        return write_json
    names = [*columns.types, *columns.new]
    separator = choose_separator(columns.separator, columns.labels) if columns.thresholds is not None else None
    writer = create_csv_writer(stream, output.delimiter)

    def write_values(rows: Iterator[list[str]]) -> None:
        if output.suffix == ".csv":
            writer.writerows(rows)
        else:  # without quotes, so a tab or a line end becomes a space
            lines = ("\t".join(_TSV_SEPARATOR.sub(" ", value) for value in values) + "\n" for values in rows)
            stream.write("".join(lines))

    def write(chunk: Chunk, probabilities: np.ndarray, explanations: Sequence[Explanation]) -> None:
        rows = _iter_rows(chunk, probabilities, explanations, columns)
        if separator is not None:
            rows = ({**row, columns.label: separator.join(row[columns.label])} for row in rows)  # type: ignore[arg-type]
        write_values([format_value(row.get(name)) for name in names] for row in rows)

    write_values(iter([names]))
    return write


def _iter_rows(
    chunk: Chunk, probabilities: np.ndarray, explanations: Sequence[Explanation], columns: OutputColumns
) -> Iterator[Record]:
    records: Iterable[Record] = chunk.records
    if columns.is_selection:
        names = columns.types
        records = ({name: record[name] for name in names if name in record} for record in records)
    if columns.thresholds is not None:
        rows = _add_labels(records, probabilities, columns, columns.thresholds)
    else:
        rows = _add_label(records, probabilities, columns)
    if columns.explanation is None:
        yield from rows
        return
    for row, explanation in zip(rows, explanations, strict=True):
        yield {**row, columns.explanation: asdict(explanation)}


def _add_labels(
    records: Iterable[Record], probabilities: np.ndarray, columns: OutputColumns, thresholds: np.ndarray
) -> Iterator[Record]:
    labels, selected = columns.labels, select_labels(probabilities, thresholds)
    listed = order_classes(probabilities, columns.num_scores).tolist() if columns.num_scores else selected
    for record, row, own, indices in zip(records, probabilities, selected, listed, strict=True):
        scores = [{"label": labels[index], "score": round(float(row[index]), 6)} for index in indices]
        yield {**record, columns.label: [labels[index] for index in own], columns.scores: scores}


def _add_label(records: Iterable[Record], probabilities: np.ndarray, columns: OutputColumns) -> Iterator[Record]:
    best, scores = label_texts(probabilities, columns)
    label_column, score_column = columns.label, columns.score
    labels: list[str | None] = [*columns.labels, None]  # that of no class is last
    rows: Iterator[dict[str, object]] = (
        {**record, label_column: labels[index], score_column: round(score, 6)}
        for record, index, score in zip(records, best.tolist(), scores.tolist(), strict=True)
    )
    if not columns.num_scores:
        yield from rows
        return
    order = order_classes(probabilities, columns.num_scores)
    selected = np.take_along_axis(probabilities, order, axis=1)
    for row, indices, values in zip(rows, order.tolist(), selected.tolist(), strict=True):
        pairs = zip(indices, values, strict=True)
        row[columns.scores] = [{"label": labels[index], "score": round(value, 6)} for index, value in pairs]
        yield row
