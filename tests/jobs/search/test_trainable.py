"""Trainables of Ray Tune around the training of a trial."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from ray.exceptions import ActorDiedError, OwnerDiedError, RayTaskError

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.search.records import REPORT_KEY
from jobs.search.trainable import DistributedTrial, InProcessTrial, is_system_failure
from jobs.training.history import Progress
from jobs.training.monitor import RunStatus, monitor_workers
from tests.support.commands import run_command


def test_the_driver_of_a_search_does_not_import_torch() -> None:
    """It starts two seconds earlier; the processes of the trials import torch."""
    script = "import sys, jobs.search.tune; sys.exit('torch' in sys.modules)"
    result = run_command("python", "-c", script, env={"PYTHONPATH": str(REPOSITORY)})
    assert result.returncode == 0, result.stderr


def test_losses_of_processes_are_distinguished_from_failures() -> None:
    """An error that a task raised is a failure, in whatever process it ran."""
    assert is_system_failure(ActorDiedError())
    assert is_system_failure(OwnerDiedError("0" * 56, None, ""))
    assert not is_system_failure(RayTaskError("f", "traceback", ValueError("x")))
    assert not is_system_failure(ValueError("x"))


@pytest.mark.parametrize("kind", [InProcessTrial, DistributedTrial])
def test_a_trial_is_restarted_after_the_loss_of_a_process_and_fails_after_its_own_error(
    kind: type[InProcessTrial | DistributedTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune restarts a trial whose step raises."""
    trial, errors = kind.__new__(kind), [ActorDiedError(), ValueError("no rows")]
    trial.__dict__.update(
        _experiment=Experiment(), _inputs=SimpleNamespace(experiment=Experiment()), _trial=None, _progress=Progress()
    )
    next_epoch = "train_epoch" if kind is InProcessTrial else "_next_report"
    monkeypatch.setattr(kind, next_epoch, Mock(side_effect=errors))
    with pytest.raises(ActorDiedError):
        trial.step()
    assert "no rows" in trial.step()[REPORT_KEY].error


def test_a_stopped_trial_leaves_no_messages(tmp_path: Path) -> None:
    """Its run does not end by itself: the callback's context is still open."""
    trial = DistributedTrial.__new__(DistributedTrial)
    trial._run_status = RunStatus(0.0)
    trial.cleanup()  # before the run has started
    with monitor_workers(3, str(tmp_path), trial._run_status, []) as callback:
        file = callback.send.__self__  # type: ignore[attr-defined]  # a method
        callback.send([("started", "2 workers")])
        trial.cleanup()
        assert not Path(file.path).exists()
        assert trial._run_status.workers_running.is_set()
