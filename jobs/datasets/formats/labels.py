"""Labels of rows: the same spelling of equal labels in all formats."""

import json
import math
from decimal import Decimal

from jobs.config.settings import DataSettings
from jobs.datasets.formats.label_names import spell_label
from jobs.datasets.formats.rows import DataError, Label, SourceFile

SINGLE_LABEL = "one label per text is expected; with data.multi_label=true a text may have several"


class LabelParser:
    """Labels of the values of a file's label column; each string and integer is spelled once.

    Args:
        column: its name in messages.
        data: settings, which decide whether a value has several labels.
    """

    def __init__(self, file: SourceFile, column: str, data: DataSettings) -> None:
        self._file, self._column = file, column
        self._is_multi_label, self._separator = data.is_multi_label, data.label_separator
        self._labels: dict[object, str] = {}

    def parse(self, number: int, value: object) -> Label:
        """Return the label, or labels, of the row with a number; DataError if the value is none."""
        return self._parse_several(number, value) if self._is_multi_label else self._parse_one(number, value)

    def _parse_several(self, number: int, value: object) -> tuple[str, ...]:
        """Return the labels of a list, or of a string with the separator between them; none if it is empty."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ()
        if isinstance(value, list):
            return tuple(sorted({self._parse_one(number, item) for item in value}))
        if isinstance(value, str):
            parts = [value] if self._separator is None else value.split(self._separator)
            labels = {self._parse_one(number, part) for part in parts if part.strip()}
        else:
            labels = {self._parse_one(number, value)}
        if labels and self._separator is None:
            raise DataError(
                f"{self._file.describe_position(number)}: the label in '{self._column}' is {value!r}, not a list; "
                "set data.label_separator to the text between the labels of a string"
            )
        return tuple(sorted(labels))

    def _parse_one(self, number: int, value: object) -> str:
        if type(value) is not str and type(value) is not int:
            return self._parse(number, value)
        label = self._labels.get(value)
        if label is None:
            label = self._labels[value] = self._parse(number, value)
        return label

    def _parse(self, number: int, value: object) -> str:
        location = f"{self._file.describe_position(number)}: the label in '{self._column}'"
        is_text = isinstance(value, str | Decimal)
        label = spell_label(str(value) if is_text else json.dumps(value))
        if label == "" or value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
            raise DataError(f"{location} is empty; fill it in or remove the row")
        if isinstance(value, list):
            raise DataError(f"{location} is a list, {label}; {SINGLE_LABEL}")
        if isinstance(value, dict) or (isinstance(value, float) and math.isinf(value)):
            raise DataError(f"{location} is {label}; it must be a string, a number or a boolean")
        try:
            label.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{location} contains a lone surrogate, which is not a character") from error
        return label
