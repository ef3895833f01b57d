"""Why a text has its scores: the phrases that decided, with their shares.

A score is a sum over filters, and with a maximum over time each filter's value is that of one window
of words. So the shares below are exact: with the bias of the class they add up to the score.
"""

from dataclasses import dataclass

import numpy as np

from jobs.datasets.tokenizer import tokenize_with_offsets
from jobs.inference.classifier import Classifier

# Of a phrase in JSON, beside its text.
PHRASE_OVERHEAD_BYTES = 80


@dataclass(frozen=True)
class Phrase:
    """Words that decided. start, end: where they stand in the text, in characters (code points)."""

    text: str
    start: int
    end: int
    share: float


@dataclass(frozen=True)
class Explanation:
    """A class's score (logit): `bias` and the phrases' shares add up to it. Phrases: the largest share first."""

    score: float
    bias: float
    phrases: list[Phrase]


class Explainer:
    """What decided about one text."""

    def __init__(self, classifier: Classifier, text: str) -> None:
        settings, filters = classifier.text_settings, classifier.weights
        places = tokenize_with_offsets(text, settings.lowercase)[: settings.max_tokens]
        values, windows = _windows(classifier, [token for token, _, _ in places])
        # A window as one number, since numpy is quicker in telling numbers apart than rows.
        width = len(places) + 1
        found, self._where = np.unique(windows[:, 0] * width + windows[:, 1], return_inverse=True)
        self._phrases = [_place(text, places, divmod(window, width)) for window in found.tolist()]
        self._values = values.astype(np.float64)
        self._output, self._bias = filters.output, filters.output_bias

    @property
    def estimated_json_bytes(self) -> int:
        """About how many bytes an explanation takes in JSON."""
        return sum(PHRASE_OVERHEAD_BYTES + len(text) for text, _, _ in self._phrases)

    def explain(self, label: int) -> Explanation:
        """Return why a class, by its number, has its score."""
        shares = np.bincount(self._where, self._values * self._output[label], len(self._phrases)).tolist()
        phrases = [Phrase(*phrase, share) for phrase, share in zip(self._phrases, shares, strict=True) if share]
        phrases.sort(key=lambda each: -abs(each.share))
        bias = float(self._bias[label])
        return Explanation(bias + sum(shares), bias, phrases)


def _windows(classifier: Classifier, tokens: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return each filter's value, `(filters,)`, and the first and last word of its window, `(filters, 2)`."""
    filters = classifier.weights
    projected = classifier.project_tokens(
        classifier.encode_tokens(tokens)
    )  # (words, columns); the empty text is a word of padding
    count, longest, total = len(projected), len(filters.filter_counts), len(filters.widths)
    sums = np.zeros((count + longest - 1, total), np.float32)  # a row for each window that starts at 1 - longest or on
    for place, (lanes, column) in enumerate(zip(filters.filter_counts, filters.column_offsets, strict=True)):
        first = longest - 1 - place
        sums[first : first + count, total - lanes :] += projected[:, column : column + lanes]
    starts = np.arange(1 - longest, count)[:, None]
    sums[starts + filters.widths <= 0] = -np.inf  # end before the text
    best = sums.argmax(axis=0)  # (filters,)
    values = np.maximum(sums[best, np.arange(total)] + filters.biases, 0)
    start = best + 1 - longest
    windows = np.stack([np.maximum(start, 0), np.minimum(start + filters.widths, count) - 1], axis=1)
    return values, windows


def _place(text: str, places: list[tuple[str, int, int]], window: tuple[int, int]) -> tuple[str, int, int]:
    """Return a window's words, and where they start and end in the text; of the empty text, nothing."""
    if not places:
        return "", 0, 0
    start, end = places[window[0]][1], places[window[1]][2]
    return text[start:end], start, end
