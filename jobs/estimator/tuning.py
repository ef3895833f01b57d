"""Search of an estimator's settings on Ray Tune."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

from cluster.console.logs import ConsoleHandler, handle_logs
from cluster.storage import exists, join, parent
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset
from jobs.estimator.parameters import build_search_experiment
from jobs.estimator.training import TrainedModel, load_trained, temporary_storage
from jobs.model.checkpoint_files import read_json
from jobs.search.records import RecordStore, TrialRecord, apply_trial_settings
from jobs.search.space import parse_space
from jobs.training.history import Epoch, Progress
from jobs.training.run_files.run_folder import BestCheckpoint


def search(
    experiment: Experiment, dataset: Dataset, storage: str | None, *, with_logs: bool
) -> tuple[Mapping[str, Any], TrainedModel]:
    """Return the best settings by dotted path, and the model that was trained with them.

    Its experiment has what a user set and what the search chose, not what a refit takes over from the best trial.

    Args:
        storage: folder or URI that every node can access; None for a temporary folder of this machine.
        with_logs: print the progress as `finetune-cnn tune` does.

    Raises:
        SearchFailed: every trial failed. Also the errors of settings and of reading vectors.
    """
    from jobs.search.tune import tune

    logs = handle_logs(ConsoleHandler()) if with_logs else nullcontext()
    with temporary_storage(storage) as folder, logs:
        best_path = tune(experiment.replace({"storage": folder}), dataset=dataset)
        best = BestCheckpoint.read(best_path)
        run = join(parent(best_path), best.run or "")
        records = {record.number: record for record in RecordStore(join(run, "trials")).read()}
        path = join(parent(best_path), best.checkpoint)
        model = load_trained(path, [])
        epochs = _read_epochs(path, model.checkpoint.metrics, records.get(best.trial or 0))
    train_settings = apply_trial_settings(experiment, best.settings or {}).train
    trained = model.checkpoint.experiment.model_copy(update={"train": train_settings, "storage": experiment.storage})
    return best.settings or {}, replace(model, checkpoint=replace(model.checkpoint, experiment=trained), epochs=epochs)


def _read_epochs(path: str, metrics: Mapping[str, Any], record: TrialRecord | None) -> list[Epoch]:
    """Return the epochs of the best trial up to that of its checkpoint at least.

    A trial that the time limit ended may have saved the checkpoint of an epoch without having reported the epoch. One
    with several workers has all its epochs in the checkpoint.
    """
    epochs = list(record.epochs) if record else []
    if len(epochs) >= metrics["epoch"]:
        return epochs
    if exists(join(path, "progress.json")):
        return Progress.from_json(read_json(join(path, "progress.json"))).epochs
    return [*epochs, Epoch(**{item.name: metrics[item.name] for item in fields(Epoch) if item.name in metrics})]


def build_trainable(experiment: Experiment, dataset: Dataset) -> Any:
    """Return a Trainable of Ray Tune for trials on a dataset; this process must be connected to Ray."""
    from jobs.search.tune import build_own_trainable

    return build_own_trainable(experiment, dataset)


def search_space(space: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return the `param_space` of your own `ray.tune.Tuner`: settings by dotted path, as distributions of `ray.tune`.

    >>> list(search_space({"dropout": {"uniform": [0.2, 0.6]}, "feature_maps": [50, 100]}))
    ['model.dropout', 'model.feature_maps']

    Args:
        space: as of `TextCNNClassifier.tune`.

    Raises:
        ExperimentError: a value is invalid, or has conditions (`if`), which Ray Tune does not have.
    """
    from jobs.search.trainable import to_tune_space

    return to_tune_space(parse_space(build_search_experiment(Experiment(), space)))
