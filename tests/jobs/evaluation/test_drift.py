"""What fine-tuning did: distances, surprises, neighbours; as tables, a file and a picture."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.embeddings.word2vec import VectorsError
from jobs.evaluation import drift
from jobs.model import checkpoint
from jobs.model.checkpoint import Checkpoint, InitialVectors
from jobs.model.network import Network
from jobs.training import snapshot
from jobs.training.loop import Loop
from tests.conftest import make_test_corpus

WORDS = ["good", "bad", "fine", "film", "unseen", "other"]


@pytest.fixture
def found() -> drift.Drift:
    """good turns from bad's side to fine's; film moves as its count says; unseen and other stay."""
    before = np.array([[0, 0], [0, 0], [1, 0], [1, 0.1], [0, 1], [1, 1], [0.5, -1], [-1, -1]], np.float32)
    after = before.copy()
    after[2] = [0.1, 1]
    after[5] = [1.1, 1]
    loaded = Checkpoint(Experiment(), ["a", "b"], WORDS, {"vectors": after}, {})
    return drift.compute_drift(
        loaded, InitialVectors(before[:6], np.array([0, 3, 5, 4, 6, 7]), np.array([0, 0, 1, 1, 0, 1], bool), np.ones(8))
    )


def test_distances_are_between_before_and_after(found: drift.Drift) -> None:
    """Of the words that training saw, in the vocabulary's order."""
    assert found.words == ["good", "bad", "fine", "film"]
    np.testing.assert_allclose(found.distance, [np.sqrt(0.9**2 + 1), 0, 0, 0.1], rtol=1e-5)
    assert found.counts.tolist() == [5, 4, 6, 7]
    assert found.pretrained.tolist() == [True, True, False, True]
    assert found.cosine[0] == pytest.approx(0.1 / np.sqrt(1.01), rel=1e-4)
    assert [found.words[place] for place in found.top_by_distance(2)] == ["good", "film"]


def test_neighbours_change_sides(found: drift.Drift) -> None:
    """By cosine, the word itself not among them; an unknown word is an error."""
    before, after = found.nearest_neighbours("good", 1)
    assert (before, after) == (["bad"], ["fine"])
    with pytest.raises(VectorsError, match="'nowhere' is not among the 6 words"):
        found.nearest_neighbours("nowhere")


def test_frequency_is_taken_into_account() -> None:
    """A rare word that moved like a frequent one is the surprise."""
    counts = np.array([1] * 20 + [64] * 20)
    distance = np.array([0.1] * 19 + [0.5] + [0.6] * 20, np.float32)
    expected = drift._expected(counts, distance)
    assert expected[0] == pytest.approx(0.1)
    assert expected[-1] == pytest.approx(0.6)
    assert (distance / expected).argmax() == 19


def test_a_trained_checkpoint_knows_where_it_came_from(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """Table, every word's row, a picture and the report's section come from the folder alone."""
    experiment = make_experiment(model__embedding="multichannel")
    corpus = make_test_corpus(experiment)
    loop = Loop(Network(experiment.model, corpus.vectors, 2, 0), corpus, experiment.train, 0)
    list(loop.train_epochs())
    snapshot.capture(experiment, corpus, loop, resumable=False)(tmp_path / "run" / "checkpoint")
    drift.report_drift(str(tmp_path / "run" / "checkpoint"), ["great"], 3, None)
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


def test_static_vectors_have_not_moved(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """There is nothing to show, and the checkpoint keeps nothing for it."""
    experiment = make_experiment(model__embedding="static")
    corpus = make_test_corpus(experiment)
    loop = Loop(Network(experiment.model, corpus.vectors, 2, 0), corpus, experiment.train, 0)
    next(loop.train_epochs())
    snapshot.capture(experiment, corpus, loop, resumable=False)(tmp_path / "checkpoint")
    initial = checkpoint.load_initial_vectors(str(tmp_path / "checkpoint"))
    assert initial is not None
    assert len(initial.vectors) == 0
    with pytest.raises(VectorsError, match="its word vectors are static"):
        drift.load_drift(str(tmp_path / "checkpoint"), checkpoint.load_checkpoint(str(tmp_path / "checkpoint")))


def test_an_altered_start_is_refused(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """As every other file of a checkpoint."""
    experiment = make_experiment()
    corpus = make_test_corpus(experiment)
    loop = Loop(Network(experiment.model, corpus.vectors, 2, 0), corpus, experiment.train, 0)
    next(loop.train_epochs())
    snapshot.capture(experiment, corpus, loop, resumable=False)(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "initial.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(checkpoint.CheckpointError, match=r"initial.safetensors is not what the manifest says"):
        drift.load_drift(str(tmp_path / "checkpoint"), checkpoint.load_checkpoint(str(tmp_path / "checkpoint")))


def test_words_that_are_not_trained_do_not_count() -> None:
    """With model.trained_words the figures are those of the words that could move."""
    experiment = Experiment().replace({"model.trained_words": "out-of-vocabulary"})
    before = np.ones((5, 2), np.float32)
    after = before + np.array([[0], [0], [0], [1], [0]], np.float32)
    loaded = Checkpoint(experiment, ["a", "b"], ["known", "unknown", "other"], {"vectors": after}, {})
    initial = InitialVectors(before, np.array([0, 0, 9, 2, 1]), np.array([0, 0, 1, 0, 0], bool), np.ones(5))
    assert drift.compute_drift(loaded, initial).words == ["unknown", "other"]
    nothing = InitialVectors(before, np.zeros(5, int), initial.pretrained, np.ones(5))
    with pytest.raises(VectorsError, match="no word's vector was trained"):
        drift.compute_drift(loaded, nothing)
