"""What each Ray Train worker runs: the loop, its checkpoints, and what it tells the driver.

Checkpoints are written by a thread beside the training. A worker that cannot go on tells all others before it
ends, so that none waits for it. What a run reached goes to the driver and into checkpoints; Ray's own reports are
not used: each makes all workers wait for the controller's next look, and nobody reads them.
"""

import platform
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cluster import UsageError
from cluster.storage import StorageError, exists, join
from jobs.config.experiment import Experiment
from jobs.model.network import Network
from jobs.training import snapshot
from jobs.training.checkpoint_store import Background, Checkpoints, name_of
from jobs.training.corpus import Corpus
from jobs.training.loop import Loop
from jobs.training.process_group import Group

Found = TypeVar("Found")
Tell = Callable[[str, Any], None]

# How often a long epoch says how far it is.
TELL_S = 10.0

# So long a worker waits at its end for what it has sent.
SENT_S = 10.0


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and return how it went: `progress` and `summary`, or `error`, if that is the user's to mend.

    Args:
        config: `experiment`, `corpus` (a reference), `path` of the run, and `mailbox` for what the driver shall hear,
            as (kind, value).
    """
    import ray
    import ray.train.torch
    import torch

    experiment: Experiment = config["experiment"]
    context = ray.train.get_context()
    torch.set_num_threads(experiment.train.cpus_per_worker)
    device = ray.train.torch.get_device()
    group = Group(context.get_world_rank(), context.get_world_size(), device)

    told: Any = None

    def tell(kind: str, value: Any) -> None:
        nonlocal told
        if group.rank == 0:
            told = config["mailbox"].put.remote((kind, value))  # not waited for: the driver may be gone

    try:
        see(config["path"], group)
        group.meet()
        corpus: Corpus = ray.get(config["corpus"])
        network = Network(
            experiment.model,
            corpus.vectors,
            len(corpus.labels),
            experiment.seed,
            num_trained=len(corpus.counts()),
            rank=group.rank,
            size=group.size,
        ).to(device)
        loop = Loop(network, corpus, experiment.train, experiment.seed, group, device)
        checkpoints = Checkpoints(config["path"])
        resume(loop, checkpoints, tell)
        tell("started", f"{group.size} worker{'s' if group.size > 1 else ''} on {device.type}")
        _train(experiment, corpus, loop, checkpoints, tell)
    except UsageError as error:
        return {"error": str(error)}
    finally:
        if told is not None:  # all that was sent is there before the driver takes for the last time
            ray.wait([told], timeout=SENT_S)
    summary = {"workers": group.size, "steps": loop.steps, "bytes": loop.step_bytes}
    return {"progress": loop.progress.to_json(), "summary": summary | _times(loop)}


def together(group: Group, do: Callable[[], Found]) -> Found:
    """Return what something returns on this worker; if it fails on any, raise on all of them.

    Raises:
        UsageError: the first worker's that failed.
    """
    try:
        found, failed = do(), None
    except UsageError as error:
        found, failed = None, str(error)
    for each in group.gather(failed):
        if each is not None:
            raise UsageError(each)
    return found


def see(path: str, group: Group) -> None:
    """Refuse a storage that one of the workers does not see; all of them do so together."""
    try:
        seen = exists(join(path, "experiment.yaml"))
    except StorageError:
        seen = False
    blind = [host for host in group.gather(None if seen else platform.node()) if host]
    if blind:
        raise UsageError(f"{path}: is not seen from {', '.join(sorted(set(blind)))}; every node must see the storage")


def resume(loop: Loop, checkpoints: Checkpoints, tell: Tell) -> None:
    """Go on where the run was, all workers from the same checkpoint: one may be written or lost meanwhile."""
    group = loop.group
    first = group.rank == 0
    found = together(group, lambda: checkpoints.resumable(lambda line: tell("line", line)) if first else None)
    name = group.share(found and found[0])
    if name is None:
        return
    snapshot.restore(loop, together(group, lambda: found[1] if found else checkpoints.read(name)))
    progress = loop.progress
    steps = f" and {progress.steps} steps" if progress.steps else ""
    tell("line", f"going on after epoch {len(progress.epochs)}{steps}")


def _train(experiment: Experiment, corpus: Corpus, loop: Loop, checkpoints: Checkpoints, tell: Tell) -> None:
    """Train to the end; raises on every worker what went wrong on any."""
    background = Background()
    told = time.monotonic()

    def looked(loop: Loop) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            tell("within", loop.within_epoch())

    for epoch in loop.moments(experiment.train.checkpoint_minutes * 60, looked):
        told = time.monotonic()
        progress = loop.progress
        write = snapshot.take(experiment, corpus, loop, resumable=True)
        position = name_of(len(progress.epochs), progress.steps), write, progress.best, _times(loop)

        def keep(position: tuple = position) -> None:
            name, write, best, times = position
            checkpoints.write(name, write, best)
            tell("kept", times)

        together(loop.group, lambda keep=keep: background.do(keep) if loop.group.rank == 0 else None)
        if epoch is not None:
            tell("epoch", (epoch, progress.best == epoch.epoch))
    together(loop.group, background.wait)


def _times(loop: Loop) -> dict[str, float]:
    """Return when the first step was taken (seconds since 1970), and the seconds that all took."""
    return {"first_step_at": loop.first_step_at, "step_s": loop.step_seconds}
