"""best.json names the best checkpoint of a search, which is there, and what is outdone goes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.config.experiment import Experiment, load_experiment
from jobs.model import checkpoint
from jobs.model.checkpoint import CheckpointError
from jobs.search.best_checkpoint import BestCheckpointManager
from jobs.search.records import TrialRecord
from jobs.training.run_folder import RunFolder
from tests.support.trials import run, trial


def figures(epoch: int, accuracy: float) -> dict:
    return {"epoch": epoch, "train_loss": 0.5, "loss": 1 - accuracy, "accuracy": accuracy, "macro_f1": accuracy}


@pytest.fixture
def place(make_experiment: Callable[..., Experiment], tmp_path: Path) -> tuple[RunFolder, Experiment]:
    """A search's run in which trial 7 has kept an epoch or more, and has copies under other numbers."""
    found = RunFolder(str(tmp_path / "runs" / "toy"), "tune-0123")
    experiment = make_experiment()
    run(trial(experiment, Path(found.path))[0])
    (kept,) = sorted(Path(found.path, "trial-00007").iterdir())[-1:]
    for number, epoch in ((1, 1), (1, 2), (1, 3), (2, 1), (3, 1)):
        target = Path(found.path, f"trial-{number:05d}", f"epoch-{epoch:04d}")
        target.mkdir(parents=True)
        for file in kept.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
    return found, experiment


def ended(*numbers: int) -> list[TrialRecord]:
    return [TrialRecord(number, {}, "finished", epochs=[figures(1, 0.1)], best=1) for number in numbers]


def left(found: RunFolder) -> set[str]:
    return {str(path.relative_to(found.path)) for path in Path(found.path).glob("trial-*/epoch-*")}


def test_the_better_one_is_named_with_its_settings(place: tuple[RunFolder, Experiment]) -> None:
    """For the run and, while no other is finished, for the experiment; a worse one changes nothing."""
    found, experiment = place
    champion = BestCheckpointManager(found, experiment)
    assert champion.best_ranking_key() is None
    champion.update_if_better(2, 1, figures(1, 0.7), {"model.dropout": 0.3})
    champion.update_if_better(3, 1, figures(1, 0.6), {"model.dropout": 0.4})
    named = json.loads(Path(found.path, "best.json").read_text())
    assert (named["checkpoint"], named["finished"], named["trial"]) == ("trial-00002/epoch-0001", False, 2)
    assert found.read_finished_best() is None
    assert checkpoint.resolve_checkpoint(found.experiment_folder).endswith("trial-00002/epoch-0001")
    assert load_experiment(str(Path(found.experiment_folder, "best.yaml"))).model.dropout == 0.3
    again = BestCheckpointManager(found, experiment)
    assert again.best_ranking_key() == champion.best_ranking_key() == (0.7, -(1 - 0.7), -2)


def test_what_is_not_whole_is_never_named(place: tuple[RunFolder, Experiment]) -> None:
    """Nor is the one before forgotten."""
    found, experiment = place
    champion = BestCheckpointManager(found, experiment)
    champion.update_if_better(2, 1, figures(1, 0.7), {})
    Path(found.path, "trial-00003", "epoch-0001", "weights.safetensors").unlink()
    with pytest.raises(CheckpointError):
        champion.update_if_better(3, 1, figures(1, 0.8), {})
    assert json.loads(Path(found.path, "best.json").read_text())["trial"] == 2


def test_what_is_outdone_goes_when_its_trial_has_ended(place: tuple[RunFolder, Experiment]) -> None:
    """But for the one that was named before, and what a trial has kept that nobody was told of yet."""
    found, experiment = place
    champion = BestCheckpointManager(found, experiment)
    champion.update_if_better(2, 1, figures(1, 0.7), {})
    champion.update_if_better(1, 2, figures(2, 0.8), {})
    before = left(found)
    champion.prune_checkpoints([])
    assert left(found) == before - {"trial-00001/epoch-0001"}
    champion.prune_checkpoints(ended(2, 3, 7))
    assert left(found) == {"trial-00001/epoch-0002", "trial-00001/epoch-0003", "trial-00002/epoch-0001"}
    champion.update_if_better(1, 3, figures(3, 0.9), {})
    champion.prune_checkpoints(ended(1, 2, 3, 7))
    assert left(found) == {"trial-00001/epoch-0002", "trial-00001/epoch-0003"}


def test_another_run_that_is_finished_stays_the_experiments_best_until_the_search_is(
    place: tuple[RunFolder, Experiment],
) -> None:
    """Whoever serves it is not handed an unfinished search's first trial."""
    found, experiment = place
    Path(found.experiment_folder, "best.json").write_text(
        json.dumps({"checkpoint": "train-4567/epoch-0001", "run": "train-4567"})
    )
    champion = BestCheckpointManager(found, experiment)
    champion.update_if_better(2, 1, figures(1, 0.7), {})
    assert json.loads(Path(found.experiment_folder, "best.json").read_text())["run"] == "train-4567"
    again = BestCheckpointManager(found, experiment)
    assert again.best is not None
    found.finish(again.best)
    assert json.loads(Path(found.experiment_folder, "best.json").read_text())["run"] == "tune-0123"
    assert found.read_finished_best() == again.best


def test_what_is_better_and_was_not_told_of_stays(place: tuple[RunFolder, Experiment]) -> None:
    """Its trial was stopped before it could say so; whoever reads the records names it."""
    found, experiment = place
    champion = BestCheckpointManager(found, experiment)
    champion.update_if_better(2, 1, figures(1, 0.7), {})
    champion.prune_checkpoints([TrialRecord(3, {}, "stopped", epochs=[figures(1, 0.8)], best=1), *ended(7)])
    assert "trial-00003/epoch-0001" in left(found)
    assert not any(name.startswith("trial-00007") for name in left(found))


def record(number: int, accuracy: float) -> TrialRecord:
    return TrialRecord(number, {"model.dropout": number / 10}, "finished", epochs=[figures(1, accuracy)], best=1)


def test_a_best_that_was_kept_and_not_named_is_named(place: tuple[RunFolder, Experiment]) -> None:
    """The search was cut off in between; it is in the records and in its folder."""
    found, experiment = place
    champion = BestCheckpointManager(found, experiment)
    champion.update_if_better(2, 1, figures(1, 0.7), {})
    records = [record(2, 0.7), record(3, 0.8)]
    assert champion.reconcile(records) == records
    assert json.loads(Path(found.path, "best.json").read_text())["settings"] == {"model.dropout": 0.3}


def test_a_trial_that_was_outdone_by_one_that_has_not_ended_is_not_trained_again(
    place: tuple[RunFolder, Experiment],
) -> None:
    """Killed after trial 3 had kept its epoch, when neither that was named nor had it ended; trial 2 kept nothing."""
    found, experiment = place
    facts = json.loads(Path(found.path, "trial-00003", "epoch-0001", "metrics.json").read_text())
    shutil.rmtree(Path(found.path, "trial-00002"))
    Path(found.path, "trial-00001", "epoch-0003", "weights.safetensors").unlink()
    Path(found.path, "trial-00001", "epoch-0002", "progress.json").write_text("{}")  # of a run of Ray Train
    Path(found.path, "trial-00001", "epoch-0001", "metrics.json").write_text("")
    champion = BestCheckpointManager(found, experiment)
    champion.recover({1: {}, 2: {}, 3: {"model.dropout": 0.3}, 4: {}})
    records = [record(2, facts["accuracy"] - 0.1)]
    assert champion.reconcile(records) == records
    named = json.loads(Path(found.path, "best.json").read_text())
    assert (named["trial"], named["settings"]) == (3, {"model.dropout": 0.3})
    assert named["metrics"]["accuracy"] == facts["accuracy"]


def test_a_best_whose_checkpoint_was_lost_is_trained_again(place: tuple[RunFolder, Experiment]) -> None:
    """The next best is named until then."""
    found, experiment = place
    shutil.rmtree(Path(found.path, "trial-00003"))
    records = [record(2, 0.7), record(3, 0.8)]
    assert BestCheckpointManager(found, experiment).reconcile(records) == records[:1]
    assert json.loads(Path(found.path, "best.json").read_text())["trial"] == 2
