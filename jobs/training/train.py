"""Training with Ray Train: on the workers of a cluster, with restarts, or in this process.

After the loss of workers or of a node Ray Train restarts the workers, which resume from the newest checkpoint. After
the loss of its controller `fit` starts it again. After the driver has ended, the same command resumes the run. A run
gives up only when its restarts bring no new checkpoint.

A single worker without a cluster trains in this process, in Ray Train's local mode: no Ray process is started.
"""

import importlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import ray
import ray.train
import torch
from ray.exceptions import RayError
from ray.train import ControllerError, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from cluster import UsageError, choose_form, resources
from cluster.connection import (
    call_in_background,
    connect,
    preserve_sigint_handler,
    resolve_address,
    set_ray_environment,
)
from cluster.console.logs import RESULT
from cluster.storage import join, lock_folder, write_bytes, write_text
from jobs.config.conflicts import check_settings
from jobs.config.experiment import Experiment
from jobs.config.settings import WORKER_SETTINGS, TrainSettings
from jobs.datasets.dataset import Dataset
from jobs.training.corpora.building import load_inputs, load_texts
from jobs.training.corpora.corpus import Corpus
from jobs.training.corpora.sharing import put_if_connected
from jobs.training.exchange.shared_memory import TIMEOUT_S
from jobs.training.monitor import (
    MAX_FAILURES_WITHOUT_CHECKPOINT,
    NoProgressError,
    RunCallback,
    RunStatus,
    describe_loss,
    monitor_workers,
)
from jobs.training.out_of_scope import iter_alternatives, select_alternative
from jobs.training.run_files import learning_curve
from jobs.training.run_files.checkpoint_store import CheckpointStore
from jobs.training.run_files.ray_snapshot import prune_ray_snapshot, remove_ray_snapshot
from jobs.training.run_files.run_folder import RUN_README, BestCheckpoint, RunFolder, resolve_run_folder, select_best
from jobs.training.run_files.trackers import RunTracker, connect_trackers, track_run
from jobs.training.worker import run_worker
from jobs.training.worker_messages import WorkerConfig, WorkerFailure, WorkerResult

logger = logging.getLogger(__name__)

# Time in which lost nodes must be replaced, on a cluster that does not autoscale.
NODE_REPLACEMENT_TIMEOUT_S = 30 * 60
# Seconds until Ray Train tries again to start workers for which there is no room, 60 by default.
START_TIMEOUT_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"

# Least time between the reports of workers. They are sent in the background; more of them would take time of the cores.
REPORT_INTERVAL_S = 1.0

# Ray accepts a function with a return value; its annotations do not.
_WORKER_FUNCTION = cast(Callable[[dict[str, Any]], None], run_worker)

HOW_TO_RESUME = "see Ray's logs, and repeat the command to resume from the last checkpoint"


class TrainingFailed(UsageError):
    """A run ended without a checkpoint, or could not be resumed."""


def train(
    experiment: Experiment,
    *,
    promote: bool = False,
    callbacks: Sequence[UserCallback] = (),
    inputs: Callable[[], tuple[Dataset, Corpus]] | None = None,
) -> str:
    """Train, or resume an interrupted run, and return the path of the best.json that names its best checkpoint.

    Args:
        promote: make the run current in the experiment's best.json even if the current run is better.
        callbacks: of Ray Train. They are called in the process of Ray's controller, or without a cluster in this one,
            with the metrics and the checkpoint of an epoch: of each epoch, but at most once per second on a cluster.
        inputs: returns the dataset and the corpus, which a command has begun to load.

    Raises:
        TrainingFailed, and the errors of reading data and vectors.
        KeyboardInterrupt: its argument, if there is one, is why nothing can be resumed.
    """
    start_time = time.time()
    for warning in check_settings(experiment, {experiment.model.embedding}):
        logger.warning(warning)
    trackers = connect_trackers(experiment)  # a wrong URI is an error before data and vectors are loaded
    run: RunFolder | None = None
    try:
        in_process = trains_in_process(experiment.train)
        own_resources = require_resources(experiment, in_process=True) if in_process else None
        if inputs is None:
            texts = load_texts(experiment)  # before Ray starts: an error in them is reported at once
            inputs = partial(load_inputs, experiment, texts)
        with nullcontext() if in_process else connect():
            gpu, wait_notice = own_resources or require_resources(experiment)
            dataset, corpus = inputs()
            weights = corpus.row_weights(experiment.train.class_weights)
            if weights is not None:
                logger.info(f"weights of the training rows in the loss: {weights.min():.3g} to {weights.max():.3g}")
            runs = []
            for alternative, data in iter_alternatives(experiment, dataset, corpus):
                run = resolve_run_folder("train", alternative, data, dataset.validation, promote=promote)
                if (best := run.read_finished_best()) is not None:
                    logger.log(RESULT, f"this run is finished: {best.describe()}; its folder is {run.path}")
                else:
                    if wait_notice:
                        logger.info(wait_notice)
                    with lock_folder(run.path):
                        tracked = track_run(trackers, alternative, run.name, run.name, len(data.train))
                        best = train_to_completion(
                            alternative, data, run, gpu, start_time, tracked, in_process=in_process, callbacks=callbacks
                        )
                    run.write_best(best)
                runs.append((alternative, run, best))
            run, best = select_alternative(runs)
            return run.publish(best)
    except KeyboardInterrupt:
        if run is None or not CheckpointStore(run.path).names():
            raise KeyboardInterrupt("before a checkpoint was written; the same command starts again") from None
        raise


def trains_in_process(settings: TrainSettings) -> bool:
    """Return whether a run needs no Ray cluster: it has one worker, and there is no cluster that could run it."""
    return settings.max_workers == 1 and resolve_address() is None and not ray.is_initialized()


def require_resources(experiment: Experiment, *, in_process: bool = False) -> tuple[bool, str | None]:
    """Return whether the workers use GPUs, and a message on what they wait for, or None.

    Raises:
        ResourceError: the cluster, or this machine, will never have enough, or torch cannot use the requested GPUs.
    """
    settings = experiment.train
    if in_process:
        return resources.use_own_gpu(settings.use_gpu), None
    gpu = resources.use_gpus(settings.use_gpu, settings.min_workers, settings.cpus_per_worker)
    return gpu, resources.check_capacity(settings.min_workers, settings.cpus_per_worker, gpu, WORKER_SETTINGS)


def train_to_completion(
    experiment: Experiment,
    corpus: Corpus,
    run: RunFolder,
    gpu: bool,
    start_time: float,
    tracked: AbstractContextManager[RunTracker],
    *,
    in_process: bool = False,
    callbacks: Sequence[UserCallback] = (),
) -> BestCheckpoint:
    """Train in a run's folder, log and plot the results, and return the contents of its best.json.

    Args:
        start_time: of the command, in seconds since 1970.
        tracked: of `track_run`.
        in_process: train in this process, without a Ray cluster.
        callbacks: as of `train`.
    """
    write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
    write_text(join(run.path, "README.txt"), RUN_README)
    with tracked as tracker:
        status = RunStatus(start_time, on_epoch=tracker.log_epoch, on_resume=tracker.resume)
        if in_process:
            result = fit_in_process(experiment, corpus, run, gpu, status, callbacks)
        else:
            result = fit(experiment, corpus, run, gpu, status, callbacks=callbacks)
    best = select_best(result.progress, run.path, experiment.train.metric)
    if best is None:
        advice = "set `storage` to a folder or URI that every node sees"
        raise TrainingFailed(f"{run.path}: the best checkpoint is not visible to the driver; {advice}")
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
    sent = f", {result.bytes_sent / max(1, result.num_steps) / 1e6:.2f} MB per step sent by each worker"
    logger.info(status.format_times() + (sent if result.num_workers > 1 else ""))
    logger.log(RESULT, f"best: {best.describe()}")
    return best


def fit_in_process(
    experiment: Experiment,
    corpus: Corpus,
    run: RunFolder,
    gpu: bool,
    status: RunStatus,
    callbacks: Sequence[UserCallback] = (),
) -> WorkerResult:
    """Train in this process, in Ray Train's local mode, and return the result; arguments and errors as of `fit`."""
    logger.info("starting the training in this process")
    threads = torch.get_num_threads()
    call_in_background(partial(importlib.import_module, "matplotlib.figure"))  # for the learning curve
    try:
        with (
            monitor_workers(experiment.train.last_epoch, run.path, status, callbacks, in_process=True) as callback,
            preserve_sigint_handler(),
        ):
            trainer: Any = TorchTrainer(
                _WORKER_FUNCTION,
                train_loop_config=vars(WorkerConfig(experiment, corpus, run.path, gpu, 0.0, callback)),
                scaling_config=ray.train.ScalingConfig(num_workers=0, use_gpu=gpu),
                run_config=ray.train.RunConfig(name=run.name, storage_path=run.experiment_folder),
            )
            callback.run_context = trainer.train_run_context
            status.result = trainer.fit()
            return _unwrap(status.result.return_value, callback)
    finally:
        torch.set_num_threads(threads)


def fit(
    experiment: Experiment,
    corpus: Any,
    run: RunFolder,
    gpu: bool,
    status: RunStatus,
    *,
    sole_workload: bool = True,
    callbacks: Sequence[UserCallback] = (),
) -> WorkerResult:
    """Run Ray Train, again after each loss of its controller, and return the workers' result.

    Args:
        corpus: a Corpus, or Ray's reference to one.
        status: updated while the workers run.
        sole_workload: this driver starts nothing else meanwhile, so new placement groups are those of lost workers.
        callbacks: as of `train`.

    Raises:
        TrainingFailed: restarts bring no new checkpoint, or a worker failed with an error that the user can correct.
        ResourceError: lost nodes were not replaced.
    """
    settings = experiment.train
    number = " to ".join(map(str, settings.workers)) if isinstance(settings.workers, list) else settings.workers
    logger.info(f"starting {number} {choose_form(settings.max_workers, 'worker', 'workers')}")
    set_ray_environment()  # a trial of a search did not connect: reports would wait for seconds
    failures, num_checkpoints = 0, 0
    used, earlier_groups = (resources.used_cpus(), resources.used_gpus()), resources.list_placement_groups()
    with monitor_workers(settings.last_epoch, run.path, status, callbacks) as callback:
        config = WorkerConfig(experiment, put_if_connected(corpus), run.path, gpu, REPORT_INTERVAL_S)
        while True:
            remove_ray_snapshot(run.path)  # its checkpoints may be gone, which Ray Train takes for an error
            try:
                with preserve_sigint_handler():
                    status.result = _build_trainer(settings, run, config, callback, used).fit()
                break
            except TrainingFailedError as error:
                raise _describe_failure(error, settings, gpu) from error
            except RayError as error:
                failures = 1 if status.num_checkpoints > num_checkpoints else failures + 1
                num_checkpoints = status.num_checkpoints
                loss = describe_loss({0: error})
                if failures > MAX_FAILURES_WITHOUT_CHECKPOINT:
                    reason = f"Ray Train's controller was lost {failures} times without progress: {loss}"
                    raise TrainingFailed(f"{reason}; {HOW_TO_RESUME}") from error
                callback.send([("lost", loss)])
            if sole_workload:
                resources.remove_placement_groups(earlier_groups)
        prune_ray_snapshot(run.path)
        return _unwrap(status.result.return_value, callback)


def _unwrap(returned: WorkerResult | WorkerFailure, callback: RunCallback) -> WorkerResult:
    if isinstance(returned, WorkerFailure):
        callback.send(list(returned.messages))
        raise TrainingFailed(returned.message)
    return returned


def _build_trainer(
    settings: TrainSettings, run: RunFolder, config: WorkerConfig, callback: RunCallback, used: tuple[float, float]
) -> TorchTrainer:
    least, most, cpus = settings.min_workers, settings.max_workers, settings.cpus_per_worker
    cpus_of_others, gpus_of_others = used
    most = resources.limit_workers(least, most, cpus, cpus_of_others, int(bool(config.use_gpu)), gpus_of_others)
    workers = cast(int, (least, most) if least < most else least)  # Ray's annotations lack the range
    start_timeout_s = float(os.environ.get(START_TIMEOUT_VARIABLE, "60"))
    starts = -1 if resources.is_autoscaling() else round(NODE_REPLACEMENT_TIMEOUT_S / start_timeout_s)
    train_api: Any = ray.train  # annotated with older classes
    return TorchTrainer(
        _WORKER_FUNCTION,
        train_loop_config=vars(config),
        torch_config=TorchConfig(timeout_s=round(TIMEOUT_S)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=bool(config.use_gpu), resources_per_worker={"CPU": cpus}
        ),
        run_config=train_api.RunConfig(
            name=run.name,
            storage_path=run.experiment_folder,
            # No limit of losses: the callback ends a run without progress. Without a checkpoint_config: the checkpoint
            # store removes old checkpoints.
            failure_config=train_api.FailureConfig(max_failures=-1, controller_failure_limit=starts),
            callbacks=[callback],
        ),
    )


def _describe_failure(error: TrainingFailedError, settings: TrainSettings, gpu: bool) -> UsageError:
    """Return the error of a run that Ray Train does not restart; ResourceError if the cluster has no room for it."""
    cause = error.controller_failure if isinstance(error, ControllerError) else error
    if not isinstance(cause, NoProgressError):
        resources.check_capacity(settings.min_workers, settings.cpus_per_worker, gpu, WORKER_SETTINGS)
    return TrainingFailed(f"{describe_loss({0: cause})}; {HOW_TO_RESUME}")
