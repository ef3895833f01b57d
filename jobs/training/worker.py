"""Ray Train worker: runs the training loop, writes its checkpoints, and sends messages to the driver.

A background thread writes the checkpoints. If one worker fails, all workers are notified and stop, so that none waits
for it. The results of a run go to the driver and into checkpoints. `ray.train.report` is not used: at each report all
workers wait until the controller polls them, and nothing reads the reports.
"""

import logging
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch

from cluster import UsageError
from cluster.console.logs import ForwardingHandler, handle_logs
from cluster.message_queue import MessageSender
from cluster.storage import StorageError, exists, join
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import TrainingState
from jobs.training import snapshot
from jobs.training.checkpoint_store import BackgroundExecutor, CheckpointStore, checkpoint_name
from jobs.training.corpus import Corpus
from jobs.training.history import Progress
from jobs.training.loop import Loop, create_loop
from jobs.training.monitor import WorkerTimes
from jobs.training.process_group import ProcessGroup

logger = logging.getLogger(__name__)

ReturnType = TypeVar("ReturnType")
SendMessage = Callable[[str, Any], None]

# Interval between messages on the progress of a long epoch.
PROGRESS_INTERVAL_S = 10.0

# Time that a worker waits at its end until its messages have arrived.
SEND_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class WorkerConfig:
    """Input of the workers; its fields are the keys of Ray Train's `train_loop_config`.

    corpus: a Corpus, or Ray's reference to one. messages: sends those of the first worker. path: of the run's folder.
    """

    experiment: Experiment
    corpus: Any
    messages: MessageSender
    path: str
    use_gpu: bool


@dataclass(frozen=True)
class WorkerResult:
    """Result of a finished run. num_steps, bytes_sent: of one worker, since the run was last resumed."""

    progress: Progress
    num_workers: int
    num_steps: int
    bytes_sent: int
    times: WorkerTimes


@dataclass(frozen=True)
class WorkerFailure:
    """Error message of a run that ended with an error that the user can correct."""

    message: str


def run_worker(train_loop_config: dict[str, Any]) -> WorkerResult | WorkerFailure:
    """Train, and return the result.

    Args:
        train_loop_config: the fields of a WorkerConfig.
    """
    config = WorkerConfig(**train_loop_config)
    experiment = config.experiment
    context = ray.train.get_context()
    torch.set_num_threads(experiment.train.cpus_per_worker)
    device = ray.train.torch.get_device() if config.use_gpu else torch.device("cpu")
    group = ProcessGroup(context.get_world_rank(), context.get_world_size(), device)
    messages = config.messages

    def send(kind: str, value: Any) -> None:
        if group.rank == 0:
            messages.send(kind, value)

    # In the driver's own process the log messages reach its handlers already.
    forwarding = handle_logs(ForwardingHandler(send)) if messages.crosses_processes else nullcontext()
    try:
        with forwarding:
            validate_storage_visible(config.path, group)
            group.enable_shared_memory()
            corpus: Corpus = ray.get(config.corpus) if isinstance(config.corpus, ray.ObjectRef) else config.corpus
            loop = create_loop(experiment, corpus, group, device)
            checkpoints = CheckpointStore(config.path)
            resume(loop, checkpoints)
            send("started", f"{group.world_size} worker{'s' if group.world_size > 1 else ''} on {device.type}")
            _train(experiment, corpus, loop, checkpoints, send)
    except UsageError as error:
        return WorkerFailure(str(error))
    finally:
        messages.flush(SEND_TIMEOUT_S)  # the driver drains the queue once more after this worker has ended
    return WorkerResult(loop.progress, group.world_size, loop.steps, loop.step_bytes, _measure_times(loop))


def call_with_error_sync(group: ProcessGroup, function: Callable[[], ReturnType]) -> ReturnType:
    """Return the function's value on this worker; if it fails on any worker, raise on all of them.

    Raises:
        UsageError: the error of the first worker that failed.
    """
    value: ReturnType | None = None
    message = None
    try:
        value = function()
    except UsageError as error:
        message = str(error)
    for other in group.all_gather(message):
        if other is not None:
            raise UsageError(other)
    return value  # type: ignore[return-value]  # the function returned, so this is its value


def validate_storage_visible(path: str, group: ProcessGroup) -> None:
    """Raise UsageError on all workers if one of them cannot access the run's folder."""
    try:
        visible = exists(join(path, "experiment.yaml"))
    except StorageError:
        visible = False
    hosts = {host for host in group.all_gather(None if visible else platform.node()) if host}
    if hosts:
        raise UsageError(f"{path}: is not accessible from {', '.join(sorted(hosts))}; every node must see the storage")


def resume(loop: Loop, checkpoints: CheckpointStore) -> None:
    """Restore the newest complete checkpoint, if there is one.

    The first worker selects it for all of them: a checkpoint may be written or lost meanwhile. UsageError if the run
    was started with other word vectors.
    """
    group = loop.group
    is_first = group.rank == 0
    newest = call_with_error_sync(group, lambda: checkpoints.load_newest_valid() if is_first else None)
    name = group.broadcast(newest and newest[0])
    if name is None:
        return

    def read() -> TrainingState:
        return newest[1] if newest else checkpoints.read(name)

    state = call_with_error_sync(group, read)
    try:
        snapshot.restore(loop, state)
    except UsageError as error:
        raise UsageError(f"{checkpoints.path}: {error}") from error
    progress = loop.progress
    steps = f" and {progress.steps} steps" if progress.steps else ""
    if is_first:
        logger.info(f"resuming after epoch {len(progress.epochs)}{steps}")


def _train(experiment: Experiment, corpus: Corpus, loop: Loop, checkpoints: CheckpointStore, send: SendMessage) -> None:
    """Train to the end; an error on any worker is raised on all."""
    background = BackgroundExecutor()
    is_first = loop.group.rank == 0
    last_message = time.monotonic()

    def send_progress(loop: Loop) -> None:
        nonlocal last_message
        if time.monotonic() - last_message > PROGRESS_INTERVAL_S:
            last_message = time.monotonic()
            send("progress", loop.epoch_progress())

    for epoch in loop.train_with_intervals(experiment.train.checkpoint_minutes * 60, send_progress):
        last_message = time.monotonic()
        save = _prepare_checkpoint(experiment, corpus, loop, checkpoints, send)
        submit = partial(background.submit, save) if is_first else _do_nothing
        call_with_error_sync(loop.group, submit)
        if epoch is not None:
            send("epoch", (epoch, loop.progress.best == epoch.epoch))
    call_with_error_sync(loop.group, background.wait)


def _prepare_checkpoint(
    experiment: Experiment, corpus: Corpus, loop: Loop, checkpoints: CheckpointStore, send: SendMessage
) -> Callable[[], None]:
    """Copy the loop's state, and return a function that writes it as a checkpoint."""
    progress = loop.progress
    name, best = checkpoint_name(len(progress.epochs), progress.steps), progress.best
    write = snapshot.capture(experiment, corpus, loop, resumable=True)
    times = _measure_times(loop)

    def save() -> None:
        checkpoints.write(name, write, best)
        send("saved", times)

    return save


def _do_nothing() -> None:
    pass


def _measure_times(loop: Loop) -> WorkerTimes:
    return WorkerTimes(loop.first_step_time, loop.step_seconds)
