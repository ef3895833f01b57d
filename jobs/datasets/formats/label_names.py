"""Spelling of labels: equal ones are the same string in all formats and settings. Without pydantic."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence

MAX_EXACT_FLOAT = 1 << 53

_WHOLE_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]{0,15}))\.0+")


def spell_label(text: str) -> str:
    """Return a label without space at its ends and in Unicode NFC; 1.0 is 1, and True and TRUE are true."""
    label = unicodedata.normalize("NFC", text.strip())
    if label.lower() in ("true", "false"):
        return label.lower()
    match = _WHOLE_NUMBER.fullmatch(label)
    return str(int(match[1])) if match and abs(int(match[1])) < MAX_EXACT_FLOAT else label


def choose_separator(separator: str | None, labels: Sequence[str]) -> str | None:
    """Return the separator between labels in a column of csv; None for a list in JSON, if a label contains it."""
    return None if separator is None or any(separator in label for label in labels) else separator


def join_labels(labels: Sequence[str], separator: str | None) -> str:
    """Return labels as a column of csv has them; separator: as of `choose_separator`."""
    return json.dumps(labels, ensure_ascii=False) if separator is None else separator.join(labels)


def match_labels(values: Mapping[str, float], labels: Sequence[str]) -> dict[str, float]:
    """Return a setting's values by label, with its labels spelled as those of rows unless they are `labels`."""
    known = set(labels)
    return {label if label in known else spell_label(str(label)): value for label, value in values.items()}
