"""Settings that have no effect beside others: an error, or a note where nothing is lost."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jobs.config.experiment import Experiment, ExperimentError, TrainSettings, VectorSettings

TRAINED_EMBEDDINGS = {"rand", "non-static", "multichannel"}
# How vectors are fine-tuned -> the kinds of embedding where it means something.
FINE_TUNING_SETTINGS = {
    "model.trained_words": {"non-static", "multichannel"},
    "train.vectors_learning_rate": TRAINED_EMBEDDINGS,
    "train.vectors_pull": TRAINED_EMBEDDINGS,
    "train.frozen_epochs": TRAINED_EMBEDDINGS,
}
# Settings of `vectors` for those that gensim trains here, and for those read from a file.
PRETRAINING_SETTINGS = ("algorithm", "window", "negative", "sample", "epochs", "min_count")
VECTOR_FILE_SETTINGS = ("format", "allow_pickle", "unicode_errors")


def check_settings(
    experiment: Experiment, embeddings: Collection[str], search_space: Mapping[str, Sequence[Any]] = {}
) -> list[str]:
    """Return notes on settings that are passed over.

    Args:
        kinds: of embedding that are trained with the experiment.
        searched: paths of settings that a search varies, with their values or ends.

    Raises:
        ExperimentError: a way to fine-tune is asked for that none of the kinds has.
    """
    default = Experiment()
    for path, meaning in FINE_TUNING_SETTINGS.items():
        is_set = path in search_space or _value(experiment, path) != _value(default, path)
        if is_set and not meaning.intersection(embeddings):
            why = "no word has a pretrained vector" if "rand" in embeddings else "the vectors are not trained"
            raise ExperimentError(f"{path} has no effect with model.embedding={' or '.join(sorted(embeddings))}: {why}")
    epochs = _epochs(experiment.train, experiment.tune.epochs, bool(search_space))
    for frozen in search_space.get("train.frozen_epochs", [experiment.train.frozen_epochs]):
        if frozen >= epochs and "train.epochs" not in search_space:
            raise ExperimentError(
                f"train.frozen_epochs={frozen} of {epochs} epochs leaves none to train the vectors in; "
                "model.embedding=static is that"
            )
    if experiment.train.folds and experiment.data.test:
        raise ExperimentError("train.folds draws a test part for each fold; leave data.test away")
    notes = []
    if experiment.vectors.path is not None and set(embeddings) == {"rand"}:
        notes.append("vectors.path is not read with model.embedding=rand")
        return notes
    if experiment.train.folds and search_space:
        notes.append("train.folds is not for a search; cross-validate its best.yaml with train.folds=... on train")
    elif experiment.train.folds:
        notes += _of_folds(experiment)
    passed_over, why = (VECTOR_FILE_SETTINGS, "no file is read: vectors.path is not set")
    if experiment.vectors.path is not None:
        passed_over, why = (PRETRAINING_SETTINGS, "the vectors are read from vectors.path, not trained here")
    for name in passed_over:
        if getattr(experiment.vectors, name) != VectorSettings.model_fields[name].default:
            notes.append(f"vectors.{name} has no effect: {why}")
    return notes


def _of_folds(experiment: Experiment) -> list[str]:
    """Return what is passed over where each fold is trained by one worker."""
    notes = []
    if experiment.train.max_workers > 1 or experiment.train.use_gpu:
        notes.append("train.workers and train.use_gpu have no effect with train.folds: one CPU worker trains a fold")
    if experiment.data.test_share != Experiment().data.test_share:
        notes.append("data.test_share has no effect with train.folds: the folds share out all rows")
    return notes


def drop_ineffective_settings(experiment: Experiment) -> Experiment:
    """Return an experiment without the ways to fine-tune that mean nothing with its embedding, as a search finds it."""
    default = Experiment()
    return experiment.replace(
        {
            path: _value(default, path)
            for path, kinds in FINE_TUNING_SETTINGS.items()
            if experiment.model.embedding not in kinds
        }
        | {"train.folds": None}
    )


def _value(experiment: Experiment, path: str) -> object:
    section, name = path.split(".")
    return getattr(getattr(experiment, section), name)


def _epochs(train: TrainSettings, of_trials: int | None, is_search: bool) -> int:
    return of_trials if is_search and of_trials else train.epochs
