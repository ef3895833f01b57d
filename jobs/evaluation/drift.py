"""Drift of word vectors in fine-tuning: distances, and nearest neighbours before and after (Kim 2014, Table 3).

finetune-cnn vectors drift runs/tickets --words invoice parcel
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.console.csv_output import create_csv_writer
from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.tables import format_markdown_table, format_text_table
from cluster.storage import join, output_folder
from jobs.embeddings.word2vec import VectorsError
from jobs.evaluation.export import select_word_vectors
from jobs.evaluation.reports.drift_figure import draw_drift
from jobs.evaluation.reports.figures import save_figure
from jobs.evaluation.reports.report_folder import choose_report_folder
from jobs.model.checkpoint import Checkpoint, InitialVectors, load_checkpoint, load_initial_vectors

logger = logging.getLogger(__name__)

NUM_LISTED_WORDS = 10
MIN_GROUP_SIZE = 10  # words of similar frequency, for a meaningful median
NUM_NEIGHBOURS = 4  # as in Kim's table
RANDOM_NOTE = "(random initial vector)"
DECIMALS = {"moved": 3, "cosine": 3, "times expected": 2}  # of the numbers of a table
CSV_COLUMNS = ("word", "count", "pretrained", "distance", "cosine", "expected")


class NoTrainedVectors(VectorsError):
    """A checkpoint has no trained word vectors, or no initial vectors to compare them with."""


@dataclass(frozen=True)
class Drift:
    """Drift of the `n` word vectors that were trained.

    words: in the order of the vocabulary, most frequent first. counts: `(n,)` int64, occurrences in the training
    texts. pretrained: `(n,)` bool, whether the initial vector came from the vectors file. distance: `(n,)` float32,
    L2 distance between the vectors before and after training; cosine: `(n,)`, their cosine. expected: `(n,)`, median
    distance of words of similar frequency. initial_norms: `(n,)`, lengths of the vectors before training. vocabulary:
    all words of the checkpoint; before, after: their vectors, `(vocabulary, dimensions)`; from_file: `(vocabulary,)`
    bool, as `pretrained`.
    """

    words: list[str]
    counts: np.ndarray
    pretrained: np.ndarray
    distance: np.ndarray
    cosine: np.ndarray
    expected: np.ndarray
    initial_norms: np.ndarray
    vocabulary: list[str]
    before: np.ndarray
    after: np.ndarray
    from_file: np.ndarray

    def top_by_distance(self, count: int = NUM_LISTED_WORDS) -> np.ndarray:
        """Return the indices of the words that moved farthest."""
        return np.argsort(-self.distance, kind="stable")[:count]

    def top_by_relative_distance(self, count: int = NUM_LISTED_WORDS) -> np.ndarray:
        """Return the indices of the words that moved farthest for their frequency."""
        return np.argsort(-self.distance / np.maximum(self.expected, 1e-12), kind="stable")[:count]

    def nearest_neighbours(self, word: str, count: int = NUM_NEIGHBOURS) -> tuple[list[str], list[str]]:
        """Return the words nearest to a word by cosine, before and after training.

        Neighbours of a random vector, and random vectors among neighbours, are chance. So only words of the file are
        neighbours, unless there are none, and a word with a random initial vector has no neighbours before training.

        Raises:
            VectorsError: the checkpoint does not have the word.
        """
        if word not in self.vocabulary:
            raise VectorsError(f"'{word}' is not among the {len(self.vocabulary):,} words of the checkpoint")
        index = self.vocabulary.index(word)
        candidates = self.from_file if self.from_file.any() else np.ones(len(self.vocabulary), bool)
        before, after = (
            [self.vocabulary[row] for row in _find_neighbours(vectors, index, candidates, count)]
            for vectors in (self.before, self.after)
        )
        return before if self.from_file[index] else [], after

    def tables(self, words: Sequence[str], count: int = NUM_LISTED_WORDS) -> dict[str, list[dict[str, object]]]:
        """Return the rows of each table by its title, as JSON values.

        Args:
            words: their neighbours are listed; if empty, those that moved farthest for their frequency, among
                those of the file if it has any.
            count: words of each list.
        """
        order = self.top_by_relative_distance(len(self.words))
        # A file may have none of the trained words.
        usual = [index for index in order if self.pretrained[index]] or order
        selected = words or [self.words[index] for index in usual[:count]]
        neighbours = {word: self.nearest_neighbours(word) for word in selected}
        return {
            "words that moved farthest": [self._row(index) for index in self.top_by_distance(count)],
            "words that moved farthest for their frequency": [
                self._row(index) for index in self.top_by_relative_distance(count)
            ],
            "nearest neighbours before and after training": [
                {"word": word, "before": before, "after": after} for word, (before, after) in neighbours.items()
            ],
        }

    def summary(self) -> str:
        """Return the drift of all words as a sentence."""
        return (
            f"{len(self.words):,} words were trained; half of them moved by more than {np.median(self.distance):.3f}. "
            f"The median length of a vector before training is {np.median(self.initial_norms):.3f}; the median cosine "
            f"of a vector before and after training is {np.median(self.cosine):.4f}"
        )

    def _row(self, index: int) -> dict[str, object]:
        return {
            "word": self.words[index],
            "count": int(self.counts[index]),
            "from": "file" if self.pretrained[index] else "random",
            "moved": float(self.distance[index]),
            "cosine": float(self.cosine[index]),
            "times expected": float(self.distance[index] / max(self.expected[index], 1e-12)),
        }


def compute_drift(checkpoint: Checkpoint, initial: InitialVectors) -> Drift:
    """Return the drift of a checkpoint's vectors.

    Raises:
        NoTrainedVectors: no word's vector was trained.
    """
    after = select_word_vectors(checkpoint)
    before = np.concatenate([initial.vectors, after[len(initial.vectors) :]])
    trained = initial.counts > 0
    if checkpoint.experiment.model.trained_words == "out-of-vocabulary":
        trained &= ~initial.pretrained[: len(trained)]
    indices = np.flatnonzero(trained[2:])
    if not len(indices):
        raise NoTrainedVectors("no word's vector was trained: the training texts have no word that may be trained")
    ids = indices + 2
    old, new = before[ids], after[ids]
    distance = np.linalg.norm(new - old, axis=1)
    initial_norms = np.linalg.norm(old, axis=1)
    norms = initial_norms * np.linalg.norm(new, axis=1)
    return Drift(
        words=[checkpoint.words[index] for index in indices],
        counts=initial.counts[ids],
        pretrained=initial.pretrained[ids],
        distance=distance,
        cosine=(old * new).sum(axis=1) / np.maximum(norms, 1e-12),
        expected=estimate_expected_distance(initial.counts[ids], distance),
        initial_norms=initial_norms,
        vocabulary=checkpoint.words,
        before=before[2:],
        after=after[2:],
        from_file=initial.pretrained[2:],
    )


def load_drift(checkpoint: Checkpoint) -> Drift:
    """Return the drift of a checkpoint that was read from its path.

    Raises:
        NoTrainedVectors: its vectors were not trained, or it has no initial vectors.
    """
    if "vectors" not in checkpoint.weights:
        raise NoTrainedVectors(f"{checkpoint.path}: its word vectors are static, so none has moved")
    initial = load_initial_vectors(checkpoint.path)
    if initial is None:
        raise NoTrainedVectors(
            f"{checkpoint.path}: an earlier version made it, without initial vectors, or `quantize` or `push` left "
            "them out; use the checkpoint that training wrote, or train again"
        )
    return compute_drift(checkpoint, initial)


def report_drift(path: str, words: Sequence[str], count: int, out: str | None) -> None:
    """Log the tables, and write drift.csv (every word) and drift.png.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        words: their neighbours are listed; if empty, those of the words that moved farthest for their frequency.
        count: words of each list.
        out: a folder; by default that of `choose_report_folder`.

    Raises:
        StorageError: `out` is in a checkpoint.
    """
    checkpoint = load_checkpoint(path)
    target = choose_report_folder(out, path, checkpoint)
    drift = load_drift(checkpoint)
    logger.log(RESULT, drift.summary())
    tables = drift.tables(words, count)
    for title, rows in tables.items():
        logger.log(RESULT, f"\n{title}\n\n{format_text_table(_format_rows(rows))}")
    with output_folder(target) as folder:
        write_drift(folder, drift, checkpoint.experiment.name)
    logger.log(RESULT, f"\nall words: {join(target, 'drift.csv')}\nplot: {join(target, 'drift.png')}")
    names = ("farthest", "farthest_for_frequency", "neighbours")
    report_result({"path": join(target, "drift.csv"), **dict(zip(names, tables.values(), strict=True))})


def format_markdown_section(drift: Drift) -> list[str]:
    """Return the drift as Markdown lines for a report in the folder of drift.png."""
    lines = ["## What fine-tuning did to the word vectors", "", drift.summary() + ".", ""]
    for title, rows in drift.tables(()).items():
        lines += [f"{title.capitalize()}:", "", *format_markdown_table(_format_rows(rows)), ""]
    return [*lines, "![how far each word moved](drift.png)", "", "Every word: [drift.csv](drift.csv).", ""]


def _format_rows(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return the rows of a table with rounded numbers, and lists of words as text."""
    return [{name: _format_value(name, value) for name, value in row.items()} for row in rows]


def _format_value(name: str, value: object) -> object:
    if isinstance(value, list):
        return ", ".join(value) or (RANDOM_NOTE if name == "before" else "")
    return f"{value:.{DECIMALS[name]}f}" if name in DECIMALS else value


def write_drift(folder: Path, drift: Drift, name: str) -> None:
    """Write drift.csv and drift.png into a folder; `name` is the experiment's."""
    with (folder / "drift.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = create_csv_writer(stream)
        writer.writerow(CSV_COLUMNS)
        columns = (drift.words, drift.counts, drift.pretrained, drift.distance, drift.cosine, drift.expected)
        for word, count, pretrained, *numbers in zip(*columns, strict=True):
            writer.writerow([word, count, int(pretrained), *(f"{number:.6g}" for number in numbers)])
    save_figure(draw_drift(drift, name), folder / "drift.png")


def estimate_expected_distance(counts: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the distance expected of each word by its frequency, `(n,)`.

    It interpolates, on a logarithmic scale, between the medians of words whose counts are within a factor of two. The
    few most frequent words form one group.
    """
    octaves = np.floor(np.log2(counts)).astype(int)
    sizes = np.bincount(octaves)
    while sizes[:-1].any() and sizes[-1] < MIN_GROUP_SIZE:
        octaves[octaves == len(sizes) - 1] -= 1
        sizes = np.bincount(octaves)
    groups = np.unique(octaves)
    centers = [np.log(counts[octaves == group]).mean() for group in groups]
    medians = [np.median(distance[octaves == group]) for group in groups]
    return np.asarray(np.interp(np.log(counts), centers, medians))


def _find_neighbours(matrix: np.ndarray, index: int, candidates: np.ndarray, count: int) -> np.ndarray:
    """Return the candidates, `(vocabulary,)` bool, that are nearest to a word by cosine, without the word itself."""
    norms = np.linalg.norm(matrix, axis=1)
    similarity = matrix @ matrix[index] / np.maximum(norms * norms[index], 1e-12)
    rows = np.flatnonzero(candidates & (np.arange(len(matrix)) != index))
    return rows[np.argsort(-similarity[rows], kind="stable")[:count]]
