"""Saved models: checkpoints that are loaded as a classifier, or as an estimator again."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

import finetune_cnn
from cluster import UsageError
from jobs.config.settings import Embedding
from jobs.estimator.text_cnn import TextCNNClassifier
from jobs.estimator.training import load_trained, restore_vectors
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint, load_initial_vectors, save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.stored_checkpoints import MakeFolder, change_file
from tests.support.toy_data import make_toy_rows, write_word2vec

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
    experiment = TextCNNClassifier(vectors, feature_maps=2, epochs=1).fit(TEXTS, LABELS).to_experiment()
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


@pytest.mark.parametrize("kind", ["pickle", "URI"])
def test_no_vectors_are_read_that_only_a_checkpoint_names(kind: str, tmp_path: Path) -> None:
    """It may come from anywhere: reading a pickle would run its code. Settings of the machine are not used either."""
    harmed, vectors = tmp_path / "harmed", tmp_path / "vectors.kv"
    vectors.write_bytes(pickle.dumps(MakeFolder(harmed)))
    fit_with_vectors(tmp_path / "words.bin").save(tmp_path / "model")
    path = str(vectors) if kind == "pickle" else "http://127.0.0.1:9/vectors.bin"
    hostile = {
        "vectors.path": path, "vectors.allow_pickle": True, "vectors.format": "keyed-vectors",
        "train.start_from": str(tmp_path), "train.workers": 9, "train.cpus_per_worker": 10**6, "train.use_gpu": True,
        "data.train": path, "data.out_of_scope": path, "mlflow": "http://127.0.0.1:9", "storage": str(harmed),
    }  # fmt: skip
    experiment = load_checkpoint(str(tmp_path / "model")).experiment.replace(hostile)
    change_file(tmp_path / "model", "experiment.yaml", experiment.to_yaml().encode())
    loaded = TextCNNClassifier.load(tmp_path / "model").set_params(epochs=1)
    assert loaded.vectors is None
    assert loaded.settings == {"vectors.dimensions": 12, "train.temperature": 1.0}
    for warm_start in (True, False):
        loaded.set_params(warm_start=warm_start).fit(TEXTS, LABELS)
    clone(loaded).train_loop_config(TEXTS, LABELS)
    assert not harmed.exists()
    with pytest.raises(UsageError, match=r"set vectors\.allow_pickle=true if you trust the file"):
        clone(loaded).set_params(vectors=str(vectors)).fit(TEXTS, LABELS)


@pytest.mark.parametrize("embedding", ["static", "non-static", "multichannel"])
def test_a_loaded_model_continues_without_its_vectors_file(embedding: Embedding, tmp_path: Path) -> None:
    """Its words have their vectors, also those that only the file had; so it predicts the same before the first step.

    The initial vectors of the new model are those of the file, with their lengths.
    """
    model, path = fit_with_vectors(tmp_path / "words.bin", embedding), str(tmp_path / "again")
    model.save(tmp_path / "model")
    (tmp_path / "words.bin").unlink()
    loaded = TextCNNClassifier.load(tmp_path / "model").set_params(warm_start=True, epochs=1, learning_rate=1e-12)
    for _ in range(2):
        loaded.fit([f"new {text}" for text in TEXTS], LABELS)
    loaded.save(path)
    assert {"new", "unseen"} <= set(load_checkpoint(path).words)
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), model.predict_proba(TEXTS), atol=1e-4)
    initial, before = (
        read_initial_vectors(saved, TEXTS[0].split()[0], "unseen") for saved in (path, str(tmp_path / "model"))
    )
    np.testing.assert_allclose(initial, before, rtol=1e-5)


def read_initial_vectors(path: str, *words: str) -> np.ndarray:
    """Return the vectors of words before training, with the lengths of their file, `(words, dimensions)`."""
    vectors = restore_vectors(load_trained(path, []))
    return vectors.matrix[[vectors.words.index(word) for word in words]]


def fit_with_vectors(path: Path, embedding: Embedding = "non-static") -> TextCNNClassifier:
    """Return a model that is fitted with a new vectors file, which has 12 dimensions and a word that no text has."""
    words = [*sorted({word for text in TEXTS for word in text.split()}), "unseen"]
    write_word2vec(path, words, np.random.default_rng(0).normal(size=(len(words), 12)))
    small = {"feature_maps": 4, "filter_widths": (1, 2), "linear": "none", "epochs": 2, "learning_rate": 0.01}
    settings = {"vectors.dimensions": 12, "train.temperature": 1}
    return TextCNNClassifier(path, **small, embedding=embedding, settings=settings).fit(TEXTS, LABELS)


def test_other_vectors_than_those_of_a_loaded_model_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a fit that does not start from its weights; if the file is named, there is none."""
    fit_with_vectors(tmp_path / "words.bin").save(tmp_path / "model")
    loaded = TextCNNClassifier.load(tmp_path / "model").set_params(epochs=1).fit(TEXTS, LABELS)
    assert f"the model was trained with the vectors of {tmp_path / 'words.bin'}" in caplog.text
    caplog.clear()
    loaded = TextCNNClassifier.load(tmp_path / "model").set_params(epochs=1)
    loaded.set_params(vectors=str(tmp_path / "words.bin")).fit(TEXTS, LABELS)
    assert "the model was trained with" not in caplog.text


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
