"""Slices of an evaluation: a metric by length of the text, by share of unknown words, by class, and by any column."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from cluster.console.tables import format_markdown_table
from jobs.config.settings import DataSettings, Source
from jobs.datasets.formats.rows import describe_names
from jobs.datasets.readers import DataError, Split, read_rows
from jobs.datasets.tokenizer import UNKNOWN, Tokens
from jobs.evaluation.metrics import Interval, share_interval

SMALL_SLICE = 30  # rows; a metric of fewer is uncertain by more than 10 points in each direction
MAX_VALUES = 20  # of a column
OTHER_VALUES = "other values"
NUM_RANGES = 4
LENGTH_LIMITS = (0, 5, 10, 20, 50, 100, 200, 500)  # tokens
UNKNOWN_LIMITS = (0, 10, 25, 50)  # %
EMPTY_VALUE = "(empty)"
NO_SLICE = -1  # index of rows that are in none
TABLE_COLUMNS = ("rows", "accuracy", "micro F1", "95% confidence", "note")
PROPERTIES = WORDS, UNKNOWN_WORDS, CLASS = "words", "unknown words", "class"


@dataclass(frozen=True)
class Slice:
    """Rows with the same property. by: name of the property or column; interval: of their metric, at 95 %."""

    by: str
    value: str
    rows: int
    interval: Interval

    def to_row(self) -> Mapping[str, object]:
        """Return a row of a table, in which a small slice is marked."""
        name, metric = self.name_metric()
        return {
            self.by: self.value,
            "rows": f"{self.rows:,}",
            name: f"{metric:.3f}",
            "95% confidence": "{:.3f} to {:.3f}".format(*self.interval),
            "note": "few rows" if self.rows < SMALL_SLICE else "",
        }

    def name_metric(self) -> tuple[str, float]:
        """Return the name of the metric and its value."""
        raise NotImplementedError


@dataclass(frozen=True)
class AccuracySlice(Slice):
    """Rows with the same property, and their accuracy."""

    accuracy: float

    def name_metric(self) -> tuple[str, float]:
        """Return the name of the metric and its value."""
        return "accuracy", self.accuracy


class Group(NamedTuple):
    """Rows of a slice, at least one. by: name of the property or column; members: `(all rows,)` bool."""

    by: str
    value: str
    members: np.ndarray


def tabulate_slices(slices: Sequence[Slice]) -> list[list[Mapping[str, object]]]:
    """Return a table for each property or column, as its rows."""
    return [[item.to_row() for item in slices if item.by == by] for by in dict.fromkeys(item.by for item in slices)]


def describe_slices(metric: str) -> str:
    """Return a sentence on slices; metric: its name."""
    return f"{metric} of parts of the rows. Below {SMALL_SLICE} rows it is uncertain."


def format_slices(slices: Sequence[Slice], metric: str) -> list[str]:
    """Return the section of report.md, as lines of Markdown; metric: its name."""
    lines = ["## Slices", "", describe_slices(metric), ""]
    return lines + [line for rows in tabulate_slices(slices) for line in (*format_markdown_table(rows), "")]


def slice_by_properties(
    tokens: Tokens, labels: np.ndarray, names: Sequence[str], correct: np.ndarray
) -> list[AccuracySlice]:
    """Return the slices by length, by share of unknown words, and by class.

    Args:
        tokens: of the texts, in the vocabulary of the checkpoint.
        labels: true classes, `(rows,)` int64; names: of the classes.
        correct: `(rows,)` bool.
    """
    return _measure_accuracy([*group_by_properties(tokens), *_group(CLASS, labels, names)], correct)


def group_by_properties(tokens: Tokens) -> list[Group]:
    """Return the groups by length and by share of unknown words; tokens: in the vocabulary of the checkpoint."""
    lengths = tokens.lengths
    unknown = np.concatenate([np.zeros(1, np.int64), np.cumsum(tokens.ids == UNKNOWN)])[tokens.offsets]
    percent = 100 * np.diff(unknown) / np.maximum(lengths, 1)
    length_bins = np.searchsorted(LENGTH_LIMITS, lengths)
    length_names = ["none", *(f"{low + 1} to {high}" for low, high in pairwise(LENGTH_LIMITS))]
    unknown_names = [f"{UNKNOWN_LIMITS[0]} %", *(f"up to {limit} %" for limit in UNKNOWN_LIMITS[1:])]
    return [
        *_group(WORDS, length_bins, [*length_names, f"more than {LENGTH_LIMITS[-1]}"]),
        *_group(
            UNKNOWN_WORDS,
            np.where(lengths > 0, np.searchsorted(UNKNOWN_LIMITS, percent), NO_SLICE),
            [*unknown_names, f"more than {UNKNOWN_LIMITS[-1]} %"],
        ),
    ]


def name_column(column: str) -> str:
    """Return the name of slices by a column, which is none of a property of the texts, nor of a column of the table."""
    return f"column '{column}'" if column in (*PROPERTIES, *TABLE_COLUMNS) else column


def slice_by_column(column: str, values: Sequence[str], correct: np.ndarray) -> list[AccuracySlice]:
    """Return the slices by the values of a column, as `group_by_column` groups them."""
    return _measure_accuracy(group_by_column(column, values), correct)


def group_by_column(column: str, values: Sequence[str]) -> list[Group]:
    """Return the groups by the values of a column.

    Of many different numbers, the groups are ranges with about the same number of rows, and the rows without a value;
    of many other values, all but the most frequent are one group.
    """
    counts, by = Counter(values), name_column(column)
    if len(counts) <= MAX_VALUES:
        names = sorted(counts, key=_sort_key)
    elif (numbers := _parse_numbers([value for value in values if value != EMPTY_VALUE])) is not None:
        edges = np.unique(np.quantile(numbers, np.linspace(0, 1, NUM_RANGES + 1), method="inverted_cdf"))
        numbered = np.searchsorted(edges[1:-1], numbers)
        members = [numbers[numbered == number] for number in range(len(edges) - 1)]
        ranges = [f"{part.min():g} to {part.max():g}" if len(part) else "" for part in members]
        bins = np.full(len(values), len(ranges))
        bins[np.array(values) != EMPTY_VALUE] = numbered
        return [*_group(by, bins, [*ranges, EMPTY_VALUE])]
    else:
        names = [value for value, _ in counts.most_common(MAX_VALUES - 1)]
        names.append(f"{OTHER_VALUES} ({len(counts) - len(names):,})")
    indices = {name: index for index, name in enumerate(names)}
    return [*_group(by, np.array([indices.get(value, len(names) - 1) for value in values]), names)]


def read_columns(columns: Sequence[str], source: Source, data: DataSettings, rows: Split) -> dict[str, list[str]]:
    """Return the values of columns of some rows by name in Unicode NFC, from the files that they were read from.

    Raises:
        DataError: the files lack a column, or cannot be read.
    """
    records: list[Mapping[str, object]] = []
    everything = read_rows(source, data, records=records)
    known = dict.fromkeys(chain.from_iterable(records))  # a row of jsonl may lack some
    columns = [normalize("NFC", column) for column in columns]
    for column in columns:
        if column not in known:
            names = describe_names([*known], column)
            raise DataError(f"{rows.path}: has no column '{column}' (--by); it has {names}")
    by_position = {everything.describe_position(index): record for index, record in enumerate(records)}
    own = [by_position.get(rows.describe_position(index), {}) for index in range(len(rows))]
    return {column: [_name_value(record.get(column)) for record in own] for column in columns}


def _name_value(value: object) -> str:
    return EMPTY_VALUE if value is None or value == "" else str(value)


def _group(by: str, bins: np.ndarray, names: Sequence[str]) -> Iterator[Group]:
    """Yield the groups that have rows; bins: index of each row's name, `(rows,)`."""
    for number, name in enumerate(names):
        if (members := bins == number).any():
            yield Group(by, name, members)


def _measure_accuracy(groups: Sequence[Group], correct: np.ndarray) -> list[AccuracySlice]:
    slices = []
    for by, value, members in groups:
        rows, num_correct = int(members.sum()), int(correct[members].sum())
        slices.append(AccuracySlice(by, value, rows, share_interval(num_correct, rows), num_correct / rows))
    return slices


def _parse_numbers(values: Sequence[str]) -> np.ndarray | None:
    """Return values as numbers, None if one is not a finite number."""
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _sort_key(value: str) -> tuple[bool, float, str]:
    number = _parse_numbers([value])
    return number is None, 0.0 if number is None else float(number[0]), value
