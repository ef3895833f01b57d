"""The search: Ray Tune over embedding kinds, filter settings, and any other of `model` and `train`.

A trial trains inside its own process, which the next trial uses again; corpus and vectors are in the
object store once and mapped by all. A trial's checkpoint is written when an epoch is its best so far.
"""

import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import UsageError, resources
from cluster.connection import connect
from cluster.interruption import interruptible
from cluster.storage import join, locked, write_text
from jobs import conflicts, dataset, snapshot
from jobs.corpus import Corpus, prepare
from jobs.experiment import Experiment
from jobs.history import Epoch, score
from jobs.loop import Loop
from jobs.network import Network
from jobs.run import Run, place
from jobs.space import Dimension, dimensions, embeddings, num_trials
from jobs.train import METRICS, say_all

REDUCTION_FACTOR = 3  # ASHA keeps a third at each rung


class SearchFailed(UsageError):
    """No trial of a search came to an end."""


def tune(experiment: Experiment, say: Callable[[str], None]) -> str:
    """Search, or go on with a search that was cut off, and return the path of the best.json.

    Beside it `best.yaml` is written: the experiment with the best settings.

    Args:
        say: is given each line of progress.
    """
    space = dimensions(experiment)
    kinds = embeddings(experiment, space)
    say_all(say, conflicts.check(experiment, kinds, {each.path: each.values for each in space}))
    with connect():
        found = dataset.load(experiment)
        say_all(say, found.notes)
        corpus = prepare(experiment, found, pretrained=kinds != {"rand"}, progress=say)
        random = corpus
        if corpus.coverage:
            say(f"vectors: {corpus.coverage}")
            random = prepare(experiment, found, pretrained=False, progress=say)
        run = place("tune", experiment, corpus)
        best = run.finished()
        if best is not None:
            say(f"this search is finished; its folder is {run.path}")
        else:
            waits = resources.require(1, experiment.train.cpus_per_worker, use_gpu=False)
            if waits:
                say(waits)
            with locked(run.path):
                best = _search(experiment, space, corpus, random, run, say)
        value = best["metrics"][best["metric"]]
        say(f"best: {_settings_line(best['settings'])}: validation {best['metric']} {value:.4f}")
        path = run.publish(best)
        write_text(join(run.folder, "best.yaml"), conflicts.relieved(experiment.replace(best["settings"])).to_yaml())
        return path


def _search(
    experiment: Experiment,
    space: list[Dimension],
    corpus: Corpus,
    random: Corpus,
    run: Run,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run Ray Tune and return the contents of best.json."""
    import ray.tune

    # A trial that fails is told in a line, not with its traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
    trainable = ray.tune.with_resources(
        ray.tune.with_parameters(
            _trial,
            experiment=experiment,
            pretrained=corpus,
            random=random,
        ),
        {"cpu": experiment.train.cpus_per_worker},
    )
    at_once = experiment.tune.max_concurrent or max(1, resources.cpus() // experiment.train.cpus_per_worker)
    say(f"{num_trials(experiment, space)} trials, up to {at_once} at once")
    if ray.tune.Tuner.can_restore(run.path):
        say("going on with the search that was cut off")
        tuner = ray.tune.Tuner.restore(run.path, trainable, resume_unfinished=True, restart_errored=True)
    else:
        tuner = _tuner(
            experiment,
            space,
            trainable,
            run,
            _teller(say, experiment.train.metric, num_trials(experiment, space)),
        )
    with interruptible() as interrupted:
        results = tuner.fit()
        ended = [result for result in results if result.error or (result.metrics or {}).get("done")]
        if interrupted() and len(ended) < num_trials(experiment, space):
            raise KeyboardInterrupt  # Tune ends quietly on Ctrl-C, with what it has
    best = _best(results, experiment.train.metric)
    if best is None:
        reason = _last_line(next(iter(results.errors), "no trial came to the end of an epoch"))
        raise SearchFailed(f"every trial failed; the first: {reason}")
    result, checkpoint, metrics = best
    summary = {
        "checkpoint": "/".join(Path(checkpoint.path).parts[-2:]),  # trial/checkpoint, inside the run
        "metric": experiment.train.metric,
        "metrics": {key: metrics[key] for key in METRICS},
        "settings": result.config,
    }
    say_all(say, _by_embedding(results, experiment))
    run.finish(summary)
    return summary


def _tuner(experiment: Experiment, space: list[Dimension], trainable: Any, run: Run, teller: Any) -> Any:
    import ray.tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    metric = experiment.train.metric
    mode = "min" if metric == "loss" else "max"
    epochs = experiment.tune.epochs or experiment.train.epochs
    scheduler: Any = FIFOScheduler()
    if experiment.tune.scheduler == "asha":
        scheduler = ASHAScheduler(
            time_attr="epoch",
            max_t=max(epochs, experiment.tune.grace_epochs),
            grace_period=experiment.tune.grace_epochs,
            reduction_factor=REDUCTION_FACTOR,
        )
    return ray.tune.Tuner(
        trainable,
        param_space={each.path: _ray_domain(each) for each in space},
        tune_config=ray.tune.TuneConfig(
            metric=metric,
            mode=mode,
            num_samples=experiment.tune.samples,
            max_concurrent_trials=experiment.tune.max_concurrent,
            search_alg=BasicVariantGenerator(random_state=experiment.seed),
            scheduler=scheduler,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=ray.tune.RunConfig(
            name=run.name,
            storage_path=run.folder,
            verbose=0,
            callbacks=[teller],
            checkpoint_config=ray.tune.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="improvement", checkpoint_score_order="max"
            ),
        ),
    )


def _trial(config: dict[str, Any], experiment: Experiment, pretrained: Corpus, random: Corpus) -> None:
    """Train one trial in this process."""
    import ray.tune
    import torch

    torch.set_num_threads(experiment.train.cpus_per_worker)
    if experiment.tune.epochs:
        config = {"train.epochs": experiment.tune.epochs, **config}
    chosen = experiment.replace(config)
    corpus = random if chosen.model.embedding == "rand" else pretrained
    network = Network(chosen.model, corpus.vectors, len(corpus.labels), chosen.seed, num_trained=len(corpus.counts()))
    loop = Loop(network, corpus, chosen.train, chosen.seed)
    for epoch, improved in loop.epochs():
        with tempfile.TemporaryDirectory() as folder:
            written = None
            if improved:
                snapshot.take(chosen, corpus, loop, resumable=False)(Path(folder))
                written = ray.tune.Checkpoint.from_directory(folder)
            ray.tune.report(report_of(epoch, improved), checkpoint=written)


def report_of(epoch: Epoch, improved: bool) -> dict[str, Any]:
    """Return an epoch's report to Ray, which keeps the checkpoint of the last `improvement`: the best epoch's."""
    return vars(epoch) | {"improvement": epoch.epoch if improved else 0}


def _best(results: Any, metric: str) -> Any:
    """Return the best epoch of all trials as (result, checkpoint, metrics), None if no trial has one."""
    found = [
        (result, checkpoint, metrics) for result in results for checkpoint, metrics in result.best_checkpoints or []
    ]
    return max(found, key=lambda each: score(each[2], metric), default=None)


def _by_embedding(results: Any, experiment: Experiment) -> list[str]:
    """Return each embedding kind's best validation figure, a line each."""
    metric = experiment.train.metric
    found: dict[str, list[dict[str, Any]]] = {}  # by kind, each trial's best epoch
    for result in results:
        kind = result.config.get("model.embedding", experiment.model.embedding)
        epochs = [metrics for _, metrics in result.best_checkpoints or []]
        if epochs:  # two in a trial that was cut off and begun again
            found.setdefault(kind, []).append(max(epochs, key=lambda epoch: score(epoch, metric)))
    lines = []
    for kind, epochs in sorted(found.items()):
        best = max(epochs, key=lambda epoch: score(epoch, metric))
        lines.append(
            f"{kind:13} best validation {metric} {best[metric]:.4f}, in epoch {best['epoch']}, of {len(epochs)} trials"
        )
    return lines


def _ray_domain(dimension: Dimension) -> Any:
    import ray.tune

    if dimension.kind == "grid":
        return ray.tune.grid_search(dimension.values)
    if dimension.kind == "choice":
        return ray.tune.choice(dimension.values)
    return getattr(ray.tune, dimension.kind)(*dimension.values)


def _teller(say: Callable[[str], None], metric: str, expected: int) -> Any:
    """Return a callback of Tune's that says each trial's outcome."""
    import ray.tune

    sign = -1 if metric == "loss" else 1

    class Teller(ray.tune.Callback):
        def __init__(self) -> None:
            self.best: dict[str, float] = {}

        def on_trial_result(self, iteration, trials, trial, result, **info) -> None:
            value = result[metric]
            self.best[trial.trial_id] = max(self.best.get(trial.trial_id, value), value, key=lambda x: sign * x)

        def on_trial_complete(self, iteration, trials, trial, **info) -> None:
            best = self.best.get(trial.trial_id, float("nan"))
            epochs = (trial.last_result or {}).get("epoch", 0)
            self.tell(f"{metric} {best:.4f} in {epochs} epochs", trial, trials)

        def on_trial_error(self, iteration, trials, trial, **info) -> None:
            error = trial.get_error()  # not always there yet
            self.tell(f"failed: {_last_line(error)}" if error else "failed", trial, trials)

        def tell(self, outcome: str, trial, trials) -> None:
            ended = 1 + sum(each.is_finished() for each in trials if each is not trial)
            say(f"trial {ended:3d} of {expected}   {outcome}   {_settings_line(trial.config)}")

    return Teller()


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.trial_id}"


def _last_line(error: object) -> str:
    """Return what an error says, without the traceback and the class that Ray puts before it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^[A-Za-z_][\w.]*(Error|Diverged|Failed): ", "", lines[-1]) if lines else repr(error)


def _settings_line(settings: dict[str, Any]) -> str:
    def short(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return " ".join(f"{path.rpartition('.')[2]}={short(value)}" for path, value in settings.items())
