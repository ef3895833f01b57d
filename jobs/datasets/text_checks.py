"""Checks of tokenized texts before training: texts without words, truncated texts, copies, sizes of the classes, and
scripts without spaces between words. jobs/data_checks has the slower ones.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from cluster import choose_form
from jobs.datasets.prepared.tokens import TokenizedTexts
from jobs.datasets.readers import Split

MIN_SHARE = 0.1  # of all letters, for a message
LARGE_RATIO = 10  # of the sizes of two classes
TRAINING = "training"  # name of the part


@dataclass(frozen=True)
class _Script:
    """A script. max_mean_length: mean letters of a token, above which the texts are not divided into words."""

    name: str
    pattern: re.Pattern[str]
    max_mean_length: float


# Chinese and Japanese words have two letters on average, those of the other languages four to six with their marks.
_HAN_AND_KANA = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
_SCRIPTS = (
    _Script("Chinese or Japanese", re.compile(_HAN_AND_KANA), 4),
    _Script("Thai", re.compile("[\u0e01-\u0e3a\u0e40-\u0e5b]"), 9),
    _Script("Lao", re.compile("[\u0e80-\u0eff]"), 9),
    _Script("Burmese", re.compile("[\u1000-\u109f]"), 9),
    _Script("Khmer", re.compile("[\u1780-\u17ff]"), 9),
)


def describe_texts(name: str, split: Split, tokenized: Sequence[Sequence[str]], max_tokens: int) -> list[str]:
    """Return notes on the texts of a part that have no token, and on those with more tokens than `max_tokens`.

    Of the training part also on copies and on the sizes of the classes.

    Args:
        name: of the part.
        tokenized: the tokens of the texts.
    """
    notes = []
    total = f"{len(tokenized):,} {name} texts"
    if isinstance(tokenized, TokenizedTexts):
        lengths = tokenized.lengths
    else:
        lengths = np.fromiter(map(len, tokenized), np.int64, len(tokenized))
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        verb = choose_form(len(empty), "has", "have")
        notes.append(f"{len(empty):,} of {total} {verb} no words, such as that in {split.describe_position(empty[0])}")
    num_truncated = int(np.count_nonzero(lengths > max_tokens))
    if num_truncated:
        verb = choose_form(num_truncated, "is", "are")
        notes.append(
            f"{num_truncated:,} of {total} {verb} truncated to text.max_tokens={max_tokens}; the longest has "
            f"{lengths.max():,} tokens"
        )
    if name == TRAINING:
        notes += [*_describe_copies(split, tokenized), *describe_class_sizes(split)]
    return notes


def _describe_copies(split: Split, tokenized: Sequence[Sequence[str]]) -> list[str]:
    """Return a note on texts with the same tokens as an earlier one, none without copies."""
    if isinstance(tokenized, TokenizedTexts):
        copies = tokenized.find_copies()
    else:
        copies = np.flatnonzero(find_first_copies(tokenized) != np.arange(len(tokenized)))
    if not len(copies):
        return []
    verb = choose_form(len(copies), "is a copy", "are copies")
    return [
        f"{len(copies):,} of {len(split):,} training texts {verb} of an earlier one, such as that in "
        f"{split.describe_position(copies[0])}; `finetune-cnn check-data` lists them"
    ]


def find_first_copies(tokenized: Sequence[Sequence[str]]) -> np.ndarray:
    """Return for each text the index of the first text with the same tokens, `(texts,)` int64.

    A text without tokens is the copy of no other.
    """
    seen: dict[str, int] = {}
    return np.array(
        [seen.setdefault(" ".join(tokens), index) if tokens else index for index, tokens in enumerate(tokenized)]
    )


def list_labels(split: Split) -> Iterable[str]:
    """Return the labels of all rows, one after the other."""
    return split.labels if split.label_sets is None else chain.from_iterable(split.label_sets)


def describe_class_sizes(split: Split) -> list[str]:
    """Return advice if the largest class has more than ten times the training rows of the smallest, else none."""
    counts = Counter(list_labels(split)).most_common()
    if not counts or counts[0][1] <= LARGE_RATIO * counts[-1][1]:
        return []
    (largest, most), (smallest, least) = counts[0], counts[-1]
    if split.label_sets is not None:
        return [
            f"the frequencies of the labels differ: '{largest}' has {most:,} training rows, '{smallest}' {least:,}; "
            "compare models by macro F1 too, which counts all labels equally"
        ]
    return [
        f"the sizes of the classes differ: '{largest}' has {most:,} training rows, '{smallest}' {least:,}; accuracy "
        "says little about small classes, so compare models by macro F1, which counts all classes equally "
        "(train.metric=macro_f1); train.class_weights=balanced gives them equal weight in training"
    ]


def describe_undivided_texts(counts: Iterable[tuple[str, int]]) -> str | None:
    """Return a message if texts in a script without spaces are not divided into words, else None.

    Args:
        counts: tokens of the texts with their occurrences.
    """
    counts = list(counts)
    total = sum(len(word) * count for word, count in counts)
    for script in _SCRIPTS:
        tokens = [(word, count) for word, count in counts if not word.isascii() and script.pattern.search(word)]
        number = sum(count for _, count in tokens)
        letters = sum(len(word) * count for word, count in tokens)
        if letters > MIN_SHARE * total and letters > script.max_mean_length * number:
            return (
                f"{letters / total:.0%} of the training texts are {script.name}, which has no spaces between words: a "
                f"run of letters, {letters / number:.0f} on average, counts as one word. Set text.tokenizer=unicode or "
                "divide the texts into words first, with spaces, as in the texts that the vectors were trained on"
            )
    return None
