"""Rows of all parts of a dataset with their tokens, which is the input of the data checks."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jobs.config.settings import TextSettings
from jobs.datasets.dataset import Dataset
from jobs.datasets.readers import Split
from jobs.datasets.tokenization.text_tokens import tokenize_texts

TRAINING, VALIDATION, TEST = range(3)
PART_NAMES = ("training", "validation", "test")


@dataclass(frozen=True)
class Rows:
    """Rows of the training, validation and test part, one after the other.

    part: `(rows,)` int64, index into `PART_NAMES`. classes: sorted. tokens: of each text. splits: the parts.
    """

    texts: list[str]
    labels: list[str]
    classes: list[str]
    tokens: list[list[str]]
    part: np.ndarray
    splits: tuple[Split, Split, Split]

    @property
    def is_multi_label(self) -> bool:
        """Whether a row may have several labels; `labels` has then a text that lists them."""
        return self.splits[0].label_sets is not None

    def label_sets(self) -> list[tuple[str, ...]]:
        """Return the labels of each row."""
        return [own for split in self.splits for own in split.label_sets or zip(split.labels, strict=True)]

    @cached_property
    def class_sizes(self) -> np.ndarray:
        """Number of rows of each class in each part, `(classes, parts)` int64."""
        sets = self.label_sets()
        numbers = {label: number for number, label in enumerate(self.classes)}
        classes = np.fromiter((numbers[label] for own in sets for label in own), np.int64)
        cells = classes * len(PART_NAMES) + np.repeat(self.part, [len(own) for own in sets])
        return np.bincount(cells, minlength=len(numbers) * len(PART_NAMES)).reshape(-1, len(PART_NAMES))

    def __len__(self) -> int:
        return len(self.texts)

    def locate(self, index: int) -> tuple[str, int | None]:
        """Return the file of a row and its line, None if the row has none."""
        split, offset = self._find_split(index)
        file_index = split.file_indices[offset] if split.file_indices else 0
        path = split.files[file_index].path if split.files else split.path
        return path, split.line_numbers[offset] if split.line_numbers else None

    def name(self, index: int) -> str:
        """Return the part of a row, its file if the part is from several files, and its line."""
        part, (split, offset) = PART_NAMES[self.part[index]], self._find_split(index)
        if split.file_indices:
            return f"{part}, {split.describe_position(offset)}"
        return part if split.line_numbers is None else f"{part}, line {split.line_numbers[offset]}"

    def _find_split(self, index: int) -> tuple[Split, int]:
        """Return the part of a row, and the row's index in it."""
        number = self.part[index]
        return self.splits[number], index - int(np.searchsorted(self.part, number))

    def label_indices(self) -> np.ndarray:
        """Return the class of each row, `(rows,)` int64; with several labels, equal ones have the same number."""
        names = sorted(set(self.labels)) if self.is_multi_label else self.classes
        numbers = {label: number for number, label in enumerate(names)}
        return np.array([numbers[label] for label in self.labels], np.int64)


def collect_rows(dataset: Dataset, settings: TextSettings) -> Rows:
    """Return the rows of a dataset; `settings` are those of the tokenizer."""
    splits = (dataset.train, dataset.validation, dataset.test)
    texts = [text for split in splits for text in split.texts]
    labels = [label for split in splits for label in split.labels]
    part = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    return Rows(texts, labels, dataset.labels, tokenize_texts(texts, settings), part, splits)
