"""Measured rows: the labels of the checkpoint, and the folder of their report."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.config.experiment import Experiment
from jobs.datasets.readers import DataError, Split
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.measured_rows import check_labels, use_trusted_storage
from jobs.model.checkpoint import Checkpoint
from tests.support.loops import train_checkpoint
from tests.support.toy_data import make_toy_rows


def write_test_file(path: Path) -> str:
    path.write_text("label,text\n" + "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(8, seed=3)))
    return str(path)


def test_a_copy_of_the_test_part_has_a_report_of_its_own(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """`push` publishes the report of the test part, so a file that a command names never replaces it."""
    first, copy = (write_test_file(tmp_path / name) for name in ("test.csv", "copy.csv"))
    train_checkpoint(make_experiment(data__test=first), tmp_path / "run" / "checkpoint")
    for settings, file in (([], None), ([], copy), ([f"data.test={copy}"], None), ([], first)):
        evaluate(str(tmp_path / "run" / "checkpoint"), settings, None, file)
    reports = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("run/*/evaluation.json")}
    [key] = {name.rpartition("-")[2] for name in reports if name != "report"}
    assert {name: report["source"] for name, report in reports.items()} == {
        "report": first,
        f"report-copy-{key}": copy,
        f"report-test-{key}": first,
    }


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["so-so", "good", "so-so"], r"^x\.csv: the checkpoint has no label 'so-so'; its labels are bad, good"),
        (
            ["good", "God", *"tuvwxyt"],
            r"'God', nor 't', 'u', 'v', 'w', 'x', \.\.\. of later rows; .*; did you mean 'good'\?",
        ),
    ],
)
def test_labels_that_the_checkpoint_does_not_have_are_listed(labels: list[str], message: str) -> None:
    """Of many, a few, and each once."""
    with pytest.raises(DataError, match=f"{message}$"):
        check_labels(Split(["a"] * len(labels), labels, "x.csv"), ["bad", "good"])


def test_a_few_labels_of_the_checkpoint_are_listed() -> None:
    known = [f"label {number}" for number in range(150)]
    rows = Split(["a", "b"], ["label 3", "label-149"], "x.csv", label_sets=[("label 3",), ("label 4", "label-149")])
    with pytest.raises(
        DataError, match=r"no label 'label-149'; .*, label 19 and 130 more; did you mean 'label 149'\?$"
    ):
        check_labels(rows, known)


@pytest.mark.parametrize(
    ("path", "is_used"),
    [
        ("/data/runs/toy/train-1/epoch-0001", True),
        ("/data/runs/toy/tune-1/trial-00001/epoch-0001", True),
        ("/home/user/downloads/epoch-0001", False),
        ("/data/runs/epoch-0001", False),
    ],
)
def test_a_foreign_checkpoint_does_not_choose_where_texts_are_cached(path: str, is_used: bool) -> None:
    """Its settings could name a store of somebody else, which would receive them."""
    experiment = Experiment().replace({"storage": "/data/runs"})
    checkpoint = Checkpoint(experiment, ["a"], [], {}, {}, path=path)
    with use_trusted_storage(experiment, checkpoint) as own:
        assert (own.storage == "/data/runs") == is_used
        assert is_used or Path(own.storage).is_dir()
    assert is_used or not Path(own.storage).exists()
    with use_trusted_storage(experiment.replace({"storage": "/own"}), checkpoint) as own:
        assert own.storage == "/own"
