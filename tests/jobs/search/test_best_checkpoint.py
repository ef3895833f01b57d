"""best.json always names the best complete checkpoint of a search, and worse checkpoints are removed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.storage import StorageError
from jobs.config.experiment import Experiment, load_experiment
from jobs.model import checkpoint_leases
from jobs.model.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from jobs.model.checkpoint_leases import write_lease
from jobs.model.checkpoint_locations import resolve_checkpoint
from jobs.search import best_checkpoint
from jobs.search.best_checkpoint import BestCheckpointManager, build_refit_experiment, write_best_yaml
from jobs.search.records import TrialRecord
from jobs.training.history import Epoch
from jobs.training.run_files.run_folder import BestCheckpoint, RunFolder
from tests.support.stored_checkpoints import publish
from tests.support.trial_records import make_epoch

# Accuracy of each saved checkpoint, by trial and epoch.
ACCURACIES = {(1, 1): 0.5, (1, 2): 0.8, (1, 3): 0.9, (2, 1): 0.7, (3, 1): 0.6, (3, 2): 0.75, (7, 1): 0.4}


def saved_epoch(number: int, epoch: int) -> Epoch:
    return make_epoch(epoch, ACCURACIES[number, epoch])


def ended(number: int, *epochs: int) -> TrialRecord:
    """Return the record of a trial that ended with its last saved epoch as the best."""
    trained = [saved_epoch(number, epoch) for epoch in epochs]
    return TrialRecord(number, {"model.dropout": number / 10}, "finished", epochs=trained, best=epochs[-1])


Scene = tuple[RunFolder, Experiment, BestCheckpointManager]


@pytest.fixture
def scene(make_experiment: Callable[..., Experiment], tmp_path: Path) -> Scene:
    """Run of a search with checkpoints of several trials, none of them named yet."""
    run = RunFolder(str(tmp_path / "runs" / "toy"), "tune-0123")
    experiment = make_experiment()
    for number, epoch in ACCURACIES:
        folder = Path(run.path, f"trial-{number:05d}", f"epoch-{epoch:04d}")
        metrics = vars(saved_epoch(number, epoch)) | {"rows": 100}
        save_checkpoint(folder, Checkpoint(experiment, ["a"], ["w"], {"vectors": np.zeros((3, 2))}, metrics))
    return run, experiment, BestCheckpointManager(run, experiment)


def named(run: RunFolder) -> dict[str, Any]:
    return json.loads(Path(run.path, "best.json").read_text())


def saved_paths(run: RunFolder) -> set[str]:
    return {str(path.relative_to(run.path)) for path in Path(run.path).glob("trial-*/epoch-*")}


def test_the_better_checkpoint_is_named_with_its_settings(scene: Scene) -> None:
    """For the run and, while no other run is finished, for the experiment; a worse one changes nothing."""
    run, experiment, manager = scene
    assert manager.best_ranking_key() is None
    manager.update_if_better(3, saved_epoch(3, 2), {"model.dropout": 0.3})
    manager.update_if_better(2, saved_epoch(2, 1), {"model.dropout": 0.4})
    best = named(run)
    assert (best["checkpoint"], best["finished"], best["trial"]) == ("trial-00003/epoch-0002", False, 3)
    assert (best["metrics"]["epoch"], best["metrics"]["accuracy"]) == (2, 0.75)
    assert run.read_finished_best() is None
    assert resolve_checkpoint(run.experiment_folder).endswith("trial-00003/epoch-0002")
    assert load_experiment(str(Path(run.experiment_folder, "best.yaml"))).model.dropout == 0.3
    again = BestCheckpointManager(run, experiment)
    assert again.best_ranking_key() == manager.best_ranking_key() == (0.75, -0.25, -3)


def test_the_settings_of_a_finished_search_are_those_of_the_experiment(scene: Scene) -> None:
    """Even if a better run remains the current one: the search was asked for settings."""
    run, experiment, manager = scene
    manager.update_if_better(2, saved_epoch(2, 1), {"model.dropout": 0.4})
    best = run.read_best()
    assert best is not None
    other = RunFolder(run.experiment_folder, "tune-4567")
    write_best_yaml(other, experiment, replace(best, settings={"model.dropout": 0.2}))
    assert load_experiment(str(Path(run.experiment_folder, "best.yaml"))).model.dropout == 0.4
    write_best_yaml(other, experiment, replace(best, settings={"model.dropout": 0.2}), is_finished=True)
    assert load_experiment(str(Path(run.experiment_folder, "best.yaml"))).model.dropout == 0.2


def test_an_incomplete_checkpoint_is_never_named(scene: Scene) -> None:
    """The previous one stays named."""
    run, _, manager = scene
    manager.update_if_better(2, saved_epoch(2, 1), {})
    Path(run.path, "trial-00003", "epoch-0002", "weights.safetensors").unlink()
    with pytest.raises(CheckpointError):
        manager.update_if_better(3, saved_epoch(3, 2), {})
    assert named(run)["trial"] == 2


def test_worse_checkpoints_are_removed_when_their_trial_has_ended(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except the previously named one, and later ones of the best trial, which are not named yet."""
    run, _, manager = scene
    monkeypatch.setattr(best_checkpoint, "REPLACED_KEPT_S", 0.0)
    manager.update_if_better(2, saved_epoch(2, 1), {})
    manager.update_if_better(1, saved_epoch(1, 2), {})
    before = saved_paths(run)
    manager.prune_checkpoints([])
    assert saved_paths(run) == before - {"trial-00001/epoch-0001"}
    others = [ended(2, 1), ended(3, 1, 2), ended(7, 1)]
    manager.prune_checkpoints(others)
    assert saved_paths(run) == {"trial-00001/epoch-0002", "trial-00001/epoch-0003", "trial-00002/epoch-0001"}
    manager.update_if_better(1, saved_epoch(1, 3), {})
    manager.prune_checkpoints([*others, ended(1, 1, 2, 3)])
    assert saved_paths(run) == {"trial-00001/epoch-0002", "trial-00001/epoch-0003"}


def test_checkpoints_replaced_a_moment_ago_are_not_removed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reading of best.json and that of the files it names, several better ones may be saved."""
    run, _, manager = scene
    for number, epoch in ((2, 1), (3, 2), (1, 2)):
        manager.update_if_better(number, saved_epoch(number, epoch), {})
    records = [ended(2, 1), ended(3, 1, 2), ended(7, 1)]
    manager.prune_checkpoints(records)
    assert {"trial-00002/epoch-0001", "trial-00003/epoch-0002", "trial-00001/epoch-0002"} <= saved_paths(run)
    monkeypatch.setattr(best_checkpoint, "REPLACED_KEPT_S", 0.0)
    manager.prune_checkpoints(records)
    assert "trial-00002/epoch-0001" not in saved_paths(run)
    assert {"trial-00003/epoch-0002", "trial-00001/epoch-0002"} <= saved_paths(run)


def test_a_search_continues_if_outdated_checkpoints_cannot_be_removed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Of another trial, and of the best one; they are removed when the next trial has ended."""
    run, _, manager = scene
    monkeypatch.setattr(best_checkpoint, "REPLACED_KEPT_S", 0.0)
    manager.update_if_better(1, saved_epoch(1, 2), {})

    def fail(path: str) -> None:
        raise StorageError(f"{path}: permission denied")

    before = saved_paths(run)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_leases, "remove_folder", fail)
        manager.prune_checkpoints([ended(7, 1)])
    assert saved_paths(run) == before
    assert len(messages) == 2
    manager.prune_checkpoints([ended(7, 1), ended(2, 1)])
    assert not {"trial-00007/epoch-0001", "trial-00001/epoch-0001"} & saved_paths(run)


def test_checkpoints_with_a_lease_are_not_removed(scene: Scene) -> None:
    """Services use them: two better trials later their replicas must still find them."""
    run, _, manager = scene
    manager.update_if_better(1, saved_epoch(1, 1), {})
    write_lease(str(Path(run.path, "trial-00001/epoch-0001")), "service", {})
    write_lease(str(Path(run.path, "trial-00007/epoch-0001")), "another service", {})
    manager.update_if_better(2, saved_epoch(2, 1), {})
    manager.update_if_better(3, saved_epoch(3, 2), {})
    manager.prune_checkpoints([ended(number, 1) for number in (1, 2, 7)])
    assert {"trial-00001/epoch-0001", "trial-00007/epoch-0001", "trial-00003/epoch-0002"} <= saved_paths(run)


def test_another_finished_run_stays_the_experiments_best_until_the_search_is_finished(scene: Scene) -> None:
    """A service of the experiment does not get the first trial of an unfinished search."""
    run, experiment, manager = scene
    published = Path(run.experiment_folder, "best.json")
    published.write_text(json.dumps({"checkpoint": "train-4567/epoch-0001", "run": "train-4567"}))
    manager.update_if_better(2, saved_epoch(2, 1), {})
    assert json.loads(published.read_text())["run"] == "train-4567"
    again = BestCheckpointManager(run, experiment)
    assert again.best is not None
    publish(run, again.best)
    assert json.loads(published.read_text())["run"] == "tune-0123"
    assert run.read_finished_best() == again.best


def test_a_better_checkpoint_that_is_not_named_yet_is_not_removed(scene: Scene) -> None:
    """Its trial was stopped before it could send a message; `reconcile` names it."""
    run, _, manager = scene
    manager.update_if_better(2, saved_epoch(2, 1), {})
    manager.prune_checkpoints([ended(3, 1, 2), ended(7, 1)])
    assert "trial-00003/epoch-0002" in saved_paths(run)
    assert not any(path.startswith("trial-00007") for path in saved_paths(run))


def test_the_best_record_is_named_when_a_search_resumes(scene: Scene) -> None:
    """The search was killed after the checkpoint was saved and before it was named."""
    run, _, manager = scene
    manager.update_if_better(2, saved_epoch(2, 1), {})
    records = [ended(2, 1), ended(3, 1, 2)]
    assert manager.reconcile(records) == records
    assert named(run)["checkpoint"] == "trial-00003/epoch-0002"
    assert named(run)["settings"] == {"model.dropout": 0.3}


def test_the_best_checkpoint_of_a_trial_that_had_not_ended_is_named_when_a_search_resumes(scene: Scene) -> None:
    """Trial 2 saved nothing, because trial 3 was better; damaged checkpoints and those of Ray Train are ignored."""
    run, _, manager = scene
    shutil.rmtree(Path(run.path, "trial-00002"))
    Path(run.path, "trial-00001", "epoch-0003", "weights.safetensors").unlink()
    Path(run.path, "trial-00001", "epoch-0002", "progress.json").write_text("{}")  # of a run of Ray Train
    Path(run.path, "trial-00001", "epoch-0001", "metrics.json").write_text("")
    manager.recover({1: {}, 2: {}, 3: {"model.dropout": 0.3}, 4: {}})
    records = [ended(2, 1)]
    assert manager.reconcile(records) == records
    best = named(run)
    assert (best["checkpoint"], best["trial"]) == ("trial-00003/epoch-0002", 3)
    assert best["settings"] == {"model.dropout": 0.3}
    assert (best["metrics"]["epoch"], best["metrics"]["accuracy"]) == (2, 0.75)


def test_a_trial_whose_best_checkpoint_was_lost_is_trained_again(scene: Scene) -> None:
    """The next best one is named until then."""
    run, _, manager = scene
    shutil.rmtree(Path(run.path, "trial-00003"))
    records = [ended(2, 1), ended(3, 1, 2)]
    assert manager.reconcile(records) == records[:1]
    assert named(run)["trial"] == 2


def test_a_refit_trains_the_best_settings_up_to_their_best_epoch(make_experiment: Callable[..., Experiment]) -> None:
    best = BestCheckpoint("trial-00003/epoch-0002", "accuracy", {"epoch": 2}, {"model.dropout": 0.3}, trial=3)
    thresholds = {"retention": 0.25, "precision": None}
    refit = build_refit_experiment(make_experiment(tune__epochs=5), best, 1.5, thresholds)
    assert refit.train.abstention_thresholds == {"retention": 0.25}
    assert (refit.model.dropout, refit.train.epochs, refit.train.last_epoch) == (0.3, 5, 2)
    assert refit.train.temperature == 1.5
