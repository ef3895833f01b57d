"""Baselines with several labels per text: constant labels, the SVC's verdict, the network alone."""

from dataclasses import replace

import numpy as np
import pytest

from jobs.config.settings import TextSettings
from jobs.datasets.dataset import Dataset
from jobs.datasets.label_sets import encode_label_sets
from jobs.datasets.readers import Split
from jobs.evaluation.baselines import has_network_alone, predict_network_alone
from jobs.evaluation.multi_label.baselines import (
    FrequentLabels,
    LabelScores,
    compare_network,
    measure_frequent_labels,
    measure_svc,
    score_network_alone,
)
from jobs.evaluation.multi_label.bootstrap import bootstrap_difference
from jobs.evaluation.multi_label.linear_svc import score_with_svcs
from jobs.evaluation.multi_label.metrics import compute_metrics
from jobs.inference.classifier import Classifier
from tests.support.checkpoints import WORDS, checkpoint_of
from tests.support.label_sets import WORDS as WORDS_OF_LABELS
from tests.support.label_sets import make_label_set_rows

LABELS = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def test_the_constant_labels_have_the_best_micro_f1_of_the_most_frequent_ones() -> None:
    """The third label would cost more precision than it gains recall."""
    frequent = measure_frequent_labels(LABELS, ["a", "b", "c"])
    assert frequent.labels == ["a", "b"]
    assert frequent.metrics.micro_f1 == pytest.approx(2 * 6 / (7 + 8))
    assert frequent.metrics.precision_at["1"] == 0.75
    assert frequent.describe() == "always 'a', 'b'"
    assert FrequentLabels(["a", "b", "c"], frequent.metrics).describe() == "always the 3 most frequent labels"
    rare = np.zeros((50, 3), np.uint8)
    rare[:, 0], rare[0, 1:] = 1, 1
    assert measure_frequent_labels(rare, ["a", "b", "c"]).labels == ["a"]


def test_the_svc_has_the_verdict_of_a_paired_difference() -> None:
    """With many rows it is certain, with few it is not."""
    wrong = LabelScores(np.tile(1.0 - LABELS, (30, 1)), 0.5)
    labels = np.tile(LABELS, (30, 1))
    svc = measure_svc(wrong, 99, labels, LabelScores(labels, 0.5))
    assert svc.metrics.micro_f1 == 0
    assert (svc.training_rows, svc.micro_f1_difference) == (99, 1)
    assert svc.interval[0] > 0.5
    assert svc.describe_difference().startswith("The model is better: the micro F1 of the model minus that of TF-IDF")
    same = measure_svc(LabelScores(LABELS, 0.5), 99, LABELS, LabelScores(LABELS, 0.5))
    assert same.describe_difference().startswith("Cannot tell which of the two is better")


def test_the_svc_reaches_the_precision_that_the_model_has_to_reach() -> None:
    """Otherwise two objectives would be compared."""
    rows = [make_label_set_rows(count, seed) for seed, count in enumerate((60, 60, 0))]
    parts = [
        Split([text for _, text in own], ["" for _ in own], "x", label_sets=[labels for labels, _ in own])
        for own in rows
    ]
    dataset = Dataset(*parts, sorted(WORDS_OF_LABELS), [])
    tokens = [text.split() for text in parts[1].texts]
    arguments = dataset, dataset.labels, tokens, TextSettings()
    assert isinstance(score_with_svcs(*arguments).thresholds, float)
    precise = score_with_svcs(*arguments, objective=0.95)
    labels = encode_label_sets(parts[1].label_sets or [], dataset.labels)
    assert np.shape(precise.thresholds) == (3,)
    assert precise.measure(labels).micro_precision >= 0.95


def test_the_network_alone_is_compared_by_the_micro_f1_paired_by_rows() -> None:
    """With many rows the verdict is certain."""
    labels = np.tile(LABELS, (30, 1))
    alone = LabelScores(np.where(np.arange(3) < 1, labels, 0), 0.5)  # only the first label
    difference = compare_network(labels, LabelScores(labels, 0.5), alone)
    assert (difference.metric, difference.value) == ("micro F1", pytest.approx(1 - 2 * 3 / (7 + 3)))
    assert difference.interval == bootstrap_difference(labels, labels, alone.predicted)
    assert difference.describe_difference().startswith("The linear classifier improves the network: the micro F1 of")


def test_the_network_alone_has_thresholds_of_its_own_from_the_same_validation_rows() -> None:
    """Without these rows, or where the settings name the thresholds, it is not measured."""
    base = {"data.multi_label": True, "model.linear": "words-and-pairs"}
    checkpoint = checkpoint_of("rand", **base)
    random = np.random.default_rng(0)
    texts = [" ".join(words) for words in random.choice(WORDS, (60, 5))]
    classifier = Classifier(checkpoint)
    own = predict_network_alone(classifier, texts)
    matrix = own[:40] > np.quantile(own[:40], 0.7)
    sets = [tuple(checkpoint.labels[index] for index in np.flatnonzero(row)) for row in matrix]
    validation = Split(texts[:40], [", ".join(labels) for labels in sets], "v.jsonl", label_sets=sets)
    empty = Split([], [], "t.jsonl", label_sets=[])
    dataset = Dataset(empty, validation, empty, checkpoint.labels, [])
    stored = {"objective": "micro_f1", "per_label": False, "values": [0.99] * 3}
    checkpoint.metrics["label_thresholds"] = stored
    assert has_network_alone(checkpoint, dataset)
    alone = score_network_alone(checkpoint, classifier, texts[40:], dataset)
    np.testing.assert_allclose(alone.scores, own[40:], atol=1e-6)
    assert compute_metrics(matrix, own[:40] >= alone.thresholds, own[:40]).micro_f1 > 0.95
    # Thresholds of the sum would not be its own.
    assert not has_network_alone(checkpoint, None)
    assert not has_network_alone(checkpoint, replace(dataset, validation=empty))
    checkpoint.metrics["label_thresholds"] = stored | {"objective": None}  # they are settings
    assert not has_network_alone(checkpoint, dataset)
    assert not has_network_alone(checkpoint_of("rand", **base | {"model.linear": "none"}), dataset)
