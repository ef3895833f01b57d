"""Contradictory settings: settings without effect are an error, or a warning where nothing is lost."""

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any

from jobs.config.experiment import Experiment, ExperimentError
from jobs.config.label_thresholds import MULTI_LABEL_METRICS, SINGLE_LABEL_METRICS
from jobs.config.settings import VECTOR_FILE_SETTINGS, DataSettings, VectorSettings

TRAINED_EMBEDDINGS = {"rand", "non-static", "multichannel"}
# Settings of fine-tuning -> the kinds of embedding that they apply to.
FINE_TUNING_SETTINGS = {
    "model.trained_words": {"non-static", "multichannel"},
    "train.vectors_learning_rate": TRAINED_EMBEDDINGS,
    "train.vectors_pull": TRAINED_EMBEDDINGS,
    "train.frozen_epochs": TRAINED_EMBEDDINGS,
}
# Settings that set the weights of the linear classifier's scores.
LINEAR_WEIGHTS = ("train.linear_weight", "train.linear_weight_growth")


def check_settings(
    experiment: Experiment,
    embeddings: Collection[str],
    search_space: Mapping[str, Sequence[Any]] = {},
    *,
    rows_in_memory: bool = False,
) -> list[str]:
    """Return warnings about settings that have no effect.

    Args:
        embeddings: kinds of embedding that are trained with the experiment.
        search_space: values, or limits, of the settings that a search varies, by dotted path.
        rows_in_memory: the rows do not come from `data`.

    Raises:
        ExperimentError: the settings are too long; or a setting of fine-tuning applies to none of the embeddings, or
            all epochs are frozen; or there is no column of weights; or the settings of out-of-scope rows contradict
            others; or a setting of several labels per text, or of a linear classifier, is without effect.
    """
    experiment.to_yaml()
    _check_weight_column(experiment.data)
    _check_out_of_scope(experiment)
    _check_multi_label(experiment, rows_in_memory)
    _check_linear(experiment, search_space)
    default = Experiment()
    for path, applicable in FINE_TUNING_SETTINGS.items():
        is_set = path in search_space or attrgetter(path)(experiment) != attrgetter(path)(default)
        if is_set and applicable.isdisjoint(embeddings):
            reason = "no word has a pretrained vector" if "rand" in embeddings else "the vectors are not trained"
            kinds = " or ".join(sorted(embeddings))
            raise ExperimentError(f"{path} has no effect with model.embedding={kinds}: {reason}")
    own_epochs = (search_space and experiment.tune.epochs) or experiment.train.epochs
    epochs = max(search_space.get("train.epochs", [own_epochs]))
    frozen_epochs = max(search_space.get("train.frozen_epochs", [experiment.train.frozen_epochs]))
    if frozen_epochs >= epochs:
        raise ExperimentError(
            f"train.frozen_epochs={frozen_epochs} of {epochs} epochs leaves no epoch to train the vectors; "
            "lower it, or set model.embedding=static"
        )
    return _ineffective_vector_settings(experiment.vectors, set(embeddings))


def check_fold_settings(experiment: Experiment) -> list[str]:
    """Return warnings about settings that have no effect in a cross-validation.

    Raises:
        ExperimentError: `data.test` or `train.start_from` is set.
    """
    if experiment.train.start_from is not None:
        raise ExperimentError("train.start_from: the folds of a cross-validation start from the beginning; remove it")
    if experiment.data.test is not None:
        raise ExperimentError("cross-validation draws a test part for each fold; remove data.test")
    warnings = list_ineffective_trackers(experiment, "cross-validation")
    if experiment.data.out_of_scope is not None:
        warnings.append("data.out_of_scope has no effect in a cross-validation, which measures no abstention")
    if experiment.train.max_workers > 1 or experiment.train.use_gpu:
        warnings.append("train.workers and train.use_gpu have no effect in a cross-validation: one CPU worker per fold")
    return warnings


def list_ineffective_trackers(experiment: Experiment, kind: str) -> list[str]:
    """Return a warning for each setting of a tracker; kind: of training that logs nothing, such as cross-validation."""
    keys = [key for key in ("mlflow", "tune.mlflow", "wandb") if attrgetter(key)(experiment)]
    return [f"{key} has no effect in a {kind}: nothing is logged" for key in keys]


def drop_ineffective_settings(experiment: Experiment) -> Experiment:
    """Return an experiment, as a search chose it, with the settings at default that its embedding, or the lack of a
    linear classifier, makes ineffective."""
    default = Experiment()
    paths = [path for path, kinds in FINE_TUNING_SETTINGS.items() if experiment.model.embedding not in kinds]
    if experiment.model.linear == "none":
        paths += LINEAR_WEIGHTS
    return experiment.replace({path: attrgetter(path)(default) for path in paths})


def _check_linear(experiment: Experiment, search_space: Mapping[str, Sequence[Any]]) -> None:
    default = Experiment()
    names = [
        path
        for path in LINEAR_WEIGHTS
        if path in search_space or attrgetter(path)(experiment) != attrgetter(path)(default)
    ]
    if names and set(search_space.get("model.linear", [experiment.model.linear])) == {"none"}:
        raise ExperimentError(f"{names[0]} has no effect with model.linear=none; remove it")
    if names == ["train.linear_weight_growth"]:
        raise ExperimentError("train.linear_weight_growth has no effect without train.linear_weight; set both, or none")


def _check_multi_label(experiment: Experiment, rows_in_memory: bool) -> None:
    train, default = experiment.train, Experiment().train
    is_multi_label = experiment.data.is_multi_label
    for key, metric in (("train.metric", train.metric), ("tune.metric", experiment.tune.metric)):
        if metric in (SINGLE_LABEL_METRICS if is_multi_label else MULTI_LABEL_METRICS):
            labels = (
                "one label per text; set"
                if is_multi_label
                else "several labels per text; set data.multi_label=true, or"
            )
            raise ExperimentError(f"{key}={metric} is a metric of {labels} another metric")
    if is_multi_label:
        if experiment.data.train is None and not rows_in_memory:
            raise ExperimentError(
                "data.multi_label has no effect without data.train: a docstring has one label; remove it, and "
                "data.label_separator"
            )
        if train.thresholds is not None and train.threshold_objective != default.threshold_objective:
            raise ExperimentError(
                "train.threshold_objective has no effect with train.thresholds, which names the thresholds; remove one"
            )
        return
    for key in ("thresholds", "threshold_objective"):
        if getattr(train, key) != getattr(default, key):
            raise ExperimentError(
                f"train.{key} has no effect with one label per text; remove it, or set data.multi_label"
            )


def _check_weight_column(data: DataSettings) -> None:
    if data.weight_column is None:
        return
    if data.train is None:
        raise ExperimentError(
            "data.weight_column has no effect without data.train: docstrings have no columns; remove it"
        )
    for key in ("text_column", "label_column"):
        if data.weight_column == getattr(data, key):
            raise ExperimentError(f"data.weight_column and data.{key} are both '{data.weight_column}'; correct one")


def _check_out_of_scope(experiment: Experiment) -> None:
    data = experiment.data
    if data.out_of_scope is not None and data.is_multi_label:
        raise ExperimentError("data.out_of_scope has no effect with several labels per text: a text may have none")
    if data.out_of_scope is None and data.out_of_scope_use != "auto":
        raise ExperimentError("data.out_of_scope_use has no effect without data.out_of_scope; name its file")
    if data.out_of_scope and data.out_of_scope_use == "auto" and isinstance(experiment.train.class_weights, dict):
        raise ExperimentError(
            "data.out_of_scope_use=auto trains with and without a class of these texts, and train.class_weights has "
            "the weights of one of the two; set it to threshold or class"
        )
    if data.out_of_scope and data.out_of_scope_use == "auto" and experiment.train.abstention_thresholds is not None:
        raise ExperimentError(
            "data.out_of_scope_use=auto compares thresholds that are selected on held-out rows, and "
            "train.abstention_thresholds sets them; set data.out_of_scope_use to threshold or class"
        )


def _ineffective_vector_settings(vectors: VectorSettings, embeddings: set[str]) -> list[str]:
    # Settings of pretraining in a file with `vectors.path` are no mistake: they are for a run without it. The loader of
    # experiments warns about those of the command line.
    if vectors.path is not None:
        return ["vectors.path is not read with model.embedding=rand"] if embeddings == {"rand"} else []
    return [
        f"vectors.{name} has no effect: no file is read: vectors.path is not set"
        for name in VECTOR_FILE_SETTINGS
        if getattr(vectors, name) != VectorSettings.model_fields[name].default
    ]
