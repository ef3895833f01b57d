"""What each Ray Train worker runs: the loop, its checkpoints, and what it tells the driver.

Checkpoints are written by a thread beside the training. A worker that cannot go on tells all others before it
ends, so that none waits for it. What a run reached goes to the driver and into checkpoints; Ray's own reports are
not used: each makes all workers wait for the controller's next look, and nobody reads them.
"""

import logging
import platform
import time
from collections.abc import Callable
from typing import Any, TypeVar

from cluster import UsageError
from cluster.logs import ForwardingHandler, handle_logs
from cluster.storage import StorageError, exists, join
from jobs.config.experiment import Experiment
from jobs.training import snapshot
from jobs.training.checkpoint_store import BackgroundExecutor, CheckpointStore, checkpoint_name
from jobs.training.corpus import Corpus
from jobs.training.loop import Loop, create_loop
from jobs.training.process_group import ProcessGroup

logger = logging.getLogger(__name__)

ReturnType = TypeVar("Found")
SendMessage = Callable[[str, Any], None]

# How often a long epoch says how far it is.
PROGRESS_INTERVAL_S = 10.0

# So long a worker waits at its end for what it has sent.
SEND_TIMEOUT_S = 10.0


def run_worker(config: dict[str, Any]) -> dict[str, Any]:
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
    group = ProcessGroup(context.get_world_rank(), context.get_world_size(), device)

    told: Any = None

    def tell(kind: str, value: Any) -> None:
        nonlocal told
        if group.rank == 0:
            told = config["message_queue"].put.remote((kind, value))  # not waited for: the driver may be gone

    try:
        with handle_logs(ForwardingHandler(tell)):
            validate_storage_visible(config["path"], group)
            group.enable_shared_memory()
            corpus: Corpus = ray.get(config["corpus"])
            loop = create_loop(experiment, corpus, group, device)
            checkpoints = CheckpointStore(config["path"])
            resume(loop, checkpoints)
            tell("started", f"{group.world_size} worker{'s' if group.world_size > 1 else ''} on {device.type}")
            _train(experiment, corpus, loop, checkpoints, tell)
    except UsageError as error:
        return {"error": str(error)}
    finally:
        if told is not None:  # all that was sent is there before the driver takes for the last time
            ray.wait([told], timeout=SEND_TIMEOUT_S)
    summary = {"workers": group.world_size, "steps": loop.steps, "bytes": loop.step_bytes}
    return {"progress": loop.progress.to_json(), "summary": summary | _times(loop)}


def call_with_error_sync(group: ProcessGroup, do: Callable[[], ReturnType]) -> ReturnType:
    """Return what something returns on this worker; if it fails on any, raise on all of them.

    Raises:
        UsageError: the first worker's that failed.
    """
    try:
        found, failed = do(), None
    except UsageError as error:
        found, failed = None, str(error)
    for each in group.all_gather(failed):
        if each is not None:
            raise UsageError(each)
    return found


def validate_storage_visible(path: str, group: ProcessGroup) -> None:
    """Refuse a storage that one of the workers does not see; all of them do so together."""
    try:
        seen = exists(join(path, "experiment.yaml"))
    except StorageError:
        seen = False
    blind = [host for host in group.all_gather(None if seen else platform.node()) if host]
    if blind:
        raise UsageError(f"{path}: is not seen from {', '.join(sorted(set(blind)))}; every node must see the storage")


def resume(loop: Loop, checkpoints: CheckpointStore) -> None:
    """Go on where the run was, all workers from the same checkpoint: one may be written or lost meanwhile."""
    group = loop.group
    first = group.rank == 0
    found = call_with_error_sync(group, lambda: checkpoints.load_newest_valid() if first else None)
    name = group.broadcast(found and found[0])
    if name is None:
        return
    snapshot.restore(loop, call_with_error_sync(group, lambda: found[1] if found else checkpoints.read(name)))
    progress = loop.progress
    steps = f" and {progress.steps} steps" if progress.steps else ""
    if first:
        logger.info(f"going on after epoch {len(progress.epochs)}{steps}")


def _train(experiment: Experiment, corpus: Corpus, loop: Loop, checkpoints: CheckpointStore, tell: SendMessage) -> None:
    """Train to the end; raises on every worker what went wrong on any."""
    background = BackgroundExecutor()
    told = time.monotonic()

    def looked(loop: Loop) -> None:
        nonlocal told
        if time.monotonic() - told > PROGRESS_INTERVAL_S:
            told = time.monotonic()
            tell("progress", loop.epoch_progress())

    for epoch in loop.train_with_pauses(experiment.train.checkpoint_minutes * 60, looked):
        told = time.monotonic()
        progress = loop.progress
        write = snapshot.capture(experiment, corpus, loop, resumable=True)
        position = checkpoint_name(len(progress.epochs), progress.steps), write, progress.best, _times(loop)

        def keep(position: tuple = position) -> None:
            name, write, best, times = position
            checkpoints.write(name, write, best)
            tell("saved", times)

        call_with_error_sync(loop.group, lambda keep=keep: background.submit(keep) if loop.group.rank == 0 else None)
        if epoch is not None:
            tell("epoch", (epoch, progress.best == epoch.epoch))
    call_with_error_sync(loop.group, background.wait)


def _times(loop: Loop) -> dict[str, float]:
    """Return when the first step was taken (seconds since 1970), and the seconds that all took."""
    return {"first_step_at": loop.first_step_time, "step_s": loop.step_seconds}
