"""The scikit-learn estimator with several labels per text."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.preprocessing import MultiLabelBinarizer

import finetune_cnn
from cluster import UsageError
from jobs.estimator.inputs import read_label_sets
from jobs.estimator.text_cnn import TextCNNClassifier
from tests.support.label_sets import make_label_set_rows

ROWS = make_label_set_rows(160)
TEXTS, LABELS = [text for _, text in ROWS], [list(labels) for labels, _ in ROWS]
SMALL: dict[str, Any] = {
    "embedding": "rand", "feature_maps": 8, "filter_widths": (1,), "epochs": 6, "batch_size": 10, "learning_rate": 0.02
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> TextCNNClassifier:
    return TextCNNClassifier(**SMALL).fit(TEXTS, LABELS)


def test_it_predicts_lists_and_a_probability_of_each_label(model: TextCNNClassifier) -> None:
    """The most likely label is first."""
    assert model.classes_.tolist() == ["price", "sight", "sound"]
    assert model.score(TEXTS, LABELS) > 0.8
    probabilities, predicted = model.predict_proba(TEXTS), model.predict(TEXTS)
    assert probabilities.shape == (160, 3)
    assert probabilities.sum(axis=1).max() > 1.2
    assert [] in predicted
    for row, labels in zip(probabilities, predicted, strict=True):
        scores = [row[model.classes_.tolist().index(label)] for label in labels]
        assert scores == sorted(scores, reverse=True)
    assert all(epoch.micro_f1 is not None for epoch in model.epochs_)


def test_the_best_epoch_has_the_best_micro_f1_unless_another_metric_is_set(model: TextCNNClassifier) -> None:
    values = [epoch.micro_f1 for epoch in model.epochs_]
    assert values[model.best_epoch_ - 1] == max(values)
    other = TextCNNClassifier(**SMALL | {"epochs": 1}, settings={"train.metric": "loss"}).fit(TEXTS, LABELS)
    assert other._model.checkpoint.experiment.train.metric == "loss"


def test_an_indicator_matrix_is_predicted_as_one(model: TextCNNClassifier) -> None:
    """A label without a row is a column as well."""
    matrix = np.column_stack([MultiLabelBinarizer().fit_transform(LABELS), np.zeros(len(TEXTS), int)])
    fitted = TextCNNClassifier(**SMALL).fit(TEXTS, matrix)
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    predicted = fitted.predict(TEXTS)
    assert predicted.shape == matrix.shape
    assert fitted.score(TEXTS, matrix) == np.mean((predicted == matrix).all(axis=1)) > 0.8


def test_an_indicator_matrix_is_cross_validated_by_scikit_learn() -> None:
    """Which rejects lists of labels."""
    matrix = MultiLabelBinarizer().fit_transform(LABELS)
    small = TextCNNClassifier(**SMALL)
    for scoring in ("f1_micro", "roc_auc"):
        assert cross_val_score(small, TEXTS, matrix, cv=2, scoring=scoring).min() > 0.5
    search = GridSearchCV(small, {"learning_rate": [1e-5, 0.02]}, cv=2, scoring="f1_micro").fit(TEXTS, matrix)
    assert search.predict(TEXTS).shape == matrix.shape


def test_a_saved_model_predicts_the_same_labels(model: TextCNNClassifier, tmp_path: Any) -> None:
    """Lists, of a text without a label an empty one."""
    model.save(str(tmp_path / "model"))
    loaded = finetune_cnn.load(str(tmp_path / "model"))
    assert loaded.predict(TEXTS) == loaded.predict_labels(TEXTS) == model.predict(TEXTS)


@pytest.mark.parametrize("convert", [pa.array, pd.Series, lambda values: [set(row) for row in values], tuple])
def test_labels_of_other_types_are_equal_to_lists(convert: Any) -> None:
    sets = read_label_sets(convert(LABELS))
    assert sets is not None
    assert [sorted(row) for row in sets.rows] == LABELS
    assert sets.classes.tolist() == ["price", "sight", "sound"]


@pytest.mark.parametrize(
    "labels",
    [
        ["a", "b"],
        np.array(["a", "b"]),
        pd.Series(["a", "b"]),
        np.array([[1], [0]]),
        [1, 2],
        pd.DataFrame({"label": ["a", "b"]}).to_numpy(),
    ],
)
def test_a_label_of_each_row_is_not_several(labels: Any) -> None:
    assert read_label_sets(labels) is None


def test_labels_of_another_form_than_in_fit_have_no_score(model: TextCNNClassifier) -> None:
    """It would be 0."""
    matrix = MultiLabelBinarizer().fit_transform(LABELS)
    with pytest.raises(
        ValueError, match="y has a row of 0 and 1 for each text; the model was fitted to a list of labels"
    ):
        model.score(TEXTS, matrix)
    with pytest.raises(ValueError, match="y has a label for each text"):
        model.score(TEXTS, ["price"] * len(TEXTS))


def test_inputs_that_contradict_each_other_are_errors() -> None:
    estimator = TextCNNClassifier(**SMALL)
    with pytest.raises(ValueError, match=r"labels\[1\] is 'b', and others are lists"):
        estimator.fit(["x", "y"], [["a"], "b"])
    with pytest.raises(ValueError, match=r"labels\[0\] is \[0, 0, 1\], which has a label twice; pass an indicator"):
        estimator.fit(["x", "y"], [[0, 0, 1], [1, 0, 0]])
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        estimator.fit(["x", "y"], np.array([[0, 2], [1, 0]]))
    with pytest.raises(ValueError, match="y has no label"):
        estimator.fit(["x", "y"], [[], []])
    with pytest.raises(ValueError, match="one has a list of labels for each text"):
        estimator.fit(TEXTS, LABELS, eval_set=(["x"], ["sound"]))
    with pytest.raises(ValueError, match="eval_set has the label 'smell'"):
        estimator.fit(TEXTS, LABELS, eval_set=(["x"], [["smell"]]))


@pytest.mark.ray
@pytest.mark.slow
def test_workers_and_a_search_on_ray_learn_the_same(model: TextCNNClassifier, embedded_ray: None) -> None:
    """Trials are compared by micro F1; bfloat16 changes little."""
    for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.2)):
        fitted = TextCNNClassifier(**SMALL, n_workers=2, settings={"train.precision": precision}).fit(TEXTS, LABELS)
        assert np.abs(fitted.predict_proba(TEXTS) - model.predict_proba(TEXTS)).max() < tolerance
        assert fitted.score(TEXTS, LABELS) > 0.8
    network_alone = TextCNNClassifier(**SMALL | {"linear": "none", "epochs": 12})
    best = network_alone.tune(TEXTS, LABELS, {"learning_rate": [1e-6, 0.02]}, trials=2)
    assert best.learning_rate == 0.02
    assert best.score(TEXTS, LABELS) > 0.8
    assert best._model.checkpoint.experiment.train.metric == "micro_f1"


def test_thresholds_are_of_the_labels() -> None:
    """As in an experiment file."""
    model = TextCNNClassifier(**SMALL, settings={"train.thresholds": {"price": 0.5, "sight": 0.5, "smell": 0.5}})
    with pytest.raises(UsageError, match=r"train\.thresholds: lacks a threshold of 'sound', and has thresholds of 's"):
        model.fit(TEXTS, LABELS)


def test_the_labels_are_read_once() -> None:
    """They may be many."""
    column = CountingColumn()
    TextCNNClassifier(**SMALL | {"epochs": 1}).fit(TEXTS, column)
    assert column.reads == 1


class CountingColumn:
    """A column of labels, as of pyarrow, that counts how often it is read."""

    reads = 0

    def to_pylist(self) -> list[list[str]]:
        self.reads += 1
        return LABELS

    def __iter__(self) -> Iterator[list[str]]:
        return iter(LABELS)
