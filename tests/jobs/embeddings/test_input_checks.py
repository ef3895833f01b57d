"""Checks of an experiment's input files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.config.experiment import Experiment
from jobs.datasets.readers import DataError
from jobs.embeddings.input_checks import check_inputs
from jobs.embeddings.word2vec import VectorsError


def test_every_input_file_is_checked(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """The vectors file only if it is read."""
    (tmp_path / "other.csv").write_text("label,body\nx,a\n")
    check_inputs(make_experiment())
    for part in ("train", "validation", "test"):
        with pytest.raises(DataError, match=r"other\.csv: has no column 'text'"):
            check_inputs(make_experiment(**{f"data__{part}": str(tmp_path / "other.csv")}))
    missing = make_experiment(vectors__path=str(tmp_path / "none.txt"))
    check_inputs(missing)
    for invalid, embeddings in ((missing, {"rand", "static"}), (missing.replace({"model.embedding": "static"}), None)):
        with pytest.raises(VectorsError, match="no such vectors file"):
            check_inputs(invalid, embeddings)


def test_rows_that_a_search_trains_on_at_its_end_need_weights(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """The error says how to leave that out; other errors of the file are as without weights."""
    (tmp_path / "train.csv").write_text("label,text,weight\nx,a,1\ny,b,2\n")
    (tmp_path / "validation.csv").write_text("label,text\nx,a\n")
    (tmp_path / "other.csv").write_text("label,body\nx,a\n")
    parts = {"data__train": str(tmp_path / "train.csv"), "data__weight_column": "weight"}
    experiment = make_experiment(**parts, data__validation=str(tmp_path / "validation.csv"))
    check_inputs(experiment)
    with pytest.raises(DataError, match=r"has no 'weight'.*; a search trains on .* unless tune\.refit=false"):
        check_inputs(experiment, for_refit=True)
    with pytest.raises(DataError, match=r"other\.csv: has no column 'text'") as error:
        check_inputs(experiment.replace({"data.validation": str(tmp_path / "other.csv")}), for_refit=True)
    assert "tune.refit" not in str(error.value)
