"""Resources of the trials of a search: CPUs and GPUs of each, and how many run at once."""

from dataclasses import dataclass

from cluster.resources import check_capacity, torch_uses_gpus, use_gpus, worker_capacity
from jobs.config.experiment import Experiment
from jobs.config.settings import WORKER_SETTINGS


@dataclass(frozen=True)
class TrialResources:
    """Share of the cluster that each trial gets, such that all trials that run at once have what they need.

    resources: of a trial, as Tune takes them. wait_message: what the trials wait for first, or None.
    use_gpu: trials train on GPUs.
    distributed: a trial is a run of Ray Train. Its workers get their resources all together or not at all, and the
    trial's own process takes none; no more trials run than fit. So no trial holds what another one waits for.
    """

    resources: dict[str, float]
    max_concurrent_trials: int
    wait_message: str | None
    distributed: bool
    use_gpu: bool = False


def plan_trial_resources(experiment: Experiment) -> TrialResources:
    """Return the resources of an experiment's trials.

    Raises:
        ResourceError: the cluster will never have them, or torch cannot use the requested GPUs.
    """
    tune, train = experiment.tune, experiment.train

    def limit(capacity: int) -> int:
        return max(1, min(capacity, tune.max_concurrent or capacity))  # 1 while the cluster has yet to grow

    if train.min_workers > 1:
        use_gpu = use_gpus(train.use_gpu, train.min_workers, train.cpus_per_worker)
        wait_message = check_capacity(train.min_workers, train.cpus_per_worker, use_gpu, WORKER_SETTINGS)
        capacity = worker_capacity(train.cpus_per_worker, use_gpu) // train.min_workers
        # Tune requires some resource: a megabyte.
        return TrialResources({"cpu": 0.0, "memory": 1e6}, limit(capacity), wait_message, True, use_gpu)
    gpus = _select_gpus_per_trial(experiment)
    settings = "train.cpus_per_worker" + (" and tune.gpus_per_trial" if gpus else "")
    wait_message = check_capacity(1, train.cpus_per_worker, gpus, settings)
    resources = {"cpu": float(train.cpus_per_worker)} | ({"gpu": gpus} if gpus else {})
    capacity = worker_capacity(train.cpus_per_worker, gpus)
    return TrialResources(resources, limit(capacity), wait_message, False, gpus > 0)


def _select_gpus_per_trial(experiment: Experiment) -> float:
    """Return the GPUs of a trial with one worker. Without `tune.gpus_per_trial` as in a run of `train`."""
    gpus, train = experiment.tune.gpus_per_trial, experiment.train
    if gpus is None:
        return float(use_gpus(train.use_gpu, 1, train.cpus_per_worker))
    return gpus if gpus and torch_uses_gpus(required=bool(train.use_gpu)) else 0.0
