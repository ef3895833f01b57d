"""Training with Ray Train: on the workers of a cluster, with restarts, or in this process.

After the loss of workers, the controller or a node the run resumes from its newest checkpoint. After the driver has
ended, the same command resumes the run. A run gives up only when its restarts bring no new checkpoint.

A single worker without a cluster trains in this process, in Ray Train's local mode: no Ray process is started.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from cluster import UsageError, resources, to_single_line
from cluster.connection import connect, preserve_sigint_handler, resolve_address
from cluster.console.logs import RESULT
from cluster.storage import join, lock_folder, write_bytes, write_text
from jobs.config.conflicts import check_settings
from jobs.config.experiment import Experiment
from jobs.config.settings import TrainSettings
from jobs.datasets.dataset import load_dataset
from jobs.training import learning_curve
from jobs.training.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.corpus import Corpus, build_corpus
from jobs.training.monitor import WORKER_WAIT_NOTICE_S, RunStatus, monitor_workers
from jobs.training.run_folder import BEST_EPOCH_METRICS, BestCheckpoint, RunFolder, resolve_run_folder
from jobs.training.worker import WorkerConfig, WorkerFailure, WorkerResult, run_worker

logger = logging.getLogger(__name__)

# Consecutive losses of workers without a new checkpoint; the next one ends the run.
MAX_FAILURES_WITHOUT_CHECKPOINT = 3

NODE_REPLACEMENT_TIMEOUT_S = 30 * 60

# Time that a worker waits for the others in a collective operation before it fails.
PROCESS_GROUP_TIMEOUT_S = 600

# Ray accepts a function with a return value; its annotations do not.
_WORKER_FUNCTION = cast(Callable[[dict[str, Any]], None], run_worker)

RUN_README = """\
experiment.yaml     all settings of this run
epoch-*/            checkpoints: the newest two and that of the best epoch, each a complete classifier
best.json           path and metrics of the best checkpoint; written when the run is finished
learning-curve.png  losses, accuracy and macro F1 by epoch
tensorboard/        the same for `tensorboard --logdir`

Each checkpoint's manifest.json lists its files with their checksums. To resume an interrupted run, repeat the same
command. The folder can be moved or copied as a whole.
"""


class TrainingFailed(UsageError):
    """A run ended without a checkpoint, or could not be resumed."""


def train(experiment: Experiment, *, promote: bool = False) -> str:
    """Train, or resume an interrupted run, and return the path of the best.json that names its best checkpoint.

    Args:
        promote: make the run current in the experiment's best.json even if the current run is better.

    Raises:
        TrainingFailed, and the errors of reading data and vectors.
    """
    start_time = time.time()
    for warning in check_settings(experiment, {experiment.model.embedding}):
        logger.warning(warning)
    in_process = trains_in_process(experiment.train)
    own_resources = require_resources(experiment, in_process=True) if in_process else None
    # Before Ray starts: an error in the data is reported at once.
    logger.info("reading the texts")
    dataset = load_dataset(experiment)
    for note in dataset.notes:
        logger.info(note)
    with nullcontext() if in_process else connect():
        gpu, wait_notice = own_resources or require_resources(experiment)
        logger.info("looking up the words")
        corpus = build_corpus(experiment, dataset, use_pretrained=experiment.model.embedding != "rand")
        if corpus.coverage:
            logger.info(f"vectors: {corpus.coverage}")
        run = resolve_run_folder("train", experiment, corpus, dataset.validation, promote=promote)
        best = run.read_finished_best()
        if best is not None:
            logger.log(RESULT, f"this run is finished: {describe_best(best)}; its folder is {run.path}")
            return run.publish(best)
        if wait_notice:
            logger.info(wait_notice)
        with lock_folder(run.path):
            best = train_to_completion(experiment, corpus, run, gpu, start_time, in_process=in_process)
        return run.finish(best)


def trains_in_process(settings: TrainSettings) -> bool:
    """Return whether a run needs no Ray cluster: it has one worker, and there is no cluster that could run it."""
    return settings.max_workers == 1 and resolve_address() is None and not ray.is_initialized()


def require_resources(experiment: Experiment, *, in_process: bool = False) -> tuple[bool, str | None]:
    """Return whether the workers use GPUs, and a message on what they wait for, or None.

    Raises:
        ResourceError: the cluster, or this machine, will never have enough.
    """
    settings = experiment.train
    if in_process:
        available = torch.cuda.is_available()
        if settings.use_gpu and not available:
            raise resources.ResourceError("train.use_gpu asks for a GPU, and torch finds none on this machine")
        return available if settings.use_gpu is None else settings.use_gpu, None
    gpu = settings.use_gpu
    if gpu is None:
        gpu, notice = resources.select_gpus(settings.min_workers, settings.cpus_per_worker)
        if notice:
            logger.info(notice)
    return gpu, resources.check_capacity(settings.min_workers, settings.cpus_per_worker, gpu)


def train_to_completion(
    experiment: Experiment, corpus: Corpus, run: RunFolder, gpu: bool, start_time: float, *, in_process: bool = False
) -> BestCheckpoint:
    """Train in a run's folder, log and plot the results, and return the contents of its best.json.

    Args:
        start_time: of the command, in seconds since 1970.
        in_process: train in this process, without a Ray cluster.
    """
    write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
    write_text(join(run.path, "README.txt"), RUN_README)
    status = RunStatus(start_time)
    if in_process:
        result = fit_in_process(experiment, corpus, run, gpu, status)
    else:
        result = fit(experiment, ray.put(corpus), run, gpu, status)
    best = _select_best(result, run, experiment.train.metric)
    logger.info("drawing the learning curve")
    title = learning_curve.format_title(
        experiment.name, experiment.model.embedding, len(corpus.train), len(corpus.validation)
    )
    write_bytes(join(run.path, "learning-curve.png"), learning_curve.plot(result.progress, title))
    logger.debug(learning_curve.format_table(result.progress))
    last_epoch = len(result.progress.epochs)
    if last_epoch < experiment.train.last_epoch:
        logger.info(
            f"stopped after epoch {last_epoch}: {experiment.train.patience} epochs without a better one (patience)"
        )
    status.update_times(result.times)
    logger.info(_format_summary(result, status))
    logger.log(RESULT, f"best: {describe_best(best)}")
    return best


def describe_best(best: BestCheckpoint) -> str:
    """Return the epoch and metrics of a best.json as text."""
    metrics = best.metrics
    if metrics["loss"] is None:
        return f"epoch {metrics['epoch']}, the last; there is no validation part"
    values = " ".join(f"{key} {metrics[key]:.4f}" for key in ("accuracy", "macro_f1", "loss"))
    return f"epoch {metrics['epoch']}, validation {values}"


def fit_in_process(
    experiment: Experiment, corpus: Corpus, run: RunFolder, gpu: bool, status: RunStatus
) -> WorkerResult:
    """Train in this process, in Ray Train's local mode, and return the result; arguments and errors as of `fit`."""
    settings = experiment.train
    logger.info("starting the training in this process")
    CheckpointStore(run.path).remove_partial()
    threads = torch.get_num_threads()
    try:
        with (
            monitor_workers(settings.last_epoch, run.path, status, in_process=True) as messages,
            preserve_sigint_handler(),
            _quiet_ray_train(),
        ):
            config = WorkerConfig(experiment, corpus, messages, run.path, gpu)
            local_mode = ray.train.ScalingConfig(num_workers=0, use_gpu=gpu)
            trainer = TorchTrainer(_WORKER_FUNCTION, train_loop_config=vars(config), scaling_config=local_mode)
            result: Any = trainer.fit()
    finally:
        torch.set_num_threads(threads)
    return _unwrap(result.return_value)


@contextmanager
def _quiet_ray_train() -> Iterator[None]:
    """Context manager: Ray Train does not log that it runs in local mode."""
    ray_logger = logging.getLogger("ray.train")
    level = ray_logger.level
    ray_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        ray_logger.setLevel(level)


def fit(
    experiment: Experiment, corpus: Any, run: RunFolder, gpu: bool, status: RunStatus, *, sole_workload: bool = True
) -> WorkerResult:
    """Run Ray Train, restarted after each loss of workers, and return the workers' result.

    Args:
        corpus: reference to a Corpus.
        status: updated while the workers run.
        sole_workload: this driver runs nothing else, so its remaining placement groups are those of lost workers.

    Raises:
        TrainingFailed: restarts bring no new checkpoint, or a worker failed with an error that the user can correct.
    """
    settings = experiment.train
    number = " to ".join(map(str, settings.workers)) if isinstance(settings.workers, list) else settings.workers
    logger.info(f"starting {number} worker{'' if settings.max_workers == 1 else 's'}")
    failures, num_checkpoints = 0, 0
    cpus_of_others = resources.used_cpus()
    with monitor_workers(settings.last_epoch, run.path, status) as messages:
        config = WorkerConfig(experiment, corpus, messages, run.path, gpu)
        while True:
            CheckpointStore(run.path).remove_partial()
            try:
                with preserve_sigint_handler():
                    # `fit` is annotated with an older class of results, which has no return value.
                    result: Any = _build_trainer(settings, run, config, cpus_of_others).fit()
                break
            except (TrainingFailedError, RayError) as error:
                failures = 1 if status.num_checkpoints > num_checkpoints else failures + 1
                num_checkpoints = status.num_checkpoints
                status.mark_workers_lost()
                if failures > MAX_FAILURES_WITHOUT_CHECKPOINT:
                    raise TrainingFailed(
                        f"the workers were lost {failures} times without progress: {_describe_loss(error)}; see Ray's "
                        "logs, and repeat the command to resume from the last checkpoint"
                    ) from error
                logger.warning(f"workers were lost ({_describe_loss(error)}); restarting from the last checkpoint")
            if sole_workload:
                resources.remove_placement_groups()
            _wait_for_capacity(settings, gpu)
    return _unwrap(result.return_value)


def _unwrap(returned: WorkerResult | WorkerFailure) -> WorkerResult:
    if isinstance(returned, WorkerFailure):
        raise TrainingFailed(returned.message)
    return returned


def _build_trainer(
    settings: TrainSettings, run: RunFolder, config: WorkerConfig, cpus_of_others: float
) -> TorchTrainer:
    least, most, cpus = settings.min_workers, settings.max_workers, settings.cpus_per_worker
    most = resources.limit_workers(least, most, cpus, cpus_of_others)
    workers = cast(int, (least, most) if least < most else least)  # Ray's annotations lack the range
    return TorchTrainer(
        _WORKER_FUNCTION,
        train_loop_config=vars(config),
        torch_config=TorchConfig(timeout_s=PROCESS_GROUP_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=config.use_gpu, resources_per_worker={"CPU": cpus}
        ),
        # Without a FailureConfig: `fit` restarts the workers itself, from its own checkpoints.
        run_config=ray.train.RunConfig(name=run.name, storage_path=run.experiment_folder),
    )


def _wait_for_capacity(settings: TrainSettings, gpu: bool) -> None:
    """Wait until the cluster has room for the workers; ResourceError after `NODE_REPLACEMENT_TIMEOUT_S`."""
    start = time.monotonic()
    last_notice = float("-inf")
    while True:
        try:
            wait_notice = resources.check_capacity(settings.min_workers, settings.cpus_per_worker, gpu)
        except resources.ResourceError as error:
            if time.monotonic() - start > NODE_REPLACEMENT_TIMEOUT_S:
                raise
            if time.monotonic() - last_notice > 3 * WORKER_WAIT_NOTICE_S:
                last_notice = time.monotonic()
                minutes = NODE_REPLACEMENT_TIMEOUT_S // 60
                logger.info(f"waiting up to {minutes} minutes for a replacement of a lost node: {error}")
            time.sleep(1)
            continue
        if wait_notice:
            logger.info(wait_notice)
        return


def _describe_loss(error: Exception) -> str:
    """Return which worker was lost and why, on one line."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    messages = [" ".join(str(failure).split()) for failure in failures.values()]
    # The remaining workers fail with connection errors because of the one that was lost.
    messages.sort(key=lambda message: "gloo" in message.lower() or "Connection" in message)
    return to_single_line(messages[0], 300)


def _select_best(result: WorkerResult, run: RunFolder, metric: str) -> BestCheckpoint:
    """Return the contents of best.json; TrainingFailed if the driver cannot access the best checkpoint."""
    progress = result.progress
    name = checkpoint_name(progress.best)
    if not progress.best or not CheckpointStore(run.path).has(name):
        raise TrainingFailed(
            f"{run.path}: the best checkpoint, {name}, is not visible to the driver; set `storage` to a folder or URI "
            "that every node sees"
        )
    best = progress.epochs[progress.best - 1]
    return BestCheckpoint(name, metric, {key: getattr(best, key) for key in BEST_EPOCH_METRICS})


def _format_summary(result: WorkerResult, status: RunStatus) -> str:
    """Return the duration of the command and what it consists of, as a line."""
    seconds = time.time() - status.start_time
    step_seconds = status.previous_step_seconds + result.times.step_seconds
    parts = [f"{seconds:.1f} s in total, {step_seconds:.1f} s of it in training steps"]
    if status.first_step_time:
        parts.append(f"the first step finished after {status.first_step_time - status.start_time:.1f} s")
    if result.num_workers > 1:
        parts.append(f"{result.bytes_sent / max(1, result.num_steps) / 1e6:.2f} MB per step sent by each worker")
    return ", ".join(parts)
