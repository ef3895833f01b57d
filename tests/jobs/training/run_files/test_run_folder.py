"""Run folders: which settings decide a run's key, and what best.json names."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.model.checkpoint import CheckpointError
from jobs.model.checkpoint_locations import read_published_test_part
from jobs.training.corpora.corpus import Corpus
from jobs.training.run_files import run_folder
from jobs.training.run_files.run_folder import (
    BestCheckpoint,
    RunFolder,
    model_settings_key,
    resolve_run_folder,
    text_settings_key,
    train_settings_key,
)
from tests.support.stored_checkpoints import publish
from tests.support.toy_data import make_test_corpus


@pytest.fixture
def corpus(make_experiment: Callable[..., Experiment]) -> Corpus:
    return make_test_corpus(make_experiment())


def best(checkpoint: str) -> BestCheckpoint:
    return BestCheckpoint(checkpoint, "accuracy", {"epoch": 1, "accuracy": 0.5})


def test_the_settings_that_decide_the_result_decide_the_folder(
    make_experiment: Callable[..., Experiment], corpus: Corpus
) -> None:
    """The number of workers or of concurrent trials does not change the folder."""
    first = resolve_run_folder("train", make_experiment(), corpus)
    assert resolve_run_folder("train", make_experiment(train__workers=4, train__cpus_per_worker=2), corpus) == first
    for other in (
        make_experiment(model__dropout=0.1),
        make_experiment(seed=1),
        make_experiment(train__epochs=4),
        make_experiment(text__max_tokens=5),
    ):
        assert resolve_run_folder("train", other, corpus) != first
    search = resolve_run_folder("tune", make_experiment(), corpus)
    assert search != first
    assert resolve_run_folder("tune", make_experiment(tune__max_concurrent=1), corpus) == search
    assert resolve_run_folder("tune", make_experiment(tune__samples=9), corpus) != search


def test_keys_have_the_former_setting_for_folds(make_experiment: Callable[..., Experiment]) -> None:
    """With the former setting in the keys, runs of earlier versions are found again."""
    assert train_settings_key(make_experiment().train)["folds"] is None
    assert train_settings_key(make_experiment().train, 5)["folds"] == 5


def test_the_key_has_the_learning_rate_of_the_vectors(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of a version that derives another rate for them is another run; with a set rate it is the same."""
    derived, chosen = make_experiment().train, make_experiment(train__vectors_learning_rate=0.001).train
    before = train_settings_key(derived), train_settings_key(chosen)
    monkeypatch.setattr(run_folder, "VECTORS_LEARNING_RATE_FACTOR", 1)
    assert train_settings_key(derived) != before[0]
    assert train_settings_key(chosen) == before[1]


def test_a_setting_of_a_later_version_is_in_the_key_if_it_is_set(make_experiment: Callable[..., Experiment]) -> None:
    """Runs that earlier versions trained with its default are found again."""
    later = {"class_weights", "temperature", "abstention_retention", "abstention_precision", "abstention_thresholds"}
    assert later.isdisjoint(train_settings_key(make_experiment().train))
    assert train_settings_key(make_experiment(train__abstention_retention=0.9).train)["abstention_retention"] == 0.9
    assert train_settings_key(make_experiment(train__temperature=1).train)["temperature"] == 1
    assert train_settings_key(make_experiment(train__class_weights="balanced").train)["class_weights"] == "balanced"
    assert "max_edit_distance" not in text_settings_key(make_experiment().text)
    assert text_settings_key(make_experiment(text__max_edit_distance=1).text)["max_edit_distance"] == 1
    assert "linear" not in model_settings_key(make_experiment(model__linear="none").model)
    assert model_settings_key(make_experiment().model)["linear"] == "words-and-pairs"


def write_manifest(folder: Path) -> None:
    """Write the files of a checkpoint that are checked before it is named."""
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_text("w")
    (folder / "manifest.json").write_text(json.dumps({"files": {"weights.safetensors": {"bytes": 1}}}))


@pytest.mark.parametrize("content", [None, ""], ids=["missing", "truncated"])
def test_an_incomplete_checkpoint_is_never_named_as_best(tmp_path: Path, content: str | None) -> None:
    """Neither the run's best.json nor the experiment's names an incomplete checkpoint."""
    run = RunFolder(str(tmp_path), "train-1")
    with pytest.raises(CheckpointError, match="c1: is an incomplete checkpoint"):
        publish(run, best("c1"))
    write_manifest(Path(run.path, "c1"))
    weights = Path(run.path, "c1", "weights.safetensors")
    weights.unlink()
    if content is not None:
        weights.write_text(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors missing or truncated"):
        publish(run, best("c1"))
    assert not list(tmp_path.rglob("best.json"))


def test_best_json_marks_a_finished_run_and_the_experiments_names_the_current_one(tmp_path: Path) -> None:
    """Checkpoint paths are relative to the file, so that a folder can be moved."""
    run, other = RunFolder(str(tmp_path), "train-1"), RunFolder(str(tmp_path), "train-2")
    for folder, name in ((run, "c1"), (other, "c2")):
        write_manifest(Path(folder.path, name))
        assert folder.read_finished_best() is None
    publish(run, best("c1"))
    top = publish(other, best("c2"))
    assert run.read_finished_best() == best("c1")
    assert json.loads(Path(top).read_text()) == best("train-2/c2").to_json() | {"run": "train-2"}
    run.publish(best("c1"))
    assert json.loads(Path(top).read_text())["checkpoint"] == "train-1/c1"


def finish_run(folder: Path, name: str, rows: str | None, metric: str = "accuracy", **metrics: float | None) -> str:
    """Finish a run with these metrics of its best epoch, and return the name of the run that best.json names."""
    run = RunFolder(str(folder), name, validation=rows)
    write_manifest(Path(run.path, "c1"))
    path = publish(run, BestCheckpoint("c1", metric, {"epoch": 1, "loss": 0.5, **metrics}))
    current = json.loads((folder / "best.json").read_text())["run"]
    assert path == str(folder / "best.json" if current == name else folder / name / "best.json")
    return str(current)


def test_the_description_names_the_metric_that_selected_the_epoch() -> None:
    metrics = {"epoch": 2, "loss": 0.5, "accuracy": 0.9, "macro_f1": 0.8, "balanced_accuracy": 0.7, "micro_f1": None}
    values = "accuracy 0.9000 macro_f1 0.8000 balanced_accuracy 0.7000 loss 0.5000"
    assert BestCheckpoint("c", "balanced_accuracy", metrics).describe() == f"epoch 2, validation {values}"
    values = "accuracy 0.9000 macro_f1 0.8000 loss 0.5000"
    assert BestCheckpoint("c", "accuracy", metrics).describe() == f"epoch 2, validation {values}"


def test_a_worse_run_on_the_same_validation_rows_does_not_become_current(tmp_path: Path, messages: list[str]) -> None:
    """The output names the current run and the option."""
    assert finish_run(tmp_path, "train-1", "rows", accuracy=1.0) == "train-1"
    assert messages == []
    assert finish_run(tmp_path, "train-2", "rows", accuracy=0.43) == "train-1"
    assert messages == [
        f"train-1 remains the current run of {tmp_path}: this run is worse, with accuracy 0.4300 against accuracy "
        "1.0000 on the same validation rows; to make it current, repeat the command with --promote"
    ]
    own = json.loads((tmp_path / "train-2" / "best.json").read_text())
    assert (own["checkpoint"], own["validation"]) == ("c1", "rows")


def test_the_output_says_that_the_loss_decides_between_equal_metrics(tmp_path: Path, messages: list[str]) -> None:
    finish_run(tmp_path, "train-1", "rows", accuracy=0.43, loss=0.3)
    finish_run(tmp_path, "train-2", "rows", accuracy=0.43, loss=0.4)
    decision = "equal accuracy 0.4300, so that the loss decides: loss 0.4000 against loss 0.3000 on the same validation"
    assert f"this run is worse, with {decision} rows; to make it current" in messages[-1]
    finish_run(tmp_path, "train-3", "rows", accuracy=0.43, loss=0.3, metric="loss")
    assert "instead of train-1: loss 0.3000 against loss 0.3000 on" in messages[-1]


def test_a_worse_run_becomes_current_on_request(tmp_path: Path, messages: list[str]) -> None:
    finish_run(tmp_path, "train-1", "rows", accuracy=1.0)
    finish_run(tmp_path, "train-2", "rows", accuracy=0.43)
    run = RunFolder(str(tmp_path), "train-2", validation="rows", promote=True)
    finished = run.read_finished_best()
    assert finished is not None
    assert run.publish(finished) == str(tmp_path / "best.json")
    assert run.is_published()
    assert f"train-2 is the current run of {tmp_path} now, instead of train-1: accuracy 0.4300" in messages[-1]


@pytest.mark.parametrize(
    ("first", "second", "current"),
    [
        ({"accuracy": 0.5}, {"accuracy": 0.6}, "train-2"),
        ({"accuracy": 0.5, "loss": 0.4}, {"accuracy": 0.5, "loss": 0.3}, "train-2"),
        ({"accuracy": 0.5, "loss": 0.3}, {"accuracy": 0.5, "loss": 0.4}, "train-1"),
        ({"accuracy": 0.5}, {"accuracy": 0.5}, "train-2"),
        ({"accuracy": 0.9, "loss": 0.4}, {"accuracy": 0.8, "loss": 0.3, "metric": "loss"}, "train-2"),
        ({"accuracy": 0.9}, {"accuracy": 0.8, "train_loss": 0.1, "metric": "train_loss"}, "train-1"),
        ({"accuracy": 0.9}, {"accuracy": 0.8, "metric": "seconds"}, "train-1"),
        (
            {"accuracy": 0.8, "balanced_accuracy": 0.7},
            {"accuracy": 0.9, "balanced_accuracy": 0.6, "metric": "balanced_accuracy"},
            "train-1",
        ),
        ({"accuracy": 0.9}, {"accuracy": 0.8, "balanced_accuracy": 0.6, "metric": "balanced_accuracy"}, "train-2"),
    ],
)
def test_runs_are_compared_by_the_metric_of_the_new_run(
    tmp_path: Path, first: dict[str, float], second: dict[str, Any], current: str
) -> None:
    """The loss decides between equals; metrics that are not of the validation part are replaced by the accuracy.

    A run of an earlier version, without the metric, is not compared.
    """
    finish_run(tmp_path, "train-1", "rows", **first)
    assert finish_run(tmp_path, "train-2", "rows", **second) == current


@pytest.mark.parametrize(("first", "second"), [("rows", "others"), (None, None), (None, "rows")])
def test_runs_with_different_validation_rows_are_not_compared(
    tmp_path: Path, first: str | None, second: str | None, messages: list[str]
) -> None:
    """The newest becomes current, and the output says why. An earlier version did not record the rows."""
    finish_run(tmp_path, "train-1", first, accuracy=1.0)
    assert finish_run(tmp_path, "train-2", second, accuracy=0.4) == "train-2"
    assert "the two cannot be compared: their validation rows differ or are not recorded" in messages[-1]


def test_runs_without_a_validation_part_are_not_compared(tmp_path: Path) -> None:
    finish_run(tmp_path, "train-1", "empty", accuracy=None, loss=None)
    assert finish_run(tmp_path, "train-2", "empty", accuracy=None, loss=None) == "train-2"


def test_a_run_whose_checkpoint_was_deleted_does_not_remain_current(tmp_path: Path) -> None:
    finish_run(tmp_path, "train-1", "rows", accuracy=1.0)
    shutil.rmtree(tmp_path / "train-1")
    assert finish_run(tmp_path, "train-2", "rows", accuracy=0.4) == "train-2"


def test_the_validation_rows_identify_what_a_run_was_measured_on(make_experiment: Callable[..., Experiment]) -> None:
    """Another seed draws other rows; other settings do not."""
    digests = []
    for experiment in (make_experiment(), make_experiment(model__dropout=0.1), make_experiment(seed=1)):
        corpus, validation = make_test_corpus(experiment), load_dataset(experiment).validation
        digests.append(resolve_run_folder("train", experiment, corpus, validation).validation)
    assert digests[0] == digests[1] != digests[2]


def test_a_run_that_is_not_current_names_the_test_part_of_its_newest_command(tmp_path: Path) -> None:
    """`evaluate` of the run's own folder measures that file; without one in the command it measures none."""
    finish_run(tmp_path, "train-1", "rows", accuracy=1.0)
    finish_run(tmp_path, "train-2", "rows", accuracy=0.4)
    for test in ("a.csv", "b.csv", None):
        run = RunFolder(str(tmp_path), "train-2", test=test, validation="rows")
        finished = run.read_finished_best()
        assert finished is not None
        assert run.publish(finished) == str(tmp_path / "train-2" / "best.json")
        assert read_published_test_part(run.path) == test
    assert read_published_test_part(str(tmp_path)) is None


def test_an_unfinished_search_is_published_as_unfinished(tmp_path: Path) -> None:
    """So nothing takes its checkpoint for the result; the mark disappears when the search is finished."""
    run = RunFolder(str(tmp_path), "tune-1")
    write_manifest(Path(run.path, "c1"))
    run.update_best(best("c1"))
    for path in (tmp_path, Path(run.path)):
        assert json.loads((path / "best.json").read_text())["finished"] is False
    publish(run, best("c1"))
    for path in (tmp_path, Path(run.path)):
        assert "finished" not in json.loads((path / "best.json").read_text())
