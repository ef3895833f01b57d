"""Checkpoints with a linear classifier are complete, and share it between the epochs of a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune_cnn
from finetune_cnn import TextCNNClassifier
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint, load_training_state
from jobs.training.continuation import continue_training, load_start_weights
from jobs.training.corpora.building import build_corpus
from jobs.training.loop import create_loop
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.run_files.snapshot import capture, restore
from tests.support.loops import make_loop, train_checkpoint
from tests.support.torch_network import build_network, predict_logits
from tests.support.toy_data import make_toy_rows


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_the_linear_classifier_is_stored_once(
    make_experiment: Callable[..., Experiment], tmp_path: Path, embedding: str
) -> None:
    """Only its scale is written again; a checkpoint has the scores of the loop's network, also to resume."""
    experiment = make_experiment(model__embedding=embedding, model__linear="words-and-pairs", train__epochs=2)
    loop = make_loop(experiment)
    store = CheckpointStore(str(tmp_path / "run"))
    for epoch, _ in loop.train_epochs():
        store.write(checkpoint_name(epoch.epoch), capture(experiment, loop.corpus, loop, resumable=True), 1)
    first, last = sorted((tmp_path / "run").iterdir())
    files = [folder / "untrained.safetensors" for folder in (first, last)]
    assert files[0].stat().st_ino == files[1].stat().st_ino
    checkpoint, state = load_checkpoint(str(last)), load_training_state(last)
    expected = loop.network.weights()
    for weights in (checkpoint.weights, state.weights):
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(weights[name], value.numpy())
    tokens = loop.corpus.validation.tokens
    logits = predict_logits(build_network(checkpoint), tokens).numpy()
    np.testing.assert_allclose(logits, loop.logits.logits, atol=1e-5)


def test_the_estimator_has_it_as_a_parameter(tmp_path: Path) -> None:
    """Saved and loaded it has the same probabilities, whose explanations add up; a warm start trains it again."""
    texts, labels = ["a good film", "not a good film"] * 20, ["good", "bad"] * 20
    model = TextCNNClassifier(embedding="rand", feature_maps=2, epochs=1, linear="words-and-pairs", warm_start=True)
    model.fit(texts, labels)
    assert model.predict(texts[:2]).tolist() == labels[:2]
    explanation = model.explain(texts[1], "bad")
    assert "not a" in [phrase.text for phrase in explanation.phrases]
    assert explanation.bias + sum(phrase.share for phrase in explanation.phrases) == pytest.approx(explanation.score)
    model.save(str(tmp_path / "model"))
    loaded = finetune_cnn.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.predict_proba(texts[:2]), model.predict_proba(texts[:2]), atol=1e-4)  # in int16
    before = model._model.checkpoint.weights
    model.fit([text.replace("not", "never") for text in texts], labels)
    assert model.predict(["never a good film"]).tolist() == ["bad"]
    assert model._model.checkpoint.weights["linear.pairs"].shape == before["linear.pairs"].shape
    assert not np.array_equal(model._model.checkpoint.weights["output.weight"], before["output.weight"])


def test_continued_training_trains_it_again(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """With rows of all known classes; the network starts from the checkpoint's. See also ../test_continuation.py."""
    experiment = make_experiment(model__linear="words-and-pairs", train__epochs=2)
    train_checkpoint(experiment, tmp_path / "base", epochs=1)
    rows = [
        *make_toy_rows(60, seed=5),
        *[("weather", f"rain and sun in {word}") for word in ("may", "june", "july") * 7],
    ]
    content = "label,text\n" + "".join(f'{label},"{text}"\n' for label, text in rows)
    (tmp_path / "more.csv").write_text(content)
    experiment = make_experiment(
        model__linear="words-and-pairs", train__epochs=2, data__train=str(tmp_path / "more.csv"),
        train__start_from=str(tmp_path / "base"),
    )  # fmt: skip
    dataset = load_dataset(experiment)
    corpus = build_corpus(experiment, dataset, use_pretrained=False)
    experiment, corpus = continue_training(experiment, dataset, corpus)
    loop, base = create_loop(experiment, corpus), load_checkpoint(str(tmp_path / "base"))
    load_start_weights(loop.network, corpus, base)
    np.testing.assert_array_equal(loop.network.weights()["filters.0"].numpy(), base.weights["filters.0"])
    assert loop.network.linear is None
    list(loop.train_epochs())
    capture(experiment, corpus, loop, resumable=False)(tmp_path / "continued")
    classifier = Classifier(load_checkpoint(str(tmp_path / "continued")), share_table=False)
    assert classifier.predict(["rain and sun in june"]) == ["weather"]
    restored = create_loop(experiment, corpus)
    capture(experiment, corpus, loop, resumable=True)(tmp_path / "state")
    restore(restored, load_training_state(tmp_path / "state"))
    for name, value in loop.network.weights().items():
        assert torch.equal(restored.network.weights()[name], value)
