"""Fine-tuning on the workers of a cluster: Ray Train around the loop.

Each epoch is reported with a checkpoint; Ray keeps the best and the newest. A run that was cut off
goes on from the newest when the same command is given again.
"""

import platform
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import UsageError, resources
from cluster.connection import connect
from cluster.interruption import interruptible
from cluster.storage import copy_folder, exists, join, locked, write_text
from jobs import conflicts, dataset
from jobs.corpus import Corpus, prepare
from jobs.experiment import Experiment
from jobs.loop import Epoch, Loop, Progress, Workers
from jobs.network import Network
from jobs.run import Run, place

# What best.json says of the best epoch.
METRICS = ("epoch", "train_loss", "loss", "accuracy", "macro_f1")

# Restarts of the workers after one was lost, before the run gives up.
MAX_FAILURES = 3


class TrainingFailed(UsageError):
    """A run ended without a checkpoint, or could not go on."""


def train(experiment: Experiment, say: Callable[[str], None]) -> str:
    """Train, or go on with a run that was cut off, and return the path of the best.json.

    Args:
        say: is given each line of progress.

    Raises:
        TrainingFailed, and what reading data and vectors raises.
    """
    say_all(say, conflicts.check(experiment, {experiment.model.embedding}))
    with connect():
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
        waits = resources.require(experiment.train.workers, experiment.train.cpus_per_worker, _use_gpu(experiment))
        if waits:
            say(waits)
        write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
        with locked(run.path):
            best = _fit(experiment, corpus, run, say)
        say(f"best: {describe(best)}")
        return run.finish(best)


def describe(best: dict[str, Any]) -> str:
    """Return a best.json's contents in words."""
    values = " ".join(f"{key} {best['metrics'][key]:.4f}" for key in ("accuracy", "macro_f1", "loss"))
    return f"epoch {best['metrics']['epoch']}, validation {values}"


def epoch_line(epoch: Epoch, improved: bool) -> str:
    """Return an epoch's figures on a line."""
    return (
        f"epoch {epoch.epoch:3d}   train loss {epoch.train_loss:.4f}   validation loss {epoch.loss:.4f}"
        f"   accuracy {epoch.accuracy:.4f}   macro F1 {epoch.macro_f1:.4f}"
        f"   {epoch.examples_per_second:,.0f} examples/s{'   *' if improved else ''}"
    )


def report_of(epoch: Epoch, improved: bool) -> dict[str, Any]:
    """Return an epoch's report to Ray, which keeps the checkpoint of the last `improvement`: the best epoch's."""
    return vars(epoch) | {"improvement": epoch.epoch if improved else 0}


def say_all(say: Callable[[str], None], lines: list[str]) -> None:
    """Say several lines."""
    for line in lines:
        say(line)


def snapshot(experiment: Experiment, corpus: Corpus, loop: Loop, folder: Path, *, resumable: bool) -> None:
    """Write the loop's network as a checkpoint."""
    from jobs import checkpoint

    last = loop.progress.history[-1]
    state = {key: value.detach().cpu().numpy() for key, value in loop.state().items()} if resumable else None
    counts = corpus.counts()
    if loop.network.vectors is None:
        counts = counts[:0]
    seen = slice(len(counts))
    initial = checkpoint.Initial(corpus.vectors[seen], counts, corpus.pretrained[seen], corpus.scale)
    checkpoint.write(
        folder,
        checkpoint.Checkpoint(
            experiment=experiment,
            labels=corpus.labels,
            words=corpus.words,
            weights={key: value.detach().cpu().numpy() for key, value in loop.network.state_dict().items()},
            metrics={
                **vars(last),
                "rows": len(corpus.train),
                "held_out": corpus.held_out,
                "versions": checkpoint.provenance(),
            },
        ),
        state=state,
        progress=loop.progress.to_json() if resumable else None,
        initial=initial,
    )


def _use_gpu(experiment: Experiment) -> bool:
    wanted = experiment.train.use_gpu
    return resources.gpus() >= experiment.train.workers if wanted is None else wanted


def _fit(experiment: Experiment, corpus: Corpus, run: Run, say: Callable[[str], None]) -> dict[str, Any]:
    """Run Ray Train and return the contents of best.json."""
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    settings = experiment.train
    say(f"starting {settings.workers} worker{'s' if settings.workers > 1 else ''}")
    with _epochs_told(say) as queue:
        trainer = TorchTrainer(
            _work,
            train_loop_config={"experiment": experiment, "corpus": ray.put(corpus), "queue": queue, "run": run.path},
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings.workers,
                use_gpu=_use_gpu(experiment),
                resources_per_worker={"CPU": settings.cpus_per_worker},
            ),
            run_config=ray.train.RunConfig(
                name=run.name,
                storage_path=run.folder,
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(
                    num_to_keep=1, checkpoint_score_attribute="improvement", checkpoint_score_order="max"
                ),
            ),
        )
        try:
            with interruptible():
                result = trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(f"Ray Train gave up: {error}. The same command goes on from the last epoch") from error
    if result.return_value:
        raise TrainingFailed(result.return_value)
    if not result.best_checkpoints:
        raise TrainingFailed(f"no epoch was finished; Ray's logs are in {run.path}")
    checkpoint, metrics = max(result.best_checkpoints, key=lambda pair: pair[1]["improvement"])
    metrics = {key: metrics[key] for key in METRICS}
    return {"checkpoint": Path(checkpoint.path).name, "metric": settings.metric, "metrics": metrics}


@contextmanager
def _epochs_told(say: Callable[[str], None]):
    """Hold a queue that workers put lines into; they are said as they come."""
    from ray.util.queue import Empty, Queue

    queue = Queue(actor_options={"num_cpus": 0})
    ended = threading.Event()

    def tell() -> None:
        while True:
            last_round = ended.is_set()
            try:
                while True:
                    say(queue.get(timeout=0.2))
            except Empty:
                if last_round:
                    return

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield queue
    finally:
        ended.set()
        teller.join(timeout=5)
        queue.shutdown()


def _work(config: dict[str, Any]) -> str | None:
    """Run on each worker; return what went wrong, if it is the user's to mend."""
    import ray
    import ray.train
    import ray.train.torch
    import torch

    experiment: Experiment = config["experiment"]
    if not exists(join(config["run"], "experiment.yaml")):
        return f"{config['run']}: is not seen from {platform.node()}; every node must see the storage"
    corpus: Corpus = ray.get(config["corpus"])
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(experiment.train.cpus_per_worker)
    device = ray.train.torch.get_device()
    network = Network(experiment.model, corpus.vectors, len(corpus.labels), experiment.seed).to(device)
    loop = Loop(network, corpus, experiment.train, experiment.seed, workers, device)
    latest = ray.train.get_checkpoint()
    if latest is not None:
        _resume(loop, latest)
        if workers.rank == 0:
            _tell(config, f"going on after epoch {len(loop.progress.history)}")
    try:
        for epoch, improved in loop.epochs():
            with tempfile.TemporaryDirectory() as folder:
                written = None
                if workers.rank == 0:
                    snapshot(experiment, corpus, loop, Path(folder), resumable=True)
                    written = ray.train.Checkpoint.from_directory(folder)
                ray.train.report(
                    report_of(epoch, improved), checkpoint=written, checkpoint_upload_fn=_upload_to(config["run"])
                )
            if workers.rank == 0:
                _tell(config, epoch_line(epoch, improved))
    except UsageError as error:
        return str(error)
    return None


def _upload_to(run: str) -> Callable[[Any, str], Any]:
    """Return what brings a checkpoint into the run's folder, or raises: Ray's own way loses files in silence."""

    def upload(checkpoint: Any, name: str) -> Any:
        import ray.train

        copy_folder(checkpoint.path, join(run, name))
        return ray.train.Checkpoint(join(run, name))

    return upload


def _tell(config: dict[str, Any], line: str) -> None:
    config["queue"].actor.put_nowait.remote(line)  # not waited for: the driver may be gone


def _resume(loop: Loop, latest: Any) -> None:
    import torch
    from safetensors.numpy import load_file

    from jobs.checkpoint import read_progress

    with latest.as_directory() as folder:
        state, progress = read_progress(Path(folder))
        weights = load_file(Path(folder, "weights.safetensors"))
        loop.resume(
            {key: torch.from_numpy(value) for key, value in weights.items()},
            {key: torch.from_numpy(value) for key, value in state.items()},
            Progress.from_json(progress),
        )
