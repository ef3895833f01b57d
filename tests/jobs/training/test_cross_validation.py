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
from jobs.training.cross_validation import FoldFailed, cross_validate, measure
from tests.conftest import corpus_of, write_word2vec


def test_each_row_is_tested_once(toy: Callable[..., Experiment]) -> None:
    """Classes in the same shares, no row in two parts of a fold, another seed other folds."""
    experiment = toy(train__folds=4)
    parts = dataset.folds(experiment)
    lines = sorted(line for part in parts for line in part.test.lines or [])
    assert lines == list(range(2, 122))
    for part in parts:
        inside = [set(each.lines or []) for each in (part.train, part.validation, part.test)]
        assert sum(len(each) for each in inside) == len(set.union(*inside)) == 120
        assert abs(part.test.labels.count("good") - part.test.labels.count("bad")) <= 1
    other = dataset.folds(toy(train__folds=4, seed=1))
    assert other[0].test.lines != parts[0].test.lines


def test_a_class_of_few_rows_is_an_error(toy: Callable[..., Experiment], tmp_path: Path) -> None:
    """It could not be in every fold."""
    (tmp_path / "few.csv").write_text("label,text\n" + "a,x\n" * 9 + "b,y\n" * 2)
    with pytest.raises(DataError, match=r"2 rows have the label 'b', fewer than train.folds=3"):
        dataset.folds(toy(train__folds=3, data__train=str(tmp_path / "few.csv")))


def test_a_measurement_is_of_the_best_epoch(toy: Callable[..., Experiment]) -> None:
    """On the validation part it is what that epoch gave."""
    experiment = toy(train__epochs=6, train__learning_rate=0.03)
    loaded = dataset.load(experiment)
    corpus = corpus_of(experiment)
    found = measure(experiment, corpus, loaded.validation)
    for name in ("accuracy", "macro_f1"):
        assert found[name] == found["validation"][name]
    assert found["loss"] == pytest.approx(found["validation"]["loss"], abs=1e-6)
    assert found["rows"] == len(loaded.validation)


@pytest.mark.ray
@pytest.mark.slow
def test_folds_are_trained_and_those_that_are_finished_stay(
    ray_here: None, toy: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean and spread are those of the folds; a fold that is missing is the only one trained again."""
    words = ["great", "lovely", "awful", "dull", "film", "the"]
    path = write_word2vec(tmp_path / "v.bin", words, np.eye(6, 5, dtype=np.float32))
    experiment = toy(train__folds=3, model__embedding="non-static", vectors__path=str(path), vectors__dimensions=5)
    told: list[str] = []
    summary_path = cross_validate(experiment, told.append)
    summary = json.loads(Path(summary_path).read_text())
    accuracies = [fold["accuracy"] for fold in summary["folds"]]
    assert len(accuracies) == 3
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["deviation"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert sum(line.startswith("reading vectors") for line in told) == 1  # not once a fold
    assert "mean (deviation)" in told[-1]

    before = {fold.name: fold.read_text() for fold in Path(summary_path).parent.glob("fold-*.json")}
    (Path(summary_path).parent / "fold-2.json").unlink()
    told.clear()
    assert cross_validate(experiment, told.append) == summary_path
    assert "2 of 3 folds are finished" in told
    assert sum(line.startswith("fold 2,") for line in told) == 1
    again = json.loads((Path(summary_path).parent / "fold-2.json").read_text())
    first = json.loads(before["fold-2.json"])
    assert {key: again[key] for key in folds.FIGURES} == {key: first[key] for key in folds.FIGURES}

    write_word2vec(path, words, 2 * np.eye(6, 5, dtype=np.float32)[::-1])  # another file of the same name
    told.clear()
    assert cross_validate(experiment, told.append) != summary_path
    assert not any("are finished" in line for line in told)


@pytest.mark.ray
@pytest.mark.slow
def test_a_fold_that_diverges_is_named(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """With its reason, and without a traceback."""
    experiment = toy(train__folds=2, train__learning_rate=1e30, model__max_norm=None)
    with pytest.raises(FoldFailed, match=r"fold \d: epoch 1: the training loss is nan; lower train.learning_rate"):
        cross_validate(experiment, lambda line: None)
