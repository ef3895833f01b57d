"""Rows of a dataset as the data checks read them."""

from collections.abc import Sequence

from jobs.data_checks.rows import Rows, collect_rows
from jobs.datasets.dataset import Dataset
from jobs.datasets.readers import Split
from jobs.datasets.tokenizer import DEFAULT_SETTINGS, TokenizerSettings

LabelledTexts = Sequence[tuple[str, str]]


def make_rows(
    train: LabelledTexts,
    validation: LabelledTexts = (),
    test: LabelledTexts = (),
    *,
    settings: TokenizerSettings = DEFAULT_SETTINGS,
) -> Rows:
    """Return the rows of (text, label) pairs; the lines of each part start at 2."""
    splits = [
        Split([text for text, _ in part], [label for _, label in part], f"{name}.csv", list(range(2, len(part) + 2)))
        for name, part in (("train", train), ("dev", validation), ("test", test))
    ]
    return collect_rows(Dataset(*splits, sorted({label for _, label in train}), []), settings)
