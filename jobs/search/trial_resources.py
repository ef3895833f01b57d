"""What each trial of a search is given of the cluster, so that all that run at once have what they need."""

from dataclasses import dataclass

from cluster import resources
from jobs.config.experiment import Experiment


@dataclass(frozen=True)
class TrialResources:
    """resources: of a trial, as Tune takes them. at_once: trials. waits: what they wait for first, or None.

    distributed: a trial is a run of Ray Train, whose workers take their room all together or not at all; what
    starts them takes none, and no more are started than there is room for. So none holds what another waits for.
    """

    resources: dict[str, float]
    max_concurrent_trials: int
    wait_message: str | None
    distributed: bool


def plan_trial_resources(experiment: Experiment) -> TrialResources:
    """Return what the trials of an experiment are given; ResourceError if the cluster never has it."""
    tune, train = experiment.tune, experiment.train
    if train.min_workers > 1:
        gpu = bool(train.use_gpu)
        waits = resources.check_capacity(train.min_workers, train.cpus_per_worker, gpu)
        room = resources.worker_capacity(train.cpus_per_worker, gpu) // train.min_workers
        # Tune asks for something: a megabyte.
        return TrialResources({"cpu": 0.0, "memory": 1e6}, _at_most(room, tune.max_concurrent), waits, distributed=True)
    share = tune.gpus_per_trial if tune.gpus_per_trial is not None else float(bool(train.use_gpu))
    waits = resources.check_capacity(1, train.cpus_per_worker, share)
    given = {"cpu": float(train.cpus_per_worker)} | ({"gpu": share} if share else {})
    return TrialResources(
        given, _at_most(resources.worker_capacity(train.cpus_per_worker, share), tune.max_concurrent), waits, False
    )


def _at_most(room: int, limit: int | None) -> int:
    """Return how many run at once: one where there is no room yet."""
    return max(1, min(room, limit) if limit else room)
