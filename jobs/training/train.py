"""Fine-tuning on the workers of a cluster: Ray Train around the loop.

Whatever ends the workers, the controller or a node, the run goes on from its newest checkpoint; and when the
driver ends, it goes on when the same command is given again. It gives up only where it comes no further.
"""

import logging
import time
from typing import Any

from cluster import UsageError, resources
from cluster.connection import connect
from cluster.interruption import preserve_sigint_handler
from cluster.storage import join, lock_folder, write_bytes, write_text
from jobs.config import conflicts
from jobs.config.experiment import Experiment
from jobs.datasets import dataset
from jobs.training import learning_curve
from jobs.training.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.corpus import Corpus, build_corpus
from jobs.training.history import Progress
from jobs.training.monitor import WORKER_WAIT_NOTICE_S, RunStatus, monitor_workers
from jobs.training.run_folder import BestCheckpoint, RunFolder, resolve_run_folder
from jobs.training.worker import run_worker

logger = logging.getLogger(__name__)

# What best.json says of the best epoch.
BEST_EPOCH_METRICS = ("epoch", "train_loss", "loss", "accuracy", "macro_f1")

# Times that the workers may be lost one after the other without a new checkpoint, before the run gives up.
MAX_FAILURES = 3

# After a node was lost, so long is waited for another one.
NODE_REPLACEMENT_TIMEOUT_S = 30 * 60

# A worker that waits so long for the others takes them for lost.
PROCESS_GROUP_TIMEOUT_S = 600

RUN_README = """\
experiment.yaml     all settings of this run
epoch-*/            checkpoints: the newest two and the best epoch's, each a whole classifier
best.json           which of them is the best, and what it reached; written when the run is finished
learning-curve.png  losses, accuracy and macro F1, epoch after epoch
tensorboard/        the same for `tensorboard --logdir`

Each checkpoint's manifest.json lists its files with their sums. Giving the same command again goes on with a run
that was cut off. The folder can be moved or copied as a whole.
"""


class TrainingFailed(UsageError):
    """A run ended without a checkpoint, or could not go on."""


def train(experiment: Experiment) -> str:
    """Train, or go on with a run that was cut off, and return the path of the best.json.

    Raises:
        TrainingFailed, and what reading data and vectors raises.
    """
    started = time.time()
    say_all(conflicts.check_settings(experiment, {experiment.model.embedding}))
    with connect():
        gpu, waits = require_resources(experiment)
        found = dataset.load_dataset(experiment)
        say_all(found.notes)
        corpus = build_corpus(experiment, found, use_pretrained=experiment.model.embedding != "rand")
        if corpus.coverage:
            logger.info(f"vectors: {corpus.coverage}")
        run = resolve_run_folder("train", experiment, corpus)
        best = run.read_finished_best()
        if best is not None:
            logger.info(f"this run is finished: {describe_best(best)}; its folder is {run.path}")
            return run.publish(best)
        if waits:
            logger.info(waits)
        with lock_folder(run.path):
            best = train_to_completion(experiment, corpus, run, gpu, started)
        return run.finish(best)


def require_resources(experiment: Experiment) -> tuple[bool, str | None]:
    """Return whether the workers take GPUs, and what they wait for, or None.

    Raises:
        ResourceError: the cluster never has it.
    """
    settings = experiment.train
    gpu = resources.total_gpus() >= settings.min_workers if settings.use_gpu is None else settings.use_gpu
    return gpu, resources.check_capacity(settings.min_workers, settings.cpus_per_worker, gpu)


def train_to_completion(
    experiment: Experiment, corpus: Corpus, run: RunFolder, gpu: bool, started: float
) -> BestCheckpoint:
    """Train in a run's folder, and return the contents of its best.json.

    Args:
        started: when the command began, in seconds since 1970.
    """
    import ray

    write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
    write_text(join(run.path, "README.txt"), RUN_README)
    heard = RunStatus(started)
    return _finish(fit(experiment, ray.put(corpus), run, gpu, heard), run, experiment, heard)


def describe_best(best: BestCheckpoint) -> str:
    """Return a best.json's contents in words."""
    metrics = best.metrics
    if metrics["loss"] is None:
        return f"epoch {metrics['epoch']}, the last; there is no validation part"
    values = " ".join(f"{key} {metrics[key]:.4f}" for key in ("accuracy", "macro_f1", "loss"))
    return f"epoch {metrics['epoch']}, validation {values}"


def say_all(lines: list[str]) -> None:
    """Say several lines."""
    for line in lines:
        logger.info(line)


def fit(
    experiment: Experiment, corpus: Any, run: RunFolder, gpu: bool, heard: RunStatus, *, sole_workload: bool = True
) -> dict[str, Any]:
    """Run Ray Train, as often as workers are lost and there is progress, and return what `work` returns.

    Args:
        corpus: a reference to it.
        alone: this driver runs nothing else, so that whatever it holds of the cluster is what was lost.

    Raises:
        TrainingFailed: there was no progress, or a worker found what is the user's to mend.
    """
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    settings = experiment.train
    number = " to ".join(map(str, settings.workers)) if isinstance(settings.workers, list) else settings.workers
    logger.info(f"starting {number} worker{'' if settings.max_workers == 1 else 's'}")
    failures, kept = 0, 0
    with monitor_workers(experiment, run, heard) as box:
        config = {"experiment": experiment, "corpus": corpus, "message_queue": box, "path": run.path}
        while True:
            CheckpointStore(run.path).remove_partial()
            try:
                with preserve_sigint_handler():
                    result = _trainer(experiment, run, gpu, config).fit()
                break
            except (TrainingFailedError, RayError) as error:
                failures = 1 if heard.num_checkpoints > kept else failures + 1
                kept = heard.num_checkpoints
                heard.mark_workers_lost()
                if failures > MAX_FAILURES:
                    raise TrainingFailed(
                        f"the workers were lost {failures} times without progress: {_reason(error)}; Ray's logs tell "
                        "more, and the same command goes on from the last checkpoint"
                    ) from error
                logger.info(f"workers were lost ({_reason(error)}); starting again from the last checkpoint")
                if sole_workload:
                    resources.remove_placement_groups()
                _wait_for_room(experiment, gpu)
    if "error" in result.return_value:
        raise TrainingFailed(result.return_value["error"])
    return result.return_value


def _wait_for_room(experiment: Experiment, gpu: bool) -> None:
    """Wait until the workers fit (again), and say so; ResourceError after `NODE_BACK_S`."""
    began = time.monotonic()
    said = 0.0
    while True:
        try:
            waits = resources.check_capacity(experiment.train.min_workers, experiment.train.cpus_per_worker, gpu)
        except resources.ResourceError as error:
            if time.monotonic() - began > NODE_REPLACEMENT_TIMEOUT_S:
                raise
            if time.monotonic() - said > 3 * WORKER_WAIT_NOTICE_S:
                said = time.monotonic()
                logger.info(
                    f"waiting up to {NODE_REPLACEMENT_TIMEOUT_S // 60} minutes for a node that was lost: {error}"
                )
            time.sleep(1)
            continue
        if waits:
            logger.info(waits)
        return


def _trainer(experiment: Experiment, run: RunFolder, gpu: bool, config: dict[str, Any]) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = experiment.train
    workers = tuple(settings.workers) if isinstance(settings.workers, list) else settings.workers
    return TorchTrainer(
        run_worker,
        train_loop_config=config,
        torch_config=TorchConfig(timeout_s=PROCESS_GROUP_TIMEOUT_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": settings.cpus_per_worker}
        ),
        # Checkpoints are ours, and whatever is lost is started again here: Ray starts afresh each time.
        run_config=ray.train.RunConfig(name=run.name, storage_path=run.experiment_folder),
    )


def _reason(error: Exception) -> str:
    """Return what was lost and why, on a line."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    texts = [" ".join(str(failure).split()) for failure in failures.values()]
    # Those that were left fail because of the one that was lost.
    texts.sort(key=lambda text: "gloo" in text.lower() or "Connection" in text)
    return texts[0][:300]


def _finish(returned: dict[str, Any], run: RunFolder, experiment: Experiment, heard: RunStatus) -> BestCheckpoint:
    """Say and draw how the run went, and return the contents of best.json."""
    progress = Progress.from_json(returned["progress"])
    name = checkpoint_name(progress.best)
    if not progress.best or not CheckpointStore(run.path).has(name):
        raise TrainingFailed(
            f"{run.path}: the best checkpoint, {name}, is not there as seen from here; `storage` must be a folder or "
            "URI that every node sees"
        )
    best = progress.epochs[progress.best - 1]
    metrics = {key: getattr(best, key) for key in BEST_EPOCH_METRICS}
    found = BestCheckpoint(name, experiment.train.metric, metrics)
    write_bytes(join(run.path, "learning-curve.png"), learning_curve.plot(progress))
    say_all(learning_curve.format_table(progress))
    summary = returned["summary"]
    heard.update_times(summary)
    seconds = time.time() - heard.start_time
    first = (
        f"; the first step was done after {heard.first_step_time - heard.start_time:.1f} s"
        if heard.first_step_time
        else ""
    )
    sent = f", {summary['bytes'] / max(1, summary['steps']) / 1e6:.2f} MB a step from each worker"
    logger.info(
        f"{seconds:.1f} s in all, {1 - (heard.previous_step_seconds + summary['step_s']) / seconds:.0%} of it outside steps"
        f"{first}{sent if summary['workers'] > 1 else ''}"
    )
    logger.info(f"best: {describe_best(found)}")
    return found
