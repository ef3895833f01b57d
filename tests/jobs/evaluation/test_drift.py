"""Drift of word vectors: distances, expected distances, neighbours, tables, file and plot."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.embeddings.word2vec import VectorsError
from jobs.evaluation.drift import (
    Drift,
    compute_drift,
    estimate_expected_distance,
    format_markdown_section,
    load_drift,
    report_drift,
)
from jobs.evaluation.reports.drift_figure import draw_drift
from jobs.evaluation.reports.figures import figure_style
from jobs.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    InitialVectors,
    RunConstants,
    load_checkpoint,
    load_initial_vectors,
    save_checkpoint,
)
from tests.support.loops import train_checkpoint

WORDS = ["good", "bad", "fine", "film", "unseen", "other"]


@pytest.fixture
def drift() -> Drift:
    """`good` moves from `bad` to `fine`; `film` moves as expected of its count; `unseen` and `other` stay."""
    before = np.array([[0, 0], [0, 0], [1, 0], [1, 0.1], [0, 1], [1, 1], [0.5, -1], [-1, -1]], np.float32)
    after = before.copy()
    after[2] = [0.1, 1]
    after[5] = [1.1, 1]
    counts, pretrained = np.array([0, 3, 5, 4, 6, 7]), np.array([0, 0, 1, 1, 0, 1, 1, 1], bool)
    checkpoint = Checkpoint(Experiment(), ["a", "b"], WORDS, {"vectors": after}, {})
    return compute_drift(checkpoint, InitialVectors(before[:6], counts, pretrained, np.ones(8)))


def test_distances_are_between_before_and_after(drift: Drift) -> None:
    """Distances are of the words in the training texts, in the vocabulary's order."""
    assert drift.words == ["good", "bad", "fine", "film"]
    np.testing.assert_allclose(drift.distance, [np.sqrt(0.9**2 + 1), 0, 0, 0.1], rtol=1e-5)
    assert drift.counts.tolist() == [5, 4, 6, 7]
    assert drift.pretrained.tolist() == [True, True, False, True]
    assert drift.cosine[0] == pytest.approx(0.1 / np.sqrt(1.01), rel=1e-4)
    assert [drift.words[index] for index in drift.top_by_distance(2)] == ["good", "film"]


def test_neighbours_are_those_before_and_after(drift: Drift) -> None:
    """Neighbours are ranked by cosine, without the word itself; an unknown word is an error."""
    before, after = drift.nearest_neighbours("good", 1)
    assert (before, after) == (["bad"], ["film"])
    with pytest.raises(VectorsError, match="'nowhere' is not among the 6 words"):
        drift.nearest_neighbours("nowhere")


def test_words_with_random_vectors_are_no_neighbours(drift: Drift) -> None:
    """Their neighbours are chance too, so none are listed before training."""
    before, after = drift.nearest_neighbours("bad", 5)
    assert "fine" not in before
    assert "fine" not in after
    assert len(before) == 4
    assert drift.nearest_neighbours("fine", 1) == ([], ["good"])
    rows = {row["word"]: row for row in drift.tables(["fine", "good"])["nearest neighbours before and after training"]}
    assert rows["fine"]["before"] == []
    assert rows["fine"]["after"] == drift.nearest_neighbours("fine")[1]
    listed = [row["word"] for row in drift.tables(())["nearest neighbours before and after training"]]
    assert sorted(map(str, listed)) == ["bad", "film", "good"]


def test_a_file_may_have_no_trained_word(drift: Drift) -> None:
    """Then other words are listed, which have no neighbours before training."""
    own = replace(drift, pretrained=np.zeros(4, bool))
    rows = own.tables(())["nearest neighbours before and after training"]
    assert {row["word"] for row in rows} == {"good", "bad", "fine", "film"}
    assert "| fine | (random initial vector) | good, " in "\n".join(format_markdown_section(own))


def test_without_a_vectors_file_the_neighbours_are_those_after_training(drift: Drift) -> None:
    """All initial vectors are random with model.embedding=rand."""
    random = replace(drift, pretrained=np.zeros(4, bool), from_file=np.zeros(6, bool))
    assert random.nearest_neighbours("good", 1) == ([], ["fine"])
    assert len(random.tables(())["nearest neighbours before and after training"]) == 4


def test_the_expected_distance_depends_on_the_frequency() -> None:
    """A rare word that moved as far as frequent ones stands out."""
    counts = np.array([1] * 20 + [64] * 20)
    distance = np.array([0.1] * 19 + [0.5] + [0.6] * 20, np.float32)
    expected = estimate_expected_distance(counts, distance)
    assert expected[0] == pytest.approx(0.1)
    assert expected[-1] == pytest.approx(0.6)
    assert (distance / expected).argmax() == 19


def test_the_plot_has_every_word(drift: Drift) -> None:
    """A point for each word, by the origin of its initial vector, the expected distance, names, title and labels."""
    figure = draw_drift(drift, "tickets")
    [axes] = figure.axes
    assert figure.get_suptitle().startswith("tickets: how far fine-tuning moved the vectors of 4 words\n")
    assert axes.get_xlabel() == "occurrences in the training texts"
    assert axes.get_ylabel() == "distance moved (L2)"
    points = {str(group.get_label()): np.asarray(group.get_offsets()) for group in axes.collections}
    np.testing.assert_allclose(
        points["initial vector from the vectors file"], [[5, drift.distance[0]], [4, 0], [7, 0.1]], rtol=1e-5
    )
    np.testing.assert_allclose(points["random initial vector"], [[6, 0]])
    [expected] = axes.get_lines()
    np.testing.assert_allclose(expected.get_xdata(), [4, 5, 6, 7])
    np.testing.assert_allclose(expected.get_ydata(), drift.expected[[1, 0, 2, 3]])
    names = {text.get_text(): text.xy for text in axes.texts}
    assert names["good"] == (5, drift.distance[0])
    assert {"good", "film"} <= set(names)


def test_names_in_the_plot_overlap_neither_each_other_nor_the_legend() -> None:
    """Also with crowded and long words and words at the edge; a name is next to its word's point."""
    count = 60
    generator = np.random.default_rng(0)
    words = [
        f"{word}{number}" for number, word in enumerate(["$x^", "\u732b", "a-rather-long-word-of-a-text-" * 2] * 20)
    ]
    distance = np.sort(generator.uniform(0.2, 1.0, count)).astype(np.float32)
    counts = generator.integers(1, 4, count)
    vectors = np.ones((count, 2), np.float32)
    expected = estimate_expected_distance(counts, distance)
    drift = Drift(
        words, counts, counts > 1, distance, distance, expected, distance, words, vectors, vectors, counts > 1
    )
    with figure_style():
        figure = draw_drift(drift, "crowded")
        figure.draw_without_rendering()
    [axes], [legend] = figure.axes, figure.legends
    names = [text.get_window_extent() for text in axes.texts]
    assert len(names) > 3
    for index, box in enumerate(names):
        assert not any(box.overlaps(other) for other in names[index + 1 :])
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1
        assert not box.overlaps(legend.get_window_extent())
        point = axes.transData.transform(axes.texts[index].xy)
        assert min(abs(point[0] - box.x0), abs(point[0] - box.x1)) < 10
    assert not legend.get_window_extent().overlaps(axes.bbox)


def test_the_rows_of_a_table_have_numbers_which_are_rounded_as_text(drift: Drift) -> None:
    """`vectors drift --json` prints them."""
    [row, _] = drift.tables((), 2)["words that moved farthest"]
    assert row["moved"] == drift.distance[0]
    assert row["cosine"] == pytest.approx(drift.cosine[0])
    assert row["times expected"] == pytest.approx(drift.distance[0] / drift.expected[0])
    assert json.loads(json.dumps(row)) == row
    assert "| good | 5 | file | 1.345 | 0.100 | " in "\n".join(format_markdown_section(drift))


def test_a_checkpoints_drift_is_reported_from_its_folder(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """The report consists of tables, a csv with every word, and a plot."""
    loop = train_checkpoint(make_experiment(model__embedding="multichannel"), tmp_path / "run" / "checkpoint")
    corpus = loop.corpus
    report_drift(str(tmp_path / "run" / "checkpoint"), ["great"], 3, None)
    text = "\n".join(messages)
    assert "words were trained; half of them moved by more than" in text
    assert "farthest for their frequency" in text
    assert "great  " in text.split("nearest neighbours")[1]
    with (tmp_path / "run" / "report" / "drift.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    seen = np.flatnonzero(corpus.word_counts()[2:]) + 2
    assert [row["word"] for row in rows] == [corpus.words[number - 2] for number in seen]
    assert loop.network.vectors is not None
    distances = np.linalg.norm((loop.network.vectors.detach().numpy() - corpus.vectors)[seen], axis=1)
    np.testing.assert_allclose([float(row["distance"]) for row in rows], distances, rtol=1e-4)
    assert (tmp_path / "run" / "report" / "drift.png").read_bytes().startswith(b"\x89PNG")


def test_static_vectors_have_no_drift(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """A checkpoint with static vectors has no initial vectors."""
    train_checkpoint(make_experiment(model__embedding="static"), tmp_path / "checkpoint", epochs=1)
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint"))
    initial = load_initial_vectors(checkpoint.path)
    assert initial is not None
    assert len(initial.vectors) == 0
    with pytest.raises(VectorsError, match="its word vectors are static"):
        load_drift(checkpoint)


def test_altered_initial_vectors_are_refused(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """Altered initial vectors are an error, as any altered file of a checkpoint."""
    train_checkpoint(make_experiment(), tmp_path / "checkpoint", epochs=1)
    path = tmp_path / "checkpoint" / "initial.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"initial.safetensors does not match the manifest"):
        load_drift(load_checkpoint(str(tmp_path / "checkpoint")))


def test_in_checkpoints_of_earlier_versions_all_other_words_are_of_the_file(tmp_path: Path) -> None:
    """They say only of the words of the training texts where their vectors came from."""
    initial = InitialVectors(np.ones((4, 2), np.float32), np.ones(4, int), np.array([0, 0, 0, 1], bool), np.ones(6))
    checkpoint = Checkpoint(Experiment(), ["a"], ["one", "two", "three", "four"], {"vectors": np.ones((6, 2))}, {})
    save_checkpoint(tmp_path / "c", checkpoint, constants=RunConstants(initial, {}, None, files=None))
    loaded = load_initial_vectors(str(tmp_path / "c"))
    assert loaded is not None
    assert loaded.pretrained.tolist() == [False, False, False, True, True, True]


def test_only_words_that_may_be_trained_count() -> None:
    """With `model.trained_words` they have no pretrained vector; if there are none, the drift is an error."""
    experiment = Experiment().replace({"model.trained_words": "out-of-vocabulary"})
    before = np.ones((5, 2), np.float32)
    after = before + np.array([[0], [0], [0], [1], [0]], np.float32)
    checkpoint = Checkpoint(experiment, ["a", "b"], ["known", "unknown", "other"], {"vectors": after}, {})
    initial = InitialVectors(before, np.array([0, 0, 9, 2, 1]), np.array([0, 0, 1, 0, 0], bool), np.ones(5))
    before[2:] = [[1, 0], [3, 4], [6, 8]]
    drift = compute_drift(checkpoint, initial)
    assert drift.words == ["unknown", "other"]
    assert "The median length of a vector before training is 7.500" in drift.summary()
    unseen = InitialVectors(before, np.zeros(5, int), initial.pretrained, np.ones(5))
    with pytest.raises(VectorsError, match="no word's vector was trained"):
        compute_drift(checkpoint, unseen)
