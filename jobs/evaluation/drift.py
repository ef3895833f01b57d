"""What fine-tuning did to the word vectors: how far each moved, and who its neighbours are now (Kim 2014, Table 3).

python -m jobs vectors drift runs/tickets --words invoice parcel
"""

import csv
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.storage import absolute_path, join, output_folder
from cluster.tables import format_markdown_table, format_text_table
from jobs.embeddings.word2vec import VectorsError
from jobs.evaluation import report
from jobs.evaluation.export import select_word_vectors
from jobs.model import checkpoint
from jobs.model.checkpoint import Checkpoint, InitialVectors

logger = logging.getLogger(__name__)

NUM_LISTED_WORDS = 10  # words of a list
MIN_GROUP_SIZE = 10  # words whose median says something
NUM_NEIGHBOURS = 4  # as many as Kim shows
CSV_COLUMNS = ("word", "count", "pretrained", "distance", "cosine", "expected")


class NoTrainedVectors(VectorsError):
    """A checkpoint has no word vector that could have moved, or kept nothing to compare with."""


@dataclass(frozen=True)
class Drift:
    """How far word vectors moved in training.

    words: those of the training texts that are trained, `n` of them, the most frequent first; counts: `(n,)`
    int64; pretrained: `(n,)` bool, whether they came from the vectors file; distance: `(n,)` float32, L2, between
    the vector before and after; cosine: `(n,)` between the two; expected: `(n,)` the median distance of
    words as frequent. before, after: `(vocabulary,
    dimensions)`, of every word of the checkpoint.
    """

    words: list[str]
    counts: np.ndarray
    pretrained: np.ndarray
    distance: np.ndarray
    cosine: np.ndarray
    expected: np.ndarray
    vocabulary: list[str]
    before: np.ndarray
    after: np.ndarray

    def top_by_distance(self, most: int = NUM_LISTED_WORDS) -> np.ndarray:
        """Return the places of the words that moved farthest."""
        return np.argsort(-self.distance, kind="stable")[:most]

    def top_by_relative_distance(self, most: int = NUM_LISTED_WORDS) -> np.ndarray:
        """Return the places of the words that moved farthest for their frequency."""
        return np.argsort(-self.distance / np.maximum(self.expected, 1e-12), kind="stable")[:most]

    def nearest_neighbours(self, word: str, most: int = NUM_NEIGHBOURS) -> tuple[list[str], list[str]]:
        """Return the words nearest to a word by cosine, before and after.

        Raises:
            VectorsError: the checkpoint does not have the word.
        """
        if word not in self.vocabulary:
            raise VectorsError(f"'{word}' is not among the {len(self.vocabulary):,} words of the checkpoint")
        row = self.vocabulary.index(word)
        return _nearest(self.before, row, self.vocabulary, most), _nearest(self.after, row, self.vocabulary, most)

    def tables(self, words: Sequence[str], most: int = NUM_LISTED_WORDS) -> dict[str, list[dict[str, object]]]:
        """Return the lists as tables of titled columns; neighbours of `words`, or of the most surprising."""
        asked = words or [self.words[place] for place in self.top_by_relative_distance(most)]
        nearest = {word: self.nearest_neighbours(word) for word in asked}
        return {
            "farthest": [self._row(place) for place in self.top_by_distance(most)],
            "farthest for their frequency": [self._row(place) for place in self.top_by_relative_distance(most)],
            "nearest neighbours": [
                {"word": word, "before": ", ".join(before), "after": ", ".join(after)}
                for word, (before, after) in nearest.items()
            ],
        }

    def summary(self) -> str:
        """Return the movement of all words in a sentence."""
        length = np.linalg.norm(self.before[: len(self.words)], axis=1)
        return (
            f"{len(self.words):,} words were trained; half of them moved by more than {np.median(self.distance):.3f}, "
            f"where the median length of a vector is {np.median(length):.3f}; "
            f"median cosine of before and after {np.median(self.cosine):.4f}"
        )

    def _row(self, place: int) -> dict[str, object]:
        return {
            "word": self.words[place],
            "count": int(self.counts[place]),
            "from": "file" if self.pretrained[place] else "random",
            "moved": round(float(self.distance[place]), 3),
            "cosine": round(float(self.cosine[place]), 3),
            "times expected": round(float(self.distance[place] / max(self.expected[place], 1e-12)), 2),
        }


def compute_drift(loaded: Checkpoint, initial: InitialVectors) -> Drift:
    """Return how far a checkpoint's vectors moved.

    Raises:
        NothingTrained: no word's vector was.
    """
    after = select_word_vectors(loaded)
    before = np.concatenate([initial.vectors, after[len(initial.vectors) :]])
    trained = initial.counts > 0
    if loaded.experiment.model.trained_words == "out-of-vocabulary":
        trained &= ~initial.pretrained
    seen = np.flatnonzero(trained[2:])
    if not len(seen):
        raise NoTrainedVectors("no word's vector was trained: the training texts hold none that could be")
    old, new = before[seen + 2], after[seen + 2]
    distance = np.linalg.norm(new - old, axis=1)
    lengths = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    counts = initial.counts[seen + 2]
    return Drift(
        words=[loaded.words[place] for place in seen],
        counts=counts,
        pretrained=initial.pretrained[seen + 2],
        distance=distance,
        cosine=(old * new).sum(axis=1) / np.maximum(lengths, 1e-12),
        expected=_expected(counts, distance),
        vocabulary=loaded.words,
        before=before[2:],
        after=after[2:],
    )


def load_drift(path: str, loaded: Checkpoint) -> Drift:
    """Return the drift of a checkpoint that was read from a path.

    Raises:
        NothingTrained: its vectors were not trained, or it kept nothing to compare them with.
    """
    if "vectors" not in loaded.weights:
        raise NoTrainedVectors(f"{path}: its word vectors are static, none has moved")
    initial = checkpoint.load_initial_vectors(path)
    if initial is None:
        raise NoTrainedVectors(f"{path}: an earlier version made it, which kept nothing to compare with; train again")
    return compute_drift(loaded, initial)


def report_drift(path: str, words: Sequence[str], most: int, out: str | None) -> None:
    """Say the tables, and write drift.csv (every word) and drift.png.

    Args:
        words: whose neighbours are shown; by default those of the words that moved farthest for their frequency.
        out: a folder; by default `report` beside the checkpoint.
    """
    found = load_drift(path, checkpoint.load_checkpoint(path))
    logger.info(found.summary())
    for title, rows in found.tables(words, most).items():
        logger.info(f"\n{title}\n\n{format_text_table(rows)}")
    target = absolute_path(out) if out else join(os.path.dirname(checkpoint.resolve_checkpoint(path)), "report")
    with output_folder(target) as folder:
        write_drift(folder, found)
    logger.info(f"\nevery word: {join(target, 'drift.csv')}, picture: {join(target, 'drift.png')}")


def markdown_section(found: Drift) -> list[str]:
    """Return the drift as Markdown for the report, beside whose drift.png it stands."""
    lines = ["## What fine-tuning did to the word vectors", "", found.summary() + ".", ""]
    for title, rows in found.tables(()).items():
        lines += [f"{title.capitalize()}:", "", *format_markdown_table(rows), ""]
    return [*lines, "![how far each word moved](drift.png)", "", "Every word: [drift.csv](drift.csv).", ""]


def write_drift(folder: Path, found: Drift) -> None:
    """Write drift.csv and drift.png into a folder."""
    with (folder / "drift.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        columns = (found.words, found.counts, found.pretrained, found.distance, found.cosine, found.expected)
        for word, count, pretrained, *numbers in zip(*columns, strict=True):
            writer.writerow([word, count, int(pretrained), *(f"{number:.6g}" for number in numbers)])
    plot_drift(folder / "drift.png", found)


def plot_drift(path: Path, found: Drift) -> None:
    """Write a picture: how often each word occurs against how far it moved, and the names of some."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for chosen, label, color in ((found.pretrained, "from the vectors file", "tab:blue"),
                                 (~found.pretrained, "random at the start", "tab:orange")):  # fmt: skip
        if chosen.any():
            axes.scatter(found.counts[chosen], found.distance[chosen], s=6, alpha=0.4, color=color, label=label)
    order = np.argsort(found.counts)
    axes.plot(
        found.counts[order], found.expected[order], color="black", linewidth=1, label="expected at this frequency"
    )
    top = found.distance.max(initial=0) or 1.0
    named: list[tuple[float, float]] = []  # what is labelled, in shares of the picture, so that no two overlap
    for place in dict.fromkeys([*found.top_by_distance(), *found.top_by_relative_distance()]):
        at = (np.log(found.counts[place]) / max(np.log(found.counts.max()), 1.0), found.distance[place] / top)
        if all(abs(at[0] - x) > 0.1 or abs(at[1] - y) > 0.03 for x, y in named):
            named.append(at)
            where = (found.counts[place], found.distance[place])
            axes.annotate(found.words[place], where, (3, 3), textcoords="offset points", size=8, parse_math=False)
    axes.set(xscale="log", xlabel="occurrences in the training texts", ylabel="distance moved (L2)")
    axes.set_title("How far fine-tuning moved each word's vector")
    axes.legend(loc="upper left")
    report.save_figure(figure, path)


def _expected(counts: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the distance expected of each word by its frequency, `(n,)`.

    Medians of words within a factor of two, interpolated between on a logarithmic scale; the few most
    frequent words make one group.
    """
    octaves = np.floor(np.log2(counts)).astype(int)
    sizes = np.bincount(octaves)
    while sizes[:-1].any() and sizes[-1] < MIN_GROUP_SIZE:
        octaves[octaves == len(sizes) - 1] -= 1
        sizes = np.bincount(octaves)
    groups = np.unique(octaves)
    middles = [np.log(counts[octaves == group]).mean() for group in groups]
    medians = [np.median(distance[octaves == group]) for group in groups]
    return np.interp(np.log(counts), middles, medians)


def _nearest(matrix: np.ndarray, row: int, words: Sequence[str], most: int) -> list[str]:
    lengths = np.linalg.norm(matrix, axis=1)
    similar = matrix @ matrix[row] / np.maximum(lengths * lengths[row], 1e-12)
    similar[row] = -np.inf
    return [words[place] for place in np.argsort(-similar, kind="stable")[:most]]
