"""Fine-tuning on the workers of a cluster: Ray Train around the loop.

Whatever ends the workers, the controller or a node, the run goes on from its newest checkpoint; and when the
driver ends, it goes on when the same command is given again. It gives up only where it comes no further.
"""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from cluster import UsageError, resources
from cluster.connection import connect
from cluster.interruption import interruptible
from cluster.storage import is_uri, join, locked, write_bytes, write_text
from jobs import conflicts, dataset, learning_curve
from jobs.checkpoints import Checkpoints, name_of
from jobs.corpus import Corpus, prepare
from jobs.experiment import Experiment
from jobs.history import Epoch, Progress
from jobs.run import Run, place
from jobs.worker import work

# What best.json says of the best epoch.
METRICS = ("epoch", "train_loss", "loss", "accuracy", "macro_f1")

# Times that the workers may be lost one after the other without a new checkpoint, before the run gives up.
MAX_FAILURES = 3

# Without workers for so long, the driver says what they wait for.
WAITING_S = 20.0

FILES = """\
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


def train(experiment: Experiment, say: Callable[[str], None]) -> str:
    """Train, or go on with a run that was cut off, and return the path of the best.json.

    Args:
        say: is given each line of progress.

    Raises:
        TrainingFailed, and what reading data and vectors raises.
    """
    started = time.time()
    say_all(say, conflicts.check(experiment, {experiment.model.embedding}))
    with connect():
        waits = _require(experiment)
        found = dataset.load(experiment)
        say_all(say, found.notes)
        corpus = prepare(experiment, found, pretrained=experiment.model.embedding != "rand", progress=say)
        if corpus.coverage:
            say(f"vectors: {corpus.coverage}")
        run = place("train", experiment, corpus)
        best = run.finished()
        if best is not None:
            say(f"this run is finished: {describe(best)}; its folder is {run.path}")
            return run.publish(best)
        if waits:
            say(waits)
        write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
        write_text(join(run.path, "README.txt"), FILES)
        with locked(run.path):
            best = _finish(_fit(experiment, corpus, run, say, started), run, experiment, say, started)
        return run.finish(best)


def describe(best: dict[str, Any]) -> str:
    """Return a best.json's contents in words."""
    values = " ".join(f"{key} {best['metrics'][key]:.4f}" for key in ("accuracy", "macro_f1", "loss"))
    return f"epoch {best['metrics']['epoch']}, validation {values}"


def epoch_line(epoch: Epoch, improved: bool, left: int) -> str:
    """Return an epoch's figures on a line, with the time that so many more of its kind would take."""
    time_left = f"   at most {timedelta(seconds=round(epoch.seconds * left))} left" if left else ""
    return (
        f"epoch {epoch.epoch:3d}   train loss {epoch.train_loss:.4f}   validation loss {epoch.loss:.4f}"
        f"   accuracy {epoch.accuracy:.4f}   macro F1 {epoch.macro_f1:.4f}"
        f"   {epoch.examples_per_second:,.0f} examples/s{time_left}{'   *' if improved else ''}"
    )


def report_of(epoch: Epoch, improved: bool) -> dict[str, Any]:
    """Return an epoch's report to Ray, which keeps the checkpoint of the last `improvement`: the best epoch's."""
    return vars(epoch) | {"improvement": epoch.epoch if improved else 0}


def say_all(say: Callable[[str], None], lines: list[str]) -> None:
    """Say several lines."""
    for line in lines:
        say(line)


def _require(experiment: Experiment) -> str | None:
    return resources.require(
        experiment.train.fewest_workers, experiment.train.cpus_per_worker, use_gpu=_use_gpu(experiment)
    )


def _use_gpu(experiment: Experiment) -> bool:
    wanted = experiment.train.use_gpu
    return resources.gpus() >= experiment.train.most_workers if wanted is None else wanted


def _fit(
    experiment: Experiment, corpus: Corpus, run: Run, say: Callable[[str], None], started: float
) -> dict[str, Any]:
    """Run Ray Train, as often as workers are lost and there is progress, and return what `work` returns."""
    import ray
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    settings = experiment.train
    number = " to ".join(map(str, settings.workers)) if isinstance(settings.workers, list) else settings.workers
    say(f"starting {number} worker{'' if settings.most_workers == 1 else 's'}")
    reference = ray.put(corpus)
    checkpoints = Checkpoints(run.path)
    failures, reached = 0, checkpoints.newest()
    running = threading.Event()
    with _told(experiment, run, say, running) as queue:
        config = {"experiment": experiment, "corpus": reference, "queue": queue, "path": run.path, "started": started}
        while True:
            try:
                with interruptible():
                    result = _trainer(experiment, run, config).fit()
                break
            except (TrainingFailedError, RayError) as error:
                running.clear()
                now = checkpoints.newest()
                failures = 1 if now > reached else failures + 1
                reached = now
                reason = _reason(error)
                if failures > MAX_FAILURES:
                    raise TrainingFailed(
                        f"the workers were lost {failures} times without progress: {reason}; Ray's logs tell more, and "
                        "the same command goes on from the last checkpoint"
                    ) from error
                say(f"workers were lost ({reason}); starting again from the last checkpoint")
                resources.release()
                waits = _require(experiment)
                if waits:
                    say(waits)
    if "error" in result.return_value:
        raise TrainingFailed(result.return_value["error"])
    return result.return_value


def _trainer(experiment: Experiment, run: Run, config: dict[str, Any]) -> Any:
    import ray.train
    from ray.train.torch import TorchTrainer

    settings = experiment.train
    workers = tuple(settings.workers) if isinstance(settings.workers, list) else settings.workers
    return TorchTrainer(
        work,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=_use_gpu(experiment),
            resources_per_worker={"CPU": settings.cpus_per_worker},
        ),
        # Checkpoints are ours: Ray is told of epochs, and starts afresh each time.
        run_config=ray.train.RunConfig(name=run.name, storage_path=run.folder),
    )


def _reason(error: Exception) -> str:
    """Return what was lost and why, on a line."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    texts = [" ".join(str(failure).split()) for failure in failures.values()]
    # Those that were left fail because of the one that was lost.
    texts.sort(key=lambda text: "gloo" in text.lower() or "Connection" in text)
    return texts[0][:300]


def _finish(
    returned: dict[str, Any], run: Run, experiment: Experiment, say: Callable[[str], None], started: float
) -> dict[str, Any]:
    """Say and draw how the run went, and return the contents of best.json."""
    progress = Progress.from_json(returned["progress"])
    name = name_of(progress.best)
    if not progress.best or not Checkpoints(run.path).has(name):
        raise TrainingFailed(
            f"{run.path}: the best checkpoint, {name}, is not there as seen from here; `storage` must be a folder or "
            "URI that every node sees"
        )
    best = progress.epochs[progress.best - 1]
    found = {
        "checkpoint": name,
        "metric": experiment.train.metric,
        "metrics": {key: getattr(best, key) for key in METRICS},
    }
    write_bytes(join(run.path, "learning-curve.png"), learning_curve.picture(progress))
    say_all(say, learning_curve.table(progress))
    summary = returned["summary"]
    seconds = time.time() - started
    sent = f", {summary['bytes'] / max(1, summary['steps']) / 1e6:.2f} MB a step from each worker"
    say(
        f"{seconds:.1f} s in all, {1 - summary['step_s'] / seconds:.0%} of it outside steps; "
        f"the first step came after {summary['first_step_s']:.1f} s{sent if summary['workers'] > 1 else ''}"
    )
    say(f"best: {describe(found)}")
    return found


@contextmanager
def _told(experiment: Experiment, run: Run, say: Callable[[str], None], running: threading.Event):
    """Hold a queue that the first worker puts (kind, value) into; they are said as they come.

    Args:
        running: is set once there are workers.
    """
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Beside the driver, so that no other node takes it along when it is lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(queue, ended, running, experiment, run, say), daemon=True)
    teller.start()
    try:
        yield queue
    finally:
        ended.set()
        teller.join(timeout=5)
        queue.shutdown()


def _tell(
    queue: Any,
    ended: threading.Event,
    running: threading.Event,
    experiment: Experiment,
    run: Run,
    say: Callable[[str], None],
) -> None:
    from ray.util.queue import Empty

    settings = experiment.train
    heard = time.monotonic()
    while True:
        last_round = ended.is_set()
        try:
            while True:
                kind, value = queue.get(timeout=0.2)
                heard = time.monotonic()
                if kind == "line":
                    say(value)
                elif kind == "started":
                    say(f"training with {value}")
                    running.set()
                elif kind == "within":
                    say("epoch {:3d}   step {:,} of {:,}   train loss {:.4f}   {:,.0f} examples/s".format(*value))
                elif kind == "epoch":
                    epoch, improved = value
                    say(epoch_line(epoch, improved, settings.epochs - epoch.epoch))
                    if not is_uri(run.path):
                        learning_curve.log_scalars(Path(run.path, "tensorboard"), [epoch])
        except Empty:
            if last_round:
                return
        if not running.is_set() and time.monotonic() - heard > WAITING_S:
            heard = time.monotonic()
            say(f"waiting for workers; {resources.free()}")
