"""Weights of the training rows: from a column, and from the sizes of the classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from jobs.config.class_weights import ClassWeights
from jobs.config.experiment import Experiment, ExperimentError
from jobs.config.settings import DataSettings, TrainSettings
from jobs.datasets.dataset import add_out_of_scope_class, load_dataset, load_folds, merge_validation
from jobs.datasets.readers import DataError, check_file, read_rows
from jobs.datasets.row_weights import check_class_weights, check_thresholds, compute_label_weights, compute_row_weights
from jobs.evaluation.metrics import LogitSample
from jobs.evaluation.multi_label.thresholds import calibrate
from tests.support.text_formats import encode_rows

LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
NAMES = ["a", "b", "c"]
CSV = "label,text,weight\na,x,2\nb,y,0.5\n"


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)[LABELS]
    np.testing.assert_allclose(compute_row_weights("balanced", NAMES, LABELS), expected, rtol=1e-12)


def test_only_the_ratios_of_weights_matter() -> None:
    """Weights of classes and rows are multiplied; the mean is 1."""
    class_weights: ClassWeights = {"c": 4, "a": 1, "b": 2}
    rows = np.array([1, 1, 2, 1, 1, 1, 3.0])
    weights = compute_row_weights(class_weights, NAMES, LABELS, rows)
    assert weights is not None
    np.testing.assert_allclose(weights / weights[0], [1, 1, 2, 1, 2, 2, 12])
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(compute_row_weights(class_weights, NAMES, LABELS, 1e300 * rows), weights)
    assert compute_row_weights(None, NAMES, LABELS) is None


def test_a_row_of_weight_2_counts_as_two_rows_of_a_balanced_class() -> None:
    weights = compute_row_weights("balanced", ["a", "b"], np.array([0, 0, 1]), np.array([2, 1, 1.0]))
    repeated = compute_row_weights("balanced", ["a", "b"], np.array([0, 0, 0, 1]))
    assert weights is not None
    assert repeated is not None
    np.testing.assert_allclose(weights / weights[1], [2, 1, repeated[3] / repeated[0]])


def test_weights_of_zero_only_are_an_error() -> None:
    """Of all rows, or of those of a class that is to be balanced."""
    with pytest.raises(ExperimentError, match="all training rows have the weight 0"):
        compute_row_weights(None, NAMES, LABELS, np.zeros(7))
    with pytest.raises(ExperimentError, match="all rows of 'b', 'c' have the weight 0"):
        compute_row_weights("balanced", NAMES, LABELS, np.array([1, 1, 1, 1, 0, 0, 0.0]))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_weights_are_read_in_every_format(tmp_path: Path, suffix: str) -> None:
    """In all formats a weight is a number, or a text that is one; without `weighted` it is not read."""
    import pandas

    frame = pandas.DataFrame({"label": ["a", "b"], "text": ["x", "y"], "weight": [2, 0.5]})
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    data = DataSettings(weight_column="weight")
    rows = read_rows(str(path), data, weighted=True)
    assert rows.weights == [2, 0.5]
    assert rows.select([1]).weights == [0.5]
    assert read_rows(str(path), data).weights is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", CSV + "a,z,-1\n", r"a\.csv, line 4: the weight in 'weight' is '-1'; it must be a number of at least"),
        ("a.csv", CSV + "a,z,\n", r"line 4: the weight in 'weight' is empty"),
        ("a.csv", CSV + "a,z,much\n", r"line 4: the weight in 'weight' is 'much'"),
        ("a.csv", CSV + "a,z,inf\n", r"line 4: .* is 'inf'"),
        ("a.csv", CSV.replace("weight", "Weight"), r"line 2: has no 'weight' \(data.weight_column\).*mean 'Weight'\?"),
        ("a.jsonl", '{"label": "a", "text": "x", "weight": true}', r"a\.jsonl, line 1: .* is True"),
        ("a.jsonl", '{"label": "a", "text": "x", "weight": NaN}', r"line 1: .* is nan"),
        ("a.jsonl", '{"label": "a", "text": "x"}', r"line 1: has no 'weight' .* it has label, text"),
        ("a.txt", encode_rows([("a", "x")], ".txt").decode(), r"a\.txt, line 1: has no 'weight'"),
    ],
)
def test_an_invalid_weight_is_an_error_that_names_file_and_row(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    data = DataSettings(folder=str(tmp_path), weight_column="weight")
    with pytest.raises(DataError, match=message):
        read_rows(name, data, weighted=True)
    first = content.startswith("{") or name == "a.txt" or "Weight" in content
    if first:
        with pytest.raises(DataError, match=message):
            check_file(name, data, weighted=True)
    else:
        check_file(name, data, weighted=True)


def weighted_experiment(folder: Path, **settings: object) -> Experiment:
    """Return an experiment on 40 rows with the weights 1 to 40, in the order of the file."""
    rows = "".join(f"{'ab'[number % 2]},text {number},{number}\n" for number in range(1, 41))
    (folder / "rows.csv").write_text(f"label,text,weight\n{rows}")
    defaults = {"data.train": str(folder / "rows.csv"), "data.weight_column": "weight"}
    return Experiment().replace(defaults | {key.replace("__", "."): value for key, value in settings.items()})


def test_weights_stay_with_their_rows(tmp_path: Path) -> None:
    """In drawn parts, in folds, and in the merged parts of a refit."""
    experiment = weighted_experiment(tmp_path)
    dataset = load_dataset(experiment)
    parts = [dataset.train, merge_validation(dataset).train, *(fold.train for fold in load_folds(experiment, 2))]
    for part in parts:
        assert part.weights == [int(text.removeprefix("text ")) for text in part.texts]


@pytest.mark.parametrize("factor", [1.0, 0.001])
def test_rows_without_weights_have_the_mean_among_others(tmp_path: Path, factor: float) -> None:
    """Of a class of out-of-scope texts, or of an `eval_set`: only the ratios of weights matter."""
    (tmp_path / "other.csv").write_text("text\n" + "rain\nsun\n" * 5)
    dataset = load_dataset(
        weighted_experiment(tmp_path, data__out_of_scope=str(tmp_path / "other.csv"), data__out_of_scope_use="auto")
    )
    assert dataset.train.weights is not None
    weights = [factor * weight for weight in dataset.train.weights]
    dataset = replace(
        dataset,
        train=replace(dataset.train, weights=weights),
        validation=replace(dataset.validation, weights=None),
    )
    for merged in (merge_validation(dataset).train, add_out_of_scope_class(dataset).train):
        assert merged.weights is not None
        assert merged.weights[: len(weights)] == weights
        np.testing.assert_allclose(merged.weights[len(weights) :], np.mean(weights))
        assert len(merged.weights) == len(merged)


def test_class_weights_are_those_of_the_training_rows_in_a_continued_run(tmp_path: Path) -> None:
    """A known class without rows may have one. That of out-of-scope texts has rows."""
    (tmp_path / "other.csv").write_text("text\nrain\nsun\n")
    for class_weights in ({"a": 1, "b": 2}, {"a": 1, "b": 2, "other": 3}):
        experiment = weighted_experiment(tmp_path, train__class_weights=class_weights)
        assert load_dataset(experiment, known_labels=["b", "other"]).labels == ["a", "b", "other"]
    out_of_scope = {"data__out_of_scope": str(tmp_path / "other.csv"), "data__out_of_scope_use": "class"}
    with pytest.raises(ExperimentError, match=r"lacks a weight of 'out_of_scope'$"):
        load_dataset(weighted_experiment(tmp_path, **out_of_scope, train__class_weights={"a": 1, "b": 2}))
    class_weights = {"a": 1, "b": 2, "out_of_scope": 3}
    dataset = load_dataset(weighted_experiment(tmp_path, **out_of_scope, train__class_weights=class_weights))
    assert dataset.labels == sorted(class_weights)
    with pytest.raises(ExperimentError, match="has weights of 'new', which no training row has"):
        load_dataset(
            weighted_experiment(tmp_path, train__class_weights={"a": 1, "b": 2, "new": 1}), known_labels=["other"]
        )


def test_a_file_of_the_validation_part_needs_weights_only_with_a_refit(tmp_path: Path) -> None:
    (tmp_path / "validation.csv").write_text("label,text\na,x\nb,y\n")
    experiment = weighted_experiment(tmp_path, data__validation=str(tmp_path / "validation.csv"))
    assert load_dataset(experiment).validation.weights is None
    with pytest.raises(DataError, match=r"validation\.csv, line 2: has no 'weight'"):
        load_dataset(experiment, for_refit=True)


@pytest.mark.parametrize(
    ("class_weights", "message"),
    [
        ({"a": 1}, "lacks a weight of 'b'"),
        ({"a": 1, "b": 2, "c": 3}, "has weights of 'c', which no training row has"),
        ({"A": 1, "b": 2}, "lacks a weight of 'a', and has weights of 'A', which no training row has"),
    ],
)
def test_weights_of_classes_are_those_of_all_labels(tmp_path: Path, class_weights: object, message: str) -> None:
    """Also those that a search varies."""
    space = {"train.class_weights": {"grid": [None, "balanced", class_weights]}}
    for settings in ({"train__class_weights": class_weights}, {"tune__space": space}):
        experiment = weighted_experiment(tmp_path, **settings)
        with pytest.raises(ExperimentError, match=f"train.class_weights: {message}$"):
            load_dataset(experiment)
        with pytest.raises(ExperimentError, match=message):
            load_folds(experiment, 2)


def test_labels_are_spelled_as_in_the_data(tmp_path: Path) -> None:
    """YAML reads 2.0 and true as a number and a boolean."""
    experiment = weighted_experiment(tmp_path, data__weight_column=None, train__class_weights={2.0: 2, True: 1})
    rows = [("2", "x"), ("true", "y")] * 20
    (tmp_path / "rows.csv").write_bytes(encode_rows(rows, ".csv"))
    dataset = load_dataset(experiment)
    labels = np.array([dataset.labels.index(label) for label in dataset.train.labels])
    weights = compute_row_weights(experiment.train.class_weights, dataset.labels, labels)
    assert weights is not None
    assert weights[labels == 0].mean() == pytest.approx(2 * weights[labels == 1].mean())


@pytest.mark.parametrize("class_weights", ["balanced", {"a": 1, "b": 3}])
def test_a_class_without_rows_changes_no_weight(class_weights: ClassWeights) -> None:
    """A checkpoint that training starts from may have a class that the new rows lack."""
    labels = np.array([0, 1, 1])
    expected = compute_row_weights(class_weights, ["a", "b"], labels)
    assert np.array_equal(compute_row_weights(class_weights, ["a", "b", "old"], labels), expected)
    matrix = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.uint8)
    expected = compute_label_weights(class_weights, ["a", "b"], matrix)
    extended = compute_label_weights(class_weights, ["a", "b", "old"], np.pad(matrix, ((0, 0), (0, 1))))
    assert np.array_equal(extended, [*expected, 1])


def test_thresholds_are_those_of_all_labels() -> None:
    check_thresholds({"a": 0.2, "b": 0.3}, ["a", "b"])
    check_thresholds(0.2, ["a"])
    with pytest.raises(ExperimentError, match="lacks a threshold of 'b', and has thresholds of 'c', which no training"):
        check_thresholds({"a": 0.2, "c": 0.3}, ["a", "b"])


def test_labels_of_settings_are_spelled_as_those_of_rows() -> None:
    """1.0 is 1, and True is true; a label that the estimator has in this spelling stays."""
    labels = ["1", "true"]
    values = {"1.0": 0.2, "True": 0.4}
    check_thresholds(values, labels)
    experiment = Experiment().replace({"train.class_weights": values})
    check_class_weights(experiment, labels)
    check_thresholds(values, list(values))
    check_class_weights(experiment, list(values))
    logits = LogitSample(np.zeros((2, 2), np.uint8), 2)
    settings = TrainSettings(thresholds=values)
    for names in (labels, list(values)):
        thresholds, weights = (
            calibrate(logits, settings, names).thresholds,
            compute_label_weights(values, names, np.eye(2)),
        )
        assert thresholds is not None
        assert weights is not None
        assert thresholds.tolist() == weights.tolist() == [0.2, 0.4]
