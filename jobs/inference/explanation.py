"""Explanation of a text's scores: the phrases that contribute to them, and how much.

A score is a sum over filters, and with a maximum over time each filter's value is that of one window of words. So the
contributions ("shares") of the windows are exact: together with the bias of the class they add up to the score. Those
of a linear classifier next to the network (`model.linear`) are of words and pairs of words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.datasets.formats.rows import describe_names
from jobs.datasets.tokenizer import tokenize_with_offsets
from jobs.inference.linear_kernel import FREE, PADDING, find_pair_row

if TYPE_CHECKING:
    from jobs.inference.classifier import Classifier

# Of a phrase in JSON, in addition to its text.
PHRASE_OVERHEAD_BYTES = 80


@dataclass(frozen=True)
class Phrase:
    """A phrase and its share of a score. start, end: its characters (code points) in the text."""

    text: str
    start: int
    end: int
    share: float


@dataclass(frozen=True)
class Explanation:
    """The score (logit) of a label, which is the sum of `bias` and the phrases' shares; the largest share is first.

    >>> import finetune_cnn
    >>> explanation = finetune_cnn.load("model").explain("this is a good film")
    >>> explanation.label
    'good'
    >>> explanation.phrases[0]
    Phrase(text='a good film', start=8, end=19, share=...)
    >>> shares = sum(phrase.share for phrase in explanation.phrases)
    >>> abs(explanation.bias + shares - explanation.score) < 1e-5
    True
    """

    label: str
    score: float
    bias: float
    phrases: list[Phrase]


class Explainer:
    """Explainer of the scores of one text."""

    def __init__(self, classifier: "Classifier", text: str) -> None:
        settings, filters, self._labels = classifier.text_settings, classifier.weights, classifier.labels
        tokens = tokenize_with_offsets(text, settings)[: settings.max_tokens]
        ids = classifier.encode_tokens([token for token, _, _ in tokens])
        values, windows = _find_windows(classifier, ids)
        self._linear_shares, linear_windows = _find_linear_shares(classifier, ids)
        windows = np.concatenate([windows, linear_windows])
        # A window as a single number, since numpy finds unique numbers faster than unique rows.
        base = len(tokens) + 1
        unique_windows, self._phrase_indices = np.unique(windows[:, 0] * base + windows[:, 1], return_inverse=True)
        self._phrases = [_extract_phrase(text, tokens, *divmod(window, base)) for window in unique_windows.tolist()]
        self._values = values.astype(np.float64)
        self._output, self._output_bias = filters.output, filters.output_bias + classifier.linear.bias

    @property
    def estimated_json_bytes(self) -> int:
        """Approximate size of an explanation in JSON."""
        return sum(PHRASE_OVERHEAD_BYTES + len(text) for text, _, _ in self._phrases)

    def explain(self, label: int) -> Explanation:
        """Return the explanation of the score of a class, given by its index."""
        values = np.concatenate([self._values * self._output[label], self._linear_shares[:, label]])
        shares = np.bincount(self._phrase_indices, values, len(self._phrases)).tolist()
        phrases = [Phrase(*phrase, share) for phrase, share in zip(self._phrases, shares, strict=True) if share]
        phrases.sort(key=lambda phrase: -abs(phrase.share))
        bias = float(self._output_bias[label])
        return Explanation(self._labels[label], bias + sum(shares), bias, phrases)


def explain_label(classifier: "Classifier", text: str, label: str | None) -> Explanation:
    """Return the explanation of the score of a label, None for the most likely one; ValueError if it is unknown."""
    if label is None:
        index = int(classifier.predict_logits([text])[0].argmax())
    elif label in classifier.labels:
        index = classifier.labels.index(label)
    else:
        raise ValueError(f"{label!r} is not one of the labels: {describe_names(classifier.labels, label)}")
    return Explainer(classifier, text).explain(index)


def explain_texts(classifier: "Classifier", texts: Sequence[str], classes: np.ndarray) -> list[Explanation]:
    """Return the explanations of the scores of a class of each text; classes: their indices, `(texts,)` int64."""
    return [Explainer(classifier, text).explain(index) for text, index in zip(texts, classes.tolist(), strict=True)]


def _find_linear_shares(classifier: "Classifier", ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of words and pairs of words in each class's score, `(phrases, classes)` float64, and the first
    and last token of each, `(phrases, 2)` int64."""
    linear, words = classifier.linear, ids.tolist()
    occurrences: list[tuple[int, int, int]] = []  # row, first and last token
    for index, word in enumerate(words):
        if PADDING < word < linear.num_words:
            occurrences.append((word, index, index))
            if index and words[index - 1] < linear.num_words:
                row = find_pair_row(words[index - 1], word, linear.pairs, linear.filter)
                occurrences += [(row, index - 1, index)] if row != FREE else []
    if not occurrences:
        return np.empty((0, len(classifier.labels))), np.empty((0, 2), np.int64)
    rows, *tokens = np.array(occurrences).T
    squares, weights = linear.read_rows(rows)
    total = squares.sum()
    return weights / np.sqrt(total) if total > 0 else np.zeros_like(weights), np.stack(tokens, axis=1)


def _find_windows(classifier: "Classifier", ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each filter's value, `(filters,)` float32, and its window's first and last token, `(filters, 2)` int64."""
    filters = classifier.weights
    count = len(ids)  # at least one
    values, windows = [], []
    for width, products in zip(
        filters.widths.tolist(), filters.split_columns(classifier.project_tokens(ids)), strict=True
    ):
        # A row for each window, the first of which starts at token 1 - width; products: (tokens, width, maps).
        sums = np.zeros((count + width - 1, filters.maps), np.float32)
        for position in range(width):
            first = width - 1 - position
            sums[first : first + count] += products[:, position]
        starts = sums.argmax(axis=0) + 1 - width
        values.append(sums.max(axis=0))
        windows.append(np.stack([np.maximum(starts, 0), np.minimum(starts + width, count) - 1], axis=1))
    return np.maximum(np.concatenate(values) + filters.biases, 0), np.concatenate(windows)


def _extract_phrase(text: str, tokens: list[tuple[str, int, int]], first: int, last: int) -> tuple[str, int, int]:
    """Return the phrase from the first to the last token, with its start and end; the empty text has an empty one."""
    if not tokens:
        return "", 0, 0
    # Tokens of an installed tokenizer may overlap.
    start = min(token[1] for token in tokens[first : last + 1])
    end = max(token[2] for token in tokens[first : last + 1])
    return text[start:end], start, end
