"""The network without its linear classifier: its scores, and its column in the comparison of an evaluation."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.datasets.tokenizer import encode
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.network_alone import predict_network_alone
from jobs.inference.predict import build_network, predict_logits
from jobs.model.checkpoint import Checkpoint, load_checkpoint
from tests.support.checkpoints import WORDS, checkpoint_of
from tests.support.loops import train_checkpoint


def score_without_linear(checkpoint: Checkpoint, texts: list[str]) -> np.ndarray:
    """Return the logits of the torch network without the linear classifier, divided by the temperature."""
    network = build_network(checkpoint)
    network.linear = None
    tokens = encode(tokenize_texts(texts), checkpoint.vocabulary, 1000)
    return predict_logits(network, tokens, np.arange(len(texts))).numpy() / checkpoint.temperature


@pytest.mark.parametrize("embedding", ["multichannel", "rand"])
def test_the_scores_are_those_of_the_network_without_the_linear_classifier(embedding: str) -> None:
    checkpoint = checkpoint_of(embedding, **{"model.linear": "words-and-pairs"})
    checkpoint.metrics["temperature"] = 1.7
    texts = [" ".join(words) for words in np.random.default_rng(0).choice([*WORDS, "unheard"], (50, 6))]
    own = predict_network_alone(checkpoint, [*texts, ""])
    assert own is not None
    logits = score_without_linear(checkpoint, [*texts, ""])
    np.testing.assert_allclose(own, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5)


def test_a_checkpoint_without_a_linear_classifier_has_none() -> None:
    assert predict_network_alone(checkpoint_of("rand"), ["word1"]) is None


def test_the_evaluation_compares_the_sum_with_the_network_alone(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment = make_experiment(train__epochs=1, train__linear_weight=2.0)
    train_checkpoint(experiment, tmp_path / "checkpoint")
    checkpoint, test = load_checkpoint(str(tmp_path / "checkpoint")), load_dataset(experiment).test
    predicted = score_without_linear(checkpoint, test.texts).argmax(axis=1)
    expected = np.mean([checkpoint.labels[index] == label for index, label in zip(predicted, test.labels, strict=True)])
    evaluation = evaluate(str(tmp_path / "checkpoint"), [], str(tmp_path / "out"), baseline=False)
    assert evaluation.network_alone is not None
    assert evaluation.network_alone.accuracy == expected
    assert evaluation.accuracy > expected  # the network had one epoch
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["network_alone"]["accuracy"] == expected
    report, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    assert "| metric | model | 95% confidence | network alone | always '" in report
    assert ">network alone</th>" in page
    train_checkpoint(make_experiment(train__epochs=1, model__linear="none"), tmp_path / "none")
    assert evaluate(str(tmp_path / "none"), [], str(tmp_path / "out"), baseline=False).network_alone is None
    assert "network alone" not in (tmp_path / "out" / "report.md").read_text()
