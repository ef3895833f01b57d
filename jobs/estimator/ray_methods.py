"""Methods of the estimator for Ray: a search on Ray Tune, and parts for a user's own trainer and tuner."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Self

from sklearn.base import clone

from jobs.config.conflicts import list_ineffective_trackers
from jobs.config.experiment import Experiment
from jobs.config.label_thresholds import MULTI_LABEL_METRIC
from jobs.datasets.dataset import Dataset
from jobs.datasets.row_weights import check_class_weights, check_thresholds
from jobs.estimator.inputs import EvalSet, LabelSets, make_dataset
from jobs.estimator.parameters import apply_chosen_settings, build_search_experiment
from jobs.estimator.training import TrainedModel, build_memory_corpus
from jobs.estimator.tuning import build_trainable, search
from jobs.model.checkpoint import load_labels

logger = logging.getLogger(__name__)


class RayMethods:
    """Methods of `TextCNNClassifier` that use Ray, which they import."""

    settings: Mapping[str, Any] | None
    validation_fraction: float
    warm_start: bool
    verbose: bool

    def to_experiment(self) -> Experiment:
        """Return the experiment with the estimator's parameters."""
        raise NotImplementedError

    def _to_search_experiment(self) -> Experiment:
        """Return the experiment of trials: they have as many epochs as `fit`, unless the settings say otherwise."""
        return self.to_experiment().replace({"tune.epochs": (self.settings or {}).get("tune.epochs")})

    def _make_dataset(
        self,
        experiment: Experiment,
        X: Iterable[str],
        y: Iterable[Any],
        sample_weight: Iterable[float] | None,
        eval_set: EvalSet | None,
        *,
        continues: bool = False,
    ) -> tuple[Experiment, Dataset, LabelSets | None]:
        """Return the experiment, with the settings that the labels require, and the values of `make_dataset`.

        Args:
            continues: the training starts from the weights of the fit before.

        Raises:
            ExperimentError: class weights or thresholds are not those of the labels.
        """
        if not continues:
            self._warn_about_vectors(experiment)
        dataset, sets = make_dataset(X, y, sample_weight, eval_set, self.validation_fraction, experiment.seed)
        if sets is not None:
            metric = (self.settings or {}).get("train.metric", MULTI_LABEL_METRIC)
            experiment = experiment.replace({"data.multi_label": True, "train.metric": metric})
        check_class_weights(experiment, dataset.labels, load_labels(experiment.train.start_from))
        check_thresholds(experiment.train.thresholds, dataset.labels)
        return experiment, dataset, sets

    def _warn_about_vectors(self, experiment: Experiment) -> None:
        """Log a warning if the vectors file of a loaded model is not used again, although its weights are not."""
        if experiment.vectors.path is not None or experiment.model.embedding == "rand":
            return
        model: TrainedModel | None = getattr(self, "_model", None)
        if model is not None and (path := model.checkpoint.experiment.vectors.path) is not None:
            logger.warning(
                f"the model was trained with the vectors of {path}, and this one has vectors that are trained on its "
                "texts: a file that a checkpoint names is not read; set the parameter vectors to read it"
            )

    def _set_model(self, model: TrainedModel, y: Iterable[Any], sets: LabelSets | None) -> Self:
        raise NotImplementedError

    def tune(
        self,
        X: Iterable[str],
        y: Iterable[Any],
        space: Mapping[str, Any] | None = None,
        sample_weight: Iterable[float] | None = None,
        *,
        trials: int | None = None,
        minutes: float | None = None,
        eval_set: EvalSet | None = None,
    ) -> Self:
        """Search settings with Ray Tune, and return a new estimator with the best ones, fitted to these rows.

            best = TextCNNClassifier("vectors.bin.gz").tune(texts, labels, {"dropout": [0.3, 0.5]})
            best.get_params()

        It runs on the Ray that this process is connected to, on the cluster of RAY_ADDRESS, or on an embedded Ray. All
        trials have the same validation rows. The best settings are trained again on these and the training rows
        together, for as many epochs as were best. With `settings={"tune.refit": False}` the model is that of the best
        trial's best epoch.

        Args:
            X, y, sample_weight, eval_set: as of `fit`; rows of `eval_set` have the mean weight of the others when the
                best settings are trained again.
            space: values to search, by the names of parameters or the dotted paths of settings: lists, or as in
                `tune.space` of an experiment, such as `{"dropout": {"uniform": [0.2, 0.6]}}`; by default its default.
            trials: maximum number of trials; by default 3 for each combination of the lists.
            minutes: time limit; running trials are stopped then.

        Raises:
            ValueError, UsageError: as of `fit`; the space is invalid, or every trial failed.
        """
        limits = {"tune.trials": trials, "tune.minutes": minutes}
        experiment = build_search_experiment(self._to_search_experiment(), space)
        experiment = experiment.replace({path: value for path, value in limits.items() if value is not None})
        experiment, dataset, sets = self._make_dataset(experiment, X, y, sample_weight, eval_set)
        chosen, model = search(experiment, dataset, (self.settings or {}).get("storage"), with_logs=self.verbose)
        best: Self = clone(self).set_params(**apply_chosen_settings(self.settings, chosen))
        return best._set_model(model, y, sets)

    def train_loop_config(
        self,
        X: Iterable[str],
        y: Iterable[Any],
        sample_weight: Iterable[float] | None = None,
        *,
        eval_set: EvalSet | None = None,
        path: str | None = None,
    ) -> Mapping[str, Any]:
        """Return the `train_loop_config` with which `train_loop_per_worker` trains in your own `TorchTrainer`.

        If this process is connected to Ray, the workers of a node share one copy of the rows.

        Args:
            X, y, sample_weight, eval_set: as of `fit`.
            path: folder of the checkpoints, if the storage of the trainer is a URI, or with `num_workers=0`.
        """
        from jobs.training.corpora.sharing import put_if_connected

        experiment, dataset, _ = self._make_dataset(self.to_experiment(), X, y, sample_weight, eval_set)
        _warn_about_trackers(experiment, "trainer of your own")
        experiment, corpus = build_memory_corpus(experiment, dataset)
        return {"experiment": experiment, "corpus": put_if_connected(corpus), "path": path}

    def trainable(
        self,
        X: Iterable[str],
        y: Iterable[Any],
        sample_weight: Iterable[float] | None = None,
        *,
        eval_set: EvalSet | None = None,
    ) -> Any:
        """Return a Trainable for your own `ray.tune.Tuner`, whose trials start from these parameters.

        A trial's configuration has settings by dotted path, as `search_space` returns them. Each epoch is a result with
        the metrics of `Epoch`. Tune's checkpoints are checkpoints that `load` reads. Connect to Ray first.

        Args:
            X, y, sample_weight, eval_set: as of `fit`.
        """
        experiment, dataset, _ = self._make_dataset(self._to_search_experiment(), X, y, sample_weight, eval_set)
        _warn_about_trackers(experiment, "tuner of your own")
        return build_trainable(experiment, dataset)


def _warn_about_trackers(experiment: Experiment, kind: str) -> None:
    for warning in list_ineffective_trackers(experiment, kind):
        logger.warning(f"{warning}; use the callbacks of Ray")
