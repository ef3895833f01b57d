"""Rows of blocks of jsonl, parsed with jiter: those of the reader of the format."""

import codecs
import unicodedata
from typing import NamedTuple

import numpy as np
from jiter import from_json

from jobs.datasets.formats.rows import ReadOptions, SourceFile


class JsonRows(NamedTuple):
    """Rows of a block. lines: their numbers. labels: distinct values; label_indices: of each row, int32."""

    lines: list[int]
    texts: list[str]
    labels: list[object]
    label_indices: np.ndarray


def parse_rows(file: SourceFile, content: bytes, options: ReadOptions) -> JsonRows | None:
    """Return the labelled rows of whole lines, the part of a file; None if one is unusual. Labels may be invalid.

    jiter accepts only lines that `jobs.datasets.formats.json_lines` accepts, except if keys are equal in Unicode NFC.
    """
    content = content.removeprefix(codecs.BOM_UTF8 if file.first_number == 1 else b"")
    lines, is_ascii = content.split(b"\n"), content.isascii() and b"\\u" not in content
    text_key, label_key = options.columns.values()
    # One thread at a time runs these loops, so labels are spelled by value, not by row.
    texts, labels = [], []
    try:
        for line in filter(None, lines):
            row = from_json(line, cache_mode="keys", catch_duplicate_keys=True)
            if not (is_ascii or (line.isascii() and b"\\u" not in line) or _has_normalized_keys(row)):
                return None
            texts.append(row[text_key])
            labels.append(row[label_key])
        indices: dict[tuple[type, object], int] = {}  # 1, 1.0 and true are equal
        label_indices = [indices.setdefault(key, len(indices)) for key in zip(map(type, labels), labels, strict=True)]
    except (ValueError, LookupError, TypeError):
        return None
    if not {*map(type, texts)} <= {str}:
        return None
    numbers = [number for number, line in enumerate(lines, start=file.first_number) if line]
    return JsonRows(numbers, texts, [value for _, value in indices], np.array(label_indices, np.int32))


def _has_normalized_keys(value: object) -> bool:
    """Return whether all keys of a JSON value are in Unicode NFC."""
    if isinstance(value, dict):
        return all(unicodedata.is_normalized("NFC", key) and _has_normalized_keys(value[key]) for key in value)
    return not isinstance(value, list) or all(map(_has_normalized_keys, value))
