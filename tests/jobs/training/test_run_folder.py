"""Run folders: which settings decide a run's key, and what best.json names."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import CheckpointError
from jobs.training.corpus import Corpus
from jobs.training.run_folder import BestCheckpoint, RunFolder, resolve_run_folder, train_settings_key
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
        run.finish(best("c1"))
    write_manifest(Path(run.path, "c1"))
    weights = Path(run.path, "c1", "weights.safetensors")
    weights.unlink()
    if content is not None:
        weights.write_text(content)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors missing or truncated"):
        run.finish(best("c1"))
    assert not list(tmp_path.rglob("best.json"))


def test_best_json_marks_a_finished_run_and_the_experiments_names_the_newest(tmp_path: Path) -> None:
    """Checkpoint paths are relative to the file, so that a folder can be moved."""
    run, other = RunFolder(str(tmp_path), "train-1"), RunFolder(str(tmp_path), "train-2")
    for folder, name in ((run, "c1"), (other, "c2")):
        write_manifest(Path(folder.path, name))
        assert folder.read_finished_best() is None
    run.finish(best("c1"))
    top = other.finish(best("c2"))
    assert run.read_finished_best() == best("c1")
    assert json.loads(Path(top).read_text()) == best("train-2/c2").to_json() | {"run": "train-2"}
    run.publish(best("c1"))
    assert json.loads(Path(top).read_text())["checkpoint"] == "train-1/c1"
