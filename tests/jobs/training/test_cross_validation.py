"""Cross-validation on a real Ray: every row tested once, and what is finished stays."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.datasets import dataset
from jobs.datasets.readers import DataError
from jobs.training import cross_validation as folds
from jobs.training.cross_validation import FoldFailed, cross_validate, train_and_evaluate
from tests.conftest import make_test_corpus, write_word2vec


def test_each_row_is_tested_once(make_experiment: Callable[..., Experiment]) -> None:
    """Classes in the same shares, no row in two parts of a fold, another seed other folds."""
    experiment = make_experiment(train__folds=4)
    parts = dataset.load_folds(experiment)
    lines = sorted(line for part in parts for line in part.test.line_numbers or [])
    assert lines == list(range(2, 122))
    for part in parts:
        inside = [set(each.line_numbers or []) for each in (part.train, part.validation, part.test)]
        assert sum(len(each) for each in inside) == len(set.union(*inside)) == 120
        assert abs(part.test.labels.count("good") - part.test.labels.count("bad")) <= 1
    other = dataset.load_folds(make_experiment(train__folds=4, seed=1))
    assert other[0].test.line_numbers != parts[0].test.line_numbers


def test_a_class_of_few_rows_is_an_error(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """It could not be in every fold."""
    (tmp_path / "few.csv").write_text("label,text\n" + "a,x\n" * 9 + "b,y\n" * 2)
    with pytest.raises(DataError, match=r"2 rows have the label 'b', fewer than train.folds=3"):
        dataset.load_folds(make_experiment(train__folds=3, data__train=str(tmp_path / "few.csv")))


def test_a_measurement_is_of_the_best_epoch(make_experiment: Callable[..., Experiment]) -> None:
    """On the validation part it is what that epoch gave."""
    experiment = make_experiment(train__epochs=6, train__learning_rate=0.03)
    loaded = dataset.load_dataset(experiment)
    corpus = make_test_corpus(experiment)
    found = train_and_evaluate(experiment, corpus, loaded.validation)
    for name in ("accuracy", "macro_f1"):
        assert found[name] == found["validation"][name]
    assert found["loss"] == pytest.approx(found["validation"]["loss"], abs=1e-6)
    assert found["rows"] == len(loaded.validation)


@pytest.mark.ray
@pytest.mark.slow
def test_folds_are_trained_and_those_that_are_finished_stay(
    embedded_ray: None,
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
) -> None:
    """Mean and spread are those of the folds; a fold that is missing is the only one trained again."""
    words = ["great", "lovely", "awful", "dull", "film", "the"]
    path = write_word2vec(tmp_path / "v.bin", words, np.eye(6, 5, dtype=np.float32))
    experiment = make_experiment(
        train__folds=3, model__embedding="non-static", vectors__path=str(path), vectors__dimensions=5
    )
    summary_path = cross_validate(experiment)
    summary = json.loads(Path(summary_path).read_text())
    accuracies = [fold["accuracy"] for fold in summary["folds"]]
    assert len(accuracies) == 3
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["deviation"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert sum(line.startswith("reading vectors") for line in messages) == 1  # not once a fold
    assert "mean (deviation)" in messages[-1]

    before = {fold.name: fold.read_text() for fold in Path(summary_path).parent.glob("fold-*.json")}
    (Path(summary_path).parent / "fold-2.json").unlink()
    messages.clear()
    assert cross_validate(experiment) == summary_path
    assert "2 of 3 folds are finished" in messages
    assert sum(line.startswith("fold 2,") for line in messages) == 1
    again = json.loads((Path(summary_path).parent / "fold-2.json").read_text())
    first = json.loads(before["fold-2.json"])
    assert {key: again[key] for key in folds.FOLD_METRICS} == {key: first[key] for key in folds.FOLD_METRICS}

    write_word2vec(path, words, 2 * np.eye(6, 5, dtype=np.float32)[::-1])  # another file of the same name
    messages.clear()
    assert cross_validate(experiment) != summary_path
    assert not any("are finished" in line for line in messages)


@pytest.mark.ray
@pytest.mark.slow
def test_a_fold_that_diverges_is_named(embedded_ray: None, make_experiment: Callable[..., Experiment]) -> None:
    """With its reason, and without a traceback."""
    experiment = make_experiment(train__folds=2, train__learning_rate=1e30, model__max_norm=None)
    with pytest.raises(FoldFailed, match=r"fold \d: epoch 1: the training loss is nan; lower train.learning_rate"):
        cross_validate(experiment)
