"""Evaluations of checkpoints with random weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.config.settings import TextSettings
from jobs.datasets.readers import Split
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.evaluation.abstention import measure_abstention
from jobs.evaluation.calibration import compute_curves
from jobs.evaluation.measurement import measure
from jobs.evaluation.multi_label import evaluation as multi_label
from jobs.evaluation.multi_label.page import render_label_evaluation
from jobs.evaluation.reports.html.evaluation_page import render_evaluation
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint, save_checkpoint
from tests.support.checkpoints import WORDS, checkpoint_of

STORED_THRESHOLD = 0.4321  # of abstention, in the checkpoints with one label per text


def render_random_evaluation(
    folder: Path, labels: Sequence[str], num_rows: int = 400, texts: Sequence[str] = ()
) -> str:
    """Return the page of an evaluation of random texts, of which about 20 % have a random label.

    Args:
        folder: of the checkpoint. texts: come first; their labels are not the predicted ones.
    """
    generator = np.random.default_rng(0)
    checkpoint, classifier = _make_checkpoint(folder, labels, generator, checkpoint_of("rand"))
    number = len(texts)
    texts = [*texts, *(" ".join(generator.choice(WORDS, 5)) for _ in range(num_rows - number))]
    probabilities = classifier.predict_proba(texts)
    predicted = probabilities.argmax(axis=1)
    is_random = generator.random(num_rows) < 0.2
    true = np.where(is_random, generator.integers(0, len(labels), num_rows), predicted)
    true[:number] = (predicted[:number] + 1) % len(labels)
    rows = Split(texts, [labels[index] for index in true], "test.csv", list(range(2, num_rows + 2)))
    tokens = tokenize_texts(texts)
    evaluation = measure(checkpoint, "test.csv", tokens, true, predicted, None, None, [])
    reliability = compute_curves(probabilities, true, checkpoint.temperature)
    abstention = measure_abstention(checkpoint, true, probabilities)
    return render_evaluation(evaluation, checkpoint, classifier, rows, true, probabilities, reliability, abstention)


def render_random_label_evaluation(
    folder: Path, labels: Sequence[str], num_rows: int = 400, texts: Sequence[str] = ()
) -> str:
    """Return the page of an evaluation of random texts with several labels each, of which about 1 % are wrong.

    Args:
        folder: of the checkpoint. texts: come first.
    """
    generator = np.random.default_rng(0)
    base = checkpoint_of("rand", **{"data.multi_label": True})
    checkpoint, classifier = _make_checkpoint(folder, labels, generator, base)
    texts = [*texts, *(" ".join(generator.choice(WORDS, 5)) for _ in range(num_rows - len(texts)))]
    probabilities = classifier.predict_proba(texts)
    thresholds = np.quantile(probabilities, 1 - 3 / len(labels), axis=0)  # three labels per text
    checkpoint = replace(checkpoint, metrics=checkpoint.metrics | {"label_thresholds": {"values": thresholds.tolist()}})
    true = (probabilities >= thresholds) ^ (generator.random(probabilities.shape) < 0.01)
    sets = [tuple(labels[index] for index in np.flatnonzero(row)) for row in true]
    rows = Split(texts, [", ".join(own) for own in sets], "test.jsonl", list(range(1, num_rows + 1)), label_sets=sets)
    tokens = tokenize_texts(texts, TextSettings())
    columns = {"part": ["first" if number < 300 else "second" for number in range(num_rows)]}
    evaluation = multi_label.measure(checkpoint, rows, tokens, true, probabilities, columns)
    reliability = compute_curves(probabilities, true, checkpoint.temperature)
    return render_label_evaluation(evaluation, checkpoint, classifier, rows, true, probabilities, reliability)


def _make_checkpoint(
    folder: Path, labels: Sequence[str], generator: np.random.Generator, base: Checkpoint
) -> tuple[Checkpoint, Classifier]:
    """Save a checkpoint with other labels and random output weights, and return it with its classifier."""
    output = generator.normal(size=(len(labels), base.weights["output.weight"].shape[1])).astype(np.float32)
    output -= output.mean(axis=1, keepdims=True)  # the values of filters are not negative; no class is always the best
    weights = base.weights | {"output.weight": output, "output.bias": np.zeros(len(labels), np.float32)}
    metrics = {"epoch": 1, "rows": 10, "accuracy": 0.5, "versions": {"torch": "2"}}
    metrics |= {"abstention": {"thresholds": {"retention": STORED_THRESHOLD}}}
    checkpoint = replace(base, labels=[*labels], weights=weights, metrics=metrics)
    save_checkpoint(folder, checkpoint)
    return replace(checkpoint, path=str(folder)), Classifier(checkpoint)
