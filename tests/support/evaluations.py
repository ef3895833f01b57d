"""Evaluations of checkpoints with random weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jobs.datasets.readers import Split
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.evaluation.abstention import measure_abstention
from jobs.evaluation.measurement import measure
from jobs.evaluation.reports.html.evaluation_page import render_evaluation
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import WORDS, checkpoint_of


def render_random_evaluation(
    folder: Path, labels: Sequence[str], num_rows: int = 400, texts: Sequence[str] = ()
) -> str:
    """Return the page of an evaluation of random texts, of which about 20 % have a random label.

    Args:
        folder: of the checkpoint. texts: come first; their labels are not the predicted ones.
    """
    generator = np.random.default_rng(0)
    base = checkpoint_of("rand")
    output = generator.normal(size=(len(labels), base.weights["output.weight"].shape[1])).astype(np.float32)
    output -= output.mean(axis=1, keepdims=True)  # the values of filters are not negative; no class is always the best
    weights = base.weights | {"output.weight": output, "output.bias": np.zeros(len(labels), np.float32)}
    metrics = {"epoch": 1, "rows": 10, "accuracy": 0.5, "versions": {"torch": "2"}}
    checkpoint = replace(base, labels=[*labels], weights=weights, metrics=metrics)
    save_checkpoint(folder, checkpoint)
    checkpoint = replace(checkpoint, path=str(folder))
    classifier = Classifier(checkpoint)
    number = len(texts)
    texts = [*texts, *(" ".join(generator.choice(WORDS, 5)) for _ in range(num_rows - number))]
    probabilities = classifier.predict_proba(texts)
    predicted = probabilities.argmax(axis=1)
    is_random = generator.random(num_rows) < 0.2
    true = np.where(is_random, generator.integers(0, len(labels), num_rows), predicted)
    true[:number] = (predicted[:number] + 1) % len(labels)
    rows = Split(texts, [labels[index] for index in true], "test.csv", list(range(2, num_rows + 2)))
    tokens = tokenize_texts(texts, lowercase=True)
    evaluation = measure(checkpoint, "test.csv", tokens, true, predicted, None, [])
    curve = measure_abstention(checkpoint, true, probabilities).curve
    return render_evaluation(evaluation, checkpoint, classifier, rows, true, probabilities, curve)
