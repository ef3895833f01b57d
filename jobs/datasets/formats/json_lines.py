"""Lines of JSON (jsonl): an object with a text and its label on each line."""

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jobs.datasets.formats.labels import LabelParser
from jobs.datasets.formats.rows import DataError, ReadOptions, Row, SourceFile, describe_names
from jobs.datasets.formats.text_lines import check_decoded, iter_lines


def read_jsonl(file: SourceFile, options: ReadOptions) -> Iterator[Row]:
    """Yield the rows of a jsonl file; blank lines are ignored.

    Raises:
        DataError: a line is not an object with a text and a label, or errors as of `iter_lines`.
    """
    columns, text_name, label_name = options.columns, options.data.text_column, options.data.label_column
    parser = LabelParser(file, label_name, options.data)
    for number, line in enumerate(iter_lines(file, options), start=file.first_number):
        if not line.strip():
            continue
        try:
            if options.on_invalid_row:
                check_decoded(file, options, number, line)
            row = _parse_object(file, number, line)
            text = _check_text(file, number, row, columns, text_name)
            label = parser.parse(number, row[columns["label_column"]]) if options.labelled else ""
        except DataError as error:
            options.reject(file, number, error)
            continue
        yield number, text, label, row if options.with_records else None


def _parse_object(file: SourceFile, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_build_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.describe_position(number)}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{file.describe_position(number)}: must be a JSON object, not a {type(row).__name__}")
    return row


def _check_text(file: SourceFile, number: int, row: dict[str, Any], columns: dict[str, str], text_name: str) -> str:
    """Return the text of a row; DataError if it has none, or lacks a column."""
    for key, name in columns.items():
        if name not in row:
            names = describe_names(list(row), name)
            raise DataError(f"{file.describe_position(number)}: has no '{name}' (data.{key}); it has {names}")
    text = row[columns["text_column"]]
    if not isinstance(text, str):
        raise DataError(f"{file.describe_position(number)}: '{text_name}' must be a string, not {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{file.describe_position(number)}: contains a lone surrogate, which is not a character"
        ) from error
    return text


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object with its keys in Unicode NFC; ValueError if one occurs twice."""
    keys = [unicodedata.normalize("NFC", key) for key, _ in pairs]
    values = {key: value for key, (_, value) in zip(keys, pairs, strict=True)}
    if len(values) < len(pairs):
        repeated = (key for key, count in Counter(keys).items() if count > 1)
        raise ValueError(f"an object has a key twice: {', '.join(repeated)}")
    return values
