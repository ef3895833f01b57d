"""Prediction for files: the label of every text of a file, of standard input, or of a single text, without torch.

finetune-cnn predict runs/tickets new.csv --out labelled.csv
"""

import codecs
import csv
import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TextIO

from cluster.console.logs import RESULT
from cluster.input_files import check_output_file, create_file, open_decompressed
from cluster.storage import is_uri, output_file
from jobs.config.formats import find_format
from jobs.config.settings import DELIMITERS, DataSettings
from jobs.datasets.formats.rows import DataError, SourceFile
from jobs.datasets.readers import choose_encoding, read_rows
from jobs.datasets.sources import has_matches, resolve_source
from jobs.inference.classifier import Classifier
from jobs.inference.projection_table import DEFAULT_TABLE_BYTES
from jobs.model.checkpoint import Checkpoint, load_checkpoint

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"
OUTPUT_SUFFIXES = (".csv", ".tsv", ".jsonl")
# With fewer texts, the projection table of the whole vocabulary takes longer than the texts.
MIN_TEXTS_FOR_TABLE = 1000

_TSV_SEPARATOR = re.compile(r"\r\n|[\t\r\n]")

Record = Mapping[str, object]
"""A row of a file: values by column."""


@dataclass(frozen=True)
class OutputFormat:
    """Format of an output file. suffix: of csv, tsv or jsonl; is_gzipped: the file is compressed."""

    suffix: str
    is_gzipped: bool = False


def predict_file(
    path: str, source: str, out: str | None, text_column: str | None, delimiter: str | None = None
) -> None:
    """Write the rows of a file with their labels and the labels' probabilities, as csv, tsv or jsonl.

    The columns of the file stay. Where one is called `label` or `score`, the new one is called `predicted_label` or
    `predicted_score`. Csv of csv keeps the delimiter.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        source: texts at a path or URI, in any format that is read; "-" for standard input, a text on each line; or a
            text.
        out: path or URI of the output file, whose suffixes decide the format; None for jsonl on standard output.
        text_column: column of the texts; by default the one that training read.
        delimiter: character between the columns; by default detected, as `data.delimiter` describes.

    Raises:
        ExperimentError: the delimiter is not a single character.
        CheckpointError: the checkpoint cannot be read.
        DataError: the source cannot be read, or `out` is not of a supported format.
        StorageError: `out` cannot be written, or is the source.
    """
    is_file = _is_file(source)
    output_format = OutputFormat(".jsonl")
    if out is not None:
        output_format = _parse_output_format(out)
        check_output_file(out, *(file.path for file in (resolve_source(source, DataSettings()) if is_file else [])))
    checkpoint = load_checkpoint(path)
    # Other files may have another delimiter than the training file.
    data = checkpoint.experiment.replace({"data.delimiter": delimiter}).data
    texts, records, files = _read_texts(source, data, text_column, is_file=is_file)
    delimiter = _choose_delimiter(files, data, records[0]) if files and output_format.suffix == ".csv" else ","
    label_column, score_column = (_choose_name(name, records) for name in ("label", "score"))
    predictions = predict(checkpoint, texts)
    rows = [
        {**record, label_column: label, score_column: round(score, 6)}
        for record, (label, score) in zip(records, predictions, strict=True)
    ]
    if out is None:
        encoding = codecs.lookup(sys.stdout.encoding or "ascii").name
        _write_rows(sys.stdout, rows, ".jsonl", ascii_only=not encoding.startswith("utf"))
        return
    with output_file(out) as part, create_file(part, compress=output_format.is_gzipped) as stream:
        # A half of a surrogate pair becomes the escape sequence that it was in JSON.
        text = io.TextIOWrapper(stream, "utf-8", errors="backslashreplace", newline="")
        _write_rows(text, rows, output_format.suffix, delimiter=delimiter)
        text.detach()
    logger.log(RESULT, f"wrote {out}: {len(rows):,} rows, with the columns {label_column} and {score_column} added")


def predict(checkpoint: Checkpoint, texts: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield the most likely label of each text, and its probability."""
    probabilities = build_classifier(checkpoint, len(texts)).predict_proba(texts)
    for row, best in zip(probabilities, probabilities.argmax(axis=1), strict=True):
        yield checkpoint.labels[best], float(row[best])


def build_classifier(checkpoint: Checkpoint, num_texts: int) -> Classifier:
    """Return the classifier for that many texts of a command, which shares no memory with other processes."""
    return Classifier(checkpoint, DEFAULT_TABLE_BYTES if num_texts >= MIN_TEXTS_FOR_TABLE else 0, share_table=False)


def _is_file(source: str) -> bool:
    """Return whether the argument of a command names a file, which may not exist; else it is a text, or "-".

    A word with a slash or a dot, such as and/or, is a text unless a file has this name.
    """
    if source == STANDARD_INPUT:
        return False
    if os.path.exists(os.path.expanduser(source)) or find_format(source) is not None or has_matches(source):
        return True
    return is_uri(source) and len(source.split()) == 1


def _find_suffix(name: str) -> str:
    return PurePath(name.partition("?")[0].lower().removesuffix(".gz")).suffix


def _parse_output_format(out: str) -> OutputFormat:
    suffix = _find_suffix(out)
    if suffix not in OUTPUT_SUFFIXES:
        raise DataError(f"{out}: the name must end in {', '.join(OUTPUT_SUFFIXES)}, or one of these and .gz")
    return OutputFormat(suffix, out.partition("?")[0].lower().endswith(".gz"))


def _read_texts(
    source: str, data: DataSettings, text_column: str | None, *, is_file: bool
) -> tuple[list[str], list[Record], Sequence[SourceFile]]:
    """Return the texts of a source, the rows with all their columns, and the files that were read."""
    if not is_file:
        texts = _read_standard_input() if source == STANDARD_INPUT else [source]
        return texts, [{"text": text} for text in texts], ()
    data = data.model_copy(update={"folder": "."} | ({"text_column": text_column} if text_column else {}))
    data = data.model_copy(update={"encoding": choose_encoding(source, data)})
    records: list[Record] = []
    try:
        rows = read_rows(source, data, labelled=False, records=records)
    except DataError as error:
        if "(data.text_column)" not in str(error):
            raise
        raise DataError(f"{error}; name it with --text-column") from error
    return rows.texts, records, rows.files


def _read_standard_input() -> list[str]:
    texts = []
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            texts.append(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise DataError(f"standard input, line {number}: is not UTF-8: {error.reason}") from error
    if not texts:
        raise DataError("standard input: has no lines; write a text on each line")
    return texts


def _choose_name(name: str, records: Sequence[Record]) -> str:
    """Return a name for a new column that no record has."""
    while any(name in record for record in records):
        name = f"predicted_{name}"
    return name


def _choose_delimiter(files: Sequence[SourceFile], data: DataSettings, record: Record) -> str:
    """Return the delimiter of the only csv file that was read, which csv output has too; a comma for other sources.

    Args:
        record: a row of the file, with all its columns.
    """
    if data.delimiter is not None or [file.format for file in files] != ["csv"]:
        return data.delimiter or ","
    with open_decompressed(files[0].path) as stream:
        header = next(filter(bytes.strip, stream)).decode("utf-8-sig", errors="replace")  # delimiters are ASCII
    counts = {delimiter: len(next(csv.reader([header], delimiter=delimiter))) for delimiter in DELIMITERS}
    return next((delimiter for delimiter, count in counts.items() if count == len(record)), ",")


def _write_rows(
    stream: TextIO, rows: Sequence[Record], suffix: str, *, ascii_only: bool = False, delimiter: str = ","
) -> None:
    if suffix == ".jsonl":
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=ascii_only) + "\n")
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
    for values in (columns, *([_format_value(row.get(column)) for column in columns] for row in rows)):
        if suffix == ".tsv":  # without quotes, so a tab or a line end becomes a space
            stream.write("\t".join(_TSV_SEPARATOR.sub(" ", value) for value in values) + "\n")
        else:
            writer.writerow(values)


def _format_value(value: object) -> str:
    """Return a value of a record as a field of csv."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
