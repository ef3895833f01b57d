"""Predictions of an evaluation row by row: the most confident errors with the phrases that explain them, and a csv."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.console.csv_output import create_csv_writer
from jobs.datasets.readers import Split
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import Explainer, Phrase

NUM_ERRORS = 10
NUM_PHRASES = 3
MAX_TEXT_CHARACTERS = 200
CSV_COLUMNS = ("line", "text", "label", "predicted", "score")


@dataclass(frozen=True)
class ConfidentError:
    """A wrong prediction. score: its probability; phrases: those that speak most for it, the first one most."""

    text: str
    label: str
    predicted: str
    score: float
    phrases: list[str]

    def to_row(self, max_characters: int = MAX_TEXT_CHARACTERS) -> Mapping[str, object]:
        """Return a row of a table, with at most that many characters of the text."""
        return {
            "text": textwrap.shorten(self.text, max_characters, placeholder=" ..."),
            "true": self.label,
            "predicted": self.predicted,
            "score": f"{self.score:.3f}",
            "because of": ", ".join(self.phrases),
        }


def find_confident_errors(
    classifier: Classifier, part: Split, labels: np.ndarray, probabilities: np.ndarray
) -> list[ConfidentError]:
    """Return the wrong predictions with the highest probabilities, the most confident first.

    Args:
        labels: class indices of the rows, `(rows,)`. probabilities: `(rows, classes)`.
    """
    best, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(best != labels)
    return [
        ConfidentError(
            part.texts[index],
            part.labels[index],
            classifier.labels[best[index]],
            float(scores[index]),
            list_phrases(classifier, part.texts[index], int(best[index])),
        )
        for index in wrong[np.argsort(-scores[wrong], kind="stable")][:NUM_ERRORS].tolist()
    ]


def write_predictions(path: Path, labels: Sequence[str], part: Split, probabilities: np.ndarray) -> None:
    """Write a csv with every row of a part, its predicted label and the label's probability.

    Rows of several files have their file in the first column.
    """
    lines: Sequence[int | str] = part.line_numbers or [""] * len(part)
    files = [[part.files[index].path] for index in part.file_indices] if part.file_indices else [[]] * len(part)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = create_csv_writer(stream)
        writer.writerow([*(["file"] if part.file_indices else []), *CSV_COLUMNS])
        for file, line, text, label, row in zip(files, lines, part.texts, part.labels, probabilities, strict=True):
            writer.writerow([*file, line, text, label, labels[row.argmax()], f"{row.max():.6f}"])


def find_phrases(classifier: Classifier, text: str, label: int) -> list[Phrase]:
    """Return the phrases with the largest positive shares of a label's score, the largest first."""
    return [phrase for phrase in Explainer(classifier, text).explain(label).phrases if phrase.share > 0][:NUM_PHRASES]


def list_phrases(classifier: Classifier, text: str, label: int) -> list[str]:
    """Return the texts of `find_phrases`, each on one line."""
    return [" ".join(phrase.text.split()) for phrase in find_phrases(classifier, text, label)]
