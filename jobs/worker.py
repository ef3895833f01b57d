"""What each Ray Train worker runs: the loop, its checkpoints, and what it tells the driver.

Checkpoints are written, and epochs reported to Ray, by a thread beside the training. A worker that cannot go on
tells all others before it ends, so that none waits for it.
"""

import platform
import time
from collections.abc import Callable
from typing import Any

from cluster import UsageError
from cluster.storage import exists, join
from jobs import snapshot
from jobs.checkpoints import Background, Checkpoints, name_of
from jobs.corpus import Corpus
from jobs.experiment import Experiment
from jobs.group import Group
from jobs.history import Epoch
from jobs.loop import Loop
from jobs.network import Network

# How often a long epoch says how far it is.
TELL_S = 10.0


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Train, and return how it went: `progress` and `summary`, or `error`, if that is the user's to mend.

    Args:
        config: `experiment`, `corpus` (a reference), `queue` for what the driver shall hear, `path` of the run,
            `started`, when the driver began (seconds since the epoch).
    """
    import ray
    import ray.train.torch
    import torch

    experiment: Experiment = config["experiment"]
    context = ray.train.get_context()
    torch.set_num_threads(experiment.train.cpus_per_worker)
    device = ray.train.torch.get_device()
    group = Group(context.get_world_rank(), context.get_world_size(), device)
    first = group.rank == 0

    def tell(kind: str, value: Any) -> None:
        if first:
            config["queue"].actor.put_nowait.remote((kind, value))  # not waited for: the driver may be gone

    def report(metrics: dict[str, Any]) -> None:
        ray.train.report(metrics)

    try:
        _see(config["path"], group)
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
        _resume(loop, checkpoints, tell)
        first_step_s = time.time() - config["started"]
        tell("started", f"{group.size} worker{'s' if group.size > 1 else ''} on {device.type}")
        _train(experiment, corpus, loop, checkpoints, tell, report)
    except UsageError as error:
        return {"error": str(error)}
    return {
        "progress": loop.progress.to_json(),
        "summary": {
            "workers": group.size,
            "first_step_s": first_step_s,
            "step_s": loop.step_seconds,
            "steps": loop.steps,
            "bytes": loop.step_bytes,
        },
    }


def _see(path: str, group: Group) -> None:
    """Refuse a storage that one of the workers does not see; all of them do so together."""
    seen = exists(join(path, "experiment.yaml"))
    blind = [host for host in group.gather(None if seen else platform.node()) if host]
    if blind:
        raise UsageError(f"{path}: is not seen from {', '.join(sorted(set(blind)))}; every node must see the storage")


def _resume(loop: Loop, checkpoints: Checkpoints, tell: Callable[[str, Any], None]) -> None:
    """Go on where the run was, all workers from the same checkpoint: one may be written or lost meanwhile."""
    group = loop.group
    found = checkpoints.resumable(lambda line: tell("line", line)) if group.rank == 0 else None
    name = group.share(found and found[0])
    if name is None:
        return
    snapshot.restore(loop, found[1] if found else checkpoints.read(name))
    progress = loop.progress
    steps = f" and {progress.steps} steps" if progress.steps else ""
    tell("line", f"going on after epoch {len(progress.epochs)}{steps}")


def _train(
    experiment: Experiment,
    corpus: Corpus,
    loop: Loop,
    checkpoints: Checkpoints,
    tell: Callable[[str, Any], None],
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Train to the end; raises what went wrong on each worker, if it went wrong on any."""
    background = Background()
    told = time.monotonic()

    def looked(loop: Loop) -> None:
        nonlocal told
        if time.monotonic() - told > TELL_S:
            told = time.monotonic()
            tell("within", loop.within_epoch())

    def keep(epoch: Epoch | None) -> None:
        progress = loop.progress
        write = snapshot.take(experiment, corpus, loop, resumable=True)
        name, best = name_of(len(progress.epochs), progress.steps), progress.best

        def finish() -> None:
            if loop.group.rank == 0:
                checkpoints.write(name, write, best)
            if epoch is not None:
                report(vars(epoch))

        background.do(finish)

    error: UsageError | None = None
    for epoch in loop.moments(experiment.train.checkpoint_minutes * 60, looked):
        told = time.monotonic()
        try:
            keep(epoch)
        except UsageError as found:
            error = found
        if loop.group.any(error is not None):
            raise error or UsageError("another worker could not go on")
        if epoch is not None:
            tell("epoch", (epoch, loop.progress.best == epoch.epoch))
    try:
        background.wait()
    except UsageError as found:
        error = found
    if loop.group.any(error is not None):
        raise error or UsageError("another worker could not go on")
