"""Saved models: checkpoints that are loaded as a classifier, or as an estimator again."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import finetune_cnn
from cluster import UsageError
from jobs.estimator.text_cnn import TextCNNClassifier
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_initial_vectors, save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.toy_data import make_toy_rows

LABELS, TEXTS = (list(column) for column in zip(*make_toy_rows(120), strict=True))


@pytest.fixture(scope="module")
def model() -> TextCNNClassifier:
    small = TextCNNClassifier(embedding="rand", feature_maps=8, filter_widths=(1, 2), batch_size=10, learning_rate=0.01)
    return small.fit(TEXTS, LABELS)


def test_a_saved_model_is_a_checkpoint(model: TextCNNClassifier, tmp_path: Path) -> None:
    """The classifier of the service reads it; a folder with files is not overwritten."""
    folder = tmp_path / "model"
    model.save(str(folder))
    loaded = finetune_cnn.load(str(folder))
    assert isinstance(loaded, Classifier)
    assert loaded.predict(TEXTS) == model.predict(TEXTS).tolist()
    assert np.allclose(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS), atol=1e-3)  # int16
    assert load_initial_vectors(str(folder)) is not None
    with pytest.raises(FileExistsError, match="is not empty"):
        model.save(str(folder))
    model.save(str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "labels.json").stat().st_nlink == 1  # an edited file changes no other model


def test_paths_may_be_objects_of_pathlib(model: TextCNNClassifier, tmp_path: Path) -> None:
    folder, vectors = tmp_path / "model", tmp_path / "vectors.txt"
    model.save(folder)
    labels = model.predict(TEXTS).tolist()
    assert finetune_cnn.load(folder).predict(TEXTS) == labels
    assert TextCNNClassifier.load(folder).predict(TEXTS).tolist() == labels
    batch = finetune_cnn.BatchClassifier(folder)({"text": np.array(TEXTS, object)})
    assert batch["label"].tolist() == labels
    words = sorted({word for text in TEXTS for word in text.split()})
    vectors.write_text("".join(f"{word} {number} 1\n" for number, word in enumerate(words)))
    for other in (TextCNNClassifier(vectors), TextCNNClassifier(settings={"vectors.path": vectors})):
        experiment = other.set_params(feature_maps=2, epochs=1).fit(TEXTS, LABELS).to_experiment()
        assert experiment.vectors.path == str(vectors)


def test_a_model_is_saved_at_a_uri(model: TextCNNClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in a folder with the name of the scheme; files there are not overwritten."""
    monkeypatch.chdir(tmp_path)
    model.save(f"file://{tmp_path}/model")
    assert finetune_cnn.load(str(tmp_path / "model")).predict(TEXTS) == model.predict(TEXTS).tolist()
    with pytest.raises(FileExistsError, match="is not empty"):
        model.save(f"file://{tmp_path}/model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_checkpoint_becomes_an_estimator(model: TextCNNClassifier, tmp_path: Path) -> None:
    """It predicts, explains, continues and saves as the one that wrote it, with the same parameters."""
    model.save(str(tmp_path / "model"))
    loaded = TextCNNClassifier.load(str(tmp_path / "model"))
    assert np.array_equal(loaded.predict(TEXTS), model.predict(TEXTS))
    assert np.array_equal(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS))
    assert loaded.explain(TEXTS[0], "bad") == model.explain(TEXTS[0], "bad")
    assert loaded.classes_.tolist() == ["bad", "good"]
    assert (loaded.best_epoch_, loaded.epochs_) == (model.best_epoch_, [])
    assert loaded.to_experiment() == model.to_experiment()
    first, again = (fitted.set_params(warm_start=True).fit(TEXTS, LABELS) for fitted in (clone_fitted(model), loaded))
    assert np.array_equal(first.predict_proba(TEXTS), again.predict_proba(TEXTS))
    again.save(str(tmp_path / "again"))
    assert load_initial_vectors(str(tmp_path / "again")) is not None


def clone_fitted(model: TextCNNClassifier) -> TextCNNClassifier:
    copy: TextCNNClassifier = pickle.loads(pickle.dumps(model))
    return copy


def test_a_checkpoint_without_vectors_before_training_becomes_an_estimator(tmp_path: Path) -> None:
    """One of an earlier version, or a quantized one."""
    save_checkpoint(tmp_path / "old", checkpoint_of("rand"))
    loaded = TextCNNClassifier.load(str(tmp_path / "old"))
    loaded.save(str(tmp_path / "saved"))
    probabilities = finetune_cnn.load(str(tmp_path / "saved")).predict_proba(["word1", "word2 word3"])
    assert np.allclose(loaded.predict_proba(["word1", "word2 word3"]), probabilities, atol=1e-3)  # int16
    with pytest.raises(UsageError, match="neither a checkpoint nor a best"):
        TextCNNClassifier.load(str(tmp_path))


def test_a_loaded_classifier_explains(model: TextCNNClassifier, tmp_path: Path) -> None:
    """As the estimator, with the rounding of its table."""
    model.save(str(tmp_path / "model"))
    loaded = finetune_cnn.load(str(tmp_path / "model"))
    for label in (None, *loaded.labels):
        own, expected = loaded.explain(TEXTS[0], label), model.explain(TEXTS[0], label)
        assert isinstance(own, finetune_cnn.Explanation)
        assert own.score == pytest.approx(expected.score, abs=0.01)
        assert {phrase.text for phrase in own.phrases} == {phrase.text for phrase in expected.phrases}
    with pytest.raises(ValueError, match="'other' is not one of the labels: bad, good"):
        loaded.explain(TEXTS[0], "other")
