"""Ray Train worker: runs the training loop, writes its checkpoints, and reports to Ray Train.

A background thread of the first worker writes the checkpoints. An epoch is reported once its checkpoint is complete, by
such a thread of each worker: in `ray.train.report` the workers wait for each other. If one worker fails, all workers
are notified and stop, so that none waits for it.
"""

import logging
import math
import platform
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch

from cluster import UsageError, convert_interrupts, format_count
from cluster.console.logs import ForwardingHandler, handle_logs
from cluster.storage import StorageError, exists, join, read_text, write_text
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import TrainingState, load_checkpoint
from jobs.training.continuation import load_start_weights
from jobs.training.corpora.corpus import Corpus
from jobs.training.loop import Loop, create_loop
from jobs.training.monitor import WorkerTimes
from jobs.training.process_group import ProcessGroup, call_with_error_sync
from jobs.training.run_files import snapshot
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.run_files.reporter import Reporter, do_nothing
from jobs.training.worker_messages import WorkerConfig, WorkerFailure, WorkerResult

logger = logging.getLogger(__name__)


# Interval between messages on the progress of a long epoch.
PROGRESS_INTERVAL_S = 10.0

# Fields of a WorkerConfig for a user's own trainer, which shows no messages and removes checkpoints of epochs itself.
OWN_TRAINER_DEFAULTS = {"use_gpu": None, "report_interval_s": 0.0, "num_to_keep": None, "forward_logs": False}


def train_loop_per_worker(train_loop_config: Mapping[str, Any]) -> WorkerResult:
    """Train as one of the workers of a user's own `TorchTrainer`, and return the result.

    >>> import finetune_cnn
    >>> from ray.train import ScalingConfig
    >>> from ray.train.torch import TorchTrainer
    >>> texts, labels = ["a good film", "a bad film"] * 20, ["good", "bad"] * 20
    >>> estimator = finetune_cnn.TextCNNClassifier(embedding="rand", epochs=2)
    >>> config, scaling = estimator.train_loop_config(texts, labels, path="run"), ScalingConfig(num_workers=0)
    >>> result = TorchTrainer(train_loop_per_worker, train_loop_config=config, scaling_config=scaling).fit()
    >>> result.metrics["epoch"], finetune_cnn.load("run/epoch-0002").labels
    (2, ['bad', 'good'])

    Every epoch is reported, with its metrics and a checkpoint in the trainer's storage that `load` reads and that the
    run resumes from. These stay until the trainer's `CheckpointConfig` removes them; a checkpoint within an epoch stays
    until the next one is complete.

    Args:
        train_loop_config: of `TextCNNClassifier.train_loop_config`.

    Raises:
        UsageError: an error that the user can correct, such as a folder with a run of other rows or settings.
    """
    context = ray.train.get_context()
    path = train_loop_config.get("path") or _storage_path(context)
    is_first = context.get_world_rank() == 0
    # The other workers wait for the first one here.
    if error := ray.train.collective.broadcast_from_rank_zero(_begin_run(path, train_loop_config) if is_first else ""):
        raise UsageError(error)
    result = run_worker({**OWN_TRAINER_DEFAULTS, **train_loop_config, "path": path})
    if isinstance(result, WorkerFailure):
        raise UsageError(result.message)
    return result


def _begin_run(path: str, train_loop_config: Mapping[str, Any]) -> str:
    """Write the settings of a run, or return why the folder cannot be used: it has checkpoints of another run."""
    reference, target = train_loop_config["corpus"], join(path, "experiment.yaml")
    corpus: Corpus = ray.get(reference) if isinstance(reference, ray.ObjectRef) else reference
    content = f"{train_loop_config['experiment'].to_yaml()}# texts and vectors: {corpus.key}\n"
    if CheckpointStore(path).names() and read_text(target) != content:
        return f"{path}: has a run with other settings, rows or vectors; give RunConfig another `name`"
    write_text(target, content)
    return ""


def _storage_path(context: Any) -> str:
    """Return the folder of the run that `RunConfig` names; UsageError if it is not known."""
    try:
        storage = context.get_storage()
    except NotImplementedError:  # in local mode
        storage = None
    if storage is None or storage.storage_filesystem.type_name != "local":
        raise UsageError(
            "the storage of this run has no path that is known here: call train_loop_config(..., path=URI) with the "
            "`storage_path` of RunConfig, a slash and its `name`"
        )
    return str(storage.experiment_fs_path)


def run_worker(train_loop_config: dict[str, Any]) -> WorkerResult | WorkerFailure:
    """Train, and return the result.

    Args:
        train_loop_config: the fields of a WorkerConfig.
    """
    config = WorkerConfig(**train_loop_config)
    experiment = config.experiment
    context = ray.train.get_context()
    torch.set_num_threads(experiment.train.cpus_per_worker)
    device = ray.train.torch.get_device() if config.use_gpu is not False else torch.device("cpu")
    if device.index is not None:  # collective operations on objects use the current GPU: by default the node's first
        torch.cuda.set_device(device)
    group = ProcessGroup(context.get_world_rank(), context.get_world_size(), device)
    reporter = Reporter(
        config.path, group, config.report_interval_s, config.callback, with_messages=config.forward_logs
    )
    # In the driver's own process the log messages reach its handlers already.
    forward_logs = config.forward_logs and not config.callback
    forwarding = handle_logs(ForwardingHandler(reporter.add_message)) if forward_logs else nullcontext()
    try:
        with forwarding, convert_interrupts():
            validate_storage_visible(config.path, group)
            group.enable_shared_memory()
            corpus: Corpus = ray.get(config.corpus) if isinstance(config.corpus, ray.ObjectRef) else config.corpus
            loop = create_loop(experiment, corpus, group, device)
            if (start := experiment.train.start_from) is not None:
                load_start_weights(loop.network, corpus, call_with_error_sync(group, lambda: load_checkpoint(start)))
            checkpoints = CheckpointStore(config.path, config.num_to_keep)
            if group.rank == 0:
                checkpoints.remove_partial()
            resume(loop, checkpoints)
            reporter.add_message("resumed", (list(loop.progress.epochs), loop.progress.best))
            reporter.add_message("started", f"{format_count(group.world_size, 'worker')} on {device.type}")
            reporter.submit_begin(loop.progress)
            _train(experiment, corpus, loop, checkpoints, reporter)
    except UsageError as error:
        return WorkerFailure(str(error), reporter.take_messages())
    except KeyboardInterrupt:  # in local mode
        reporter.wait_after_interrupt()
        raise
    return WorkerResult(loop.progress, group.world_size, loop.steps, loop.step_bytes, _measure_times(loop))


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


def _train(
    experiment: Experiment, corpus: Corpus, loop: Loop, checkpoints: CheckpointStore, reporter: Reporter
) -> None:
    """Train to the end; an error on any worker is raised on all."""
    settings, progress, group = experiment.train, loop.progress, loop.group
    # All workers count the intervals, so that they agree on whether a checkpoint is due.
    checkpoint_s = settings.checkpoint_minutes * 60
    intervals_per_checkpoint = math.ceil(checkpoint_s / PROGRESS_INTERVAL_S)
    intervals = 0
    for epoch in loop.train_with_intervals(checkpoint_s / intervals_per_checkpoint):
        intervals = 0 if epoch else intervals + 1
        finished = progress.is_finished(settings.last_epoch, settings.patience, settings.frozen_epochs)
        # The end of the run is reported below.
        reported = [epoch] if reporter.is_due() and not (epoch and finished) else []
        if epoch or intervals % intervals_per_checkpoint == 0:
            work = _prepare_checkpoint(experiment, corpus, loop, checkpoints, reporter)
        else:
            work = partial(reporter.add_message, "progress", loop.epoch_progress())
        call_with_error_sync(group, partial(reporter.submit, work if group.rank == 0 else do_nothing, reported))
    call_with_error_sync(group, partial(reporter.submit_end, progress))
    call_with_error_sync(group, reporter.wait)


def _prepare_checkpoint(
    experiment: Experiment, corpus: Corpus, loop: Loop, checkpoints: CheckpointStore, reporter: Reporter
) -> Callable[[], None]:
    """Copy the loop's state, and return a function that writes it as a checkpoint."""
    progress = loop.progress
    name, best = checkpoint_name(len(progress.epochs), progress.steps), progress.best
    epoch = None if progress.steps else progress.epochs[-1]
    write = snapshot.capture(experiment, corpus, loop, resumable=True)
    times = _measure_times(loop)

    def save() -> None:
        checkpoints.write(name, write, best)
        reporter.add_message("saved", times)
        if epoch is not None:
            reporter.add_message("epoch", (epoch, best == epoch.epoch))

    return save


def _measure_times(loop: Loop) -> WorkerTimes:
    return WorkerTimes(loop.first_step_time, loop.step_seconds)
