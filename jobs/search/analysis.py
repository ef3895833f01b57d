"""What a search found, for a person: the trials in order, which settings matter, and does fine-tuning pay."""

import csv
import io
import json
import statistics
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord, objective_metric, select_best_record
from jobs.search.space import Dimension, get_setting
from jobs.search.trial import apply_trial_settings
from jobs.training.history import MINIMIZED_METRICS, comparison_key

# Fewer trials tell nothing about which setting matters.
MIN_TRIALS_FOR_IMPORTANCE = 6


@dataclass(frozen=True)
class EmbeddingResult:
    """What a kind of embedding reached. best: its best trial; values: the objective of its best settings by seed."""

    embedding: str
    num_trials: int
    best_record: TrialRecord
    values_by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.mean(self.values_by_seed.values())

    @property
    def std(self) -> float | None:
        """Over the seeds; None for a single one."""
        return statistics.stdev(self.values_by_seed.values()) if len(self.values_by_seed) > 1 else None


def compare_embeddings(
    experiment: Experiment, records: list[TrialRecord], repeated: list[TrialRecord]
) -> list[EmbeddingResult]:
    """Return what each kind of embedding reached, the best first.

    Args:
        repeated: the trials of each kind's best settings with other seeds.
    """
    metric = objective_metric(experiment)
    by_kind: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.best:
            by_kind.setdefault(trial_embedding(experiment, record), []).append(record)
    found = []
    for name, ended in by_kind.items():
        best = select_best_record(ended, metric)
        assert best is not None
        own = [each for each in repeated if each.best and trial_embedding(experiment, each) == name]
        values = {each.settings["seed"]: each.best_metrics[metric] for each in own}
        found.append(EmbeddingResult(name, len(ended), best, values or {experiment.seed: best.best_metrics[metric]}))
    return sorted(found, key=lambda kind: comparison_key(kind.best_record.best_metrics, metric), reverse=True)


def trial_embedding(experiment: Experiment, record: TrialRecord) -> str:
    """Return a trial's kind of embedding."""
    return record.settings.get("model.embedding", experiment.model.embedding)


def summarize_fine_tuning(experiment: Experiment, found: list[EmbeddingResult]) -> str:
    """Return, in a sentence or two, whether fine-tuning the vectors pays on these data."""
    metric = objective_metric(experiment)
    by_name = {kind.embedding: kind for kind in found}
    tuned = [by_name[name] for name in ("non-static", "multichannel") if name in by_name]
    if "static" not in by_name or not tuned:
        return (
            "Whether fine-tuning the vectors pays was not asked: that takes static beside non-static or multichannel."
        )
    import scipy.stats

    static = by_name["static"]
    best = max(tuned, key=lambda kind: kind.mean * (-1 if metric in MINIMIZED_METRICS else 1))
    seeds = sorted(static.values_by_seed.keys() & best.values_by_seed.keys())
    if not seeds:
        return "Whether fine-tuning the vectors pays is not known: no seed was trained on both sides."
    gains = [best.values_by_seed[seed] - static.values_by_seed[seed] for seed in seeds]
    gain = statistics.mean(gains)
    said = f"{best.embedding} {metric} {best.mean:.4f}, static {static.mean:.4f}: {gain:+.4f}"
    if len(gains) < 2:
        return f"{said}, from a single seed each, which tells no chance from gain; tune.seeds=5 does."
    error = statistics.stdev(gains) / len(gains) ** 0.5
    margin = error * float(scipy.stats.t.ppf(0.975, len(gains) - 1))
    better = -gain if metric in MINIMIZED_METRICS else gain
    pays = "Fine-tuning the vectors pays" if better > margin else "Whether fine-tuning the vectors pays is not clear"
    if better < -margin:
        pays = "Fine-tuning the vectors does not pay"
    return (
        f"{pays}: {said} on the validation part, the mean of {len(gains)} seeds whose differences lie between "
        f"{min(gains):+.4f} and {max(gains):+.4f}; the gain of other seeds would be within {margin:.4f} of it "
        "(95 % interval, Student's t)."
    )


def compute_importances(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> dict[str, float]:
    """Return the share of the objective's variance that each setting explains alone (fANOVA, Hutter et al. 2014).

    Settings that were varied in some trials only are measured among those. Empty where there are too few trials.
    """
    found: dict[str, float] = {}
    always = [each for each in space if not each.conditions]
    for conditional in [None, *(each for each in space if each.conditions)]:
        chosen = [*always, conditional] if conditional else always
        told = [record for record in records if record.best and all(each.path in record.settings for each in chosen)]
        if len(told) < MIN_TRIALS_FOR_IMPORTANCE or not chosen:
            continue
        shares = _shares(chosen, told, objective_metric(experiment))
        found |= shares if conditional is None else {conditional.path: shares[conditional.path]}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _shares(space: list[Dimension], records: list[TrialRecord], metric: str) -> dict[str, float]:
    import optuna
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if metric in MINIMIZED_METRICS else "maximize")
    for record in records:
        study.add_trial(
            create_trial(
                params={each.path: each.to_optuna_value(record.settings[each.path]) for each in space},
                distributions={each.path: each.distribution() for each in space},
                value=record.best_metrics[metric],
            )
        )
    varied = [each.path for each in space if len({json.dumps(record.settings[each.path]) for record in records}) > 1]
    values = {record.best_metrics[metric] for record in records}
    if not varied or len(values) < 2:
        return {each.path: 0.0 for each in space}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `normalize` is new
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied, normalize=False)
    return {each.path: float(found.get(each.path, 0.0)) for each in space}


def format_trials_csv(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> str:
    """Return all trials as csv, by number."""
    paths = [each.path for each in space]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    figures = ("train_loss", "loss", "accuracy", "macro_f1", "examples_per_second")
    writer.writerow(["trial", "status", "reason", *paths, "epochs", "best_epoch", *figures, "seconds"])
    for record in sorted(records, key=lambda each: each.number):
        chosen = apply_trial_settings(experiment, record.settings)
        settings = [_cell(record.settings.get(path, get_setting(chosen, path))) for path in paths]
        best = [record.best_metrics.get(key, "") for key in figures]
        writer.writerow(
            [record.number, record.status, record.reason, *settings, len(record.epochs), record.best, *best,
             round(record.seconds, 3)]
        )  # fmt: skip
    return stream.getvalue()


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value)


def compute_axis_positions(dimension: Dimension, values: list[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return where values of a setting stand on an axis from 0 to 1, and its marks; NaN for None.

    Args:
        values: None where the setting was not varied.
    """
    if dimension.is_categorical:
        names = [_name(value) for value in dimension.values]
        step = 1 / max(1, len(names) - 1)
        places = {name: (number * step if len(names) > 1 else 0.5) for number, name in enumerate(names)}
        at = [np.nan if value is None else places[_name(value)] for value in values]
        return np.array(at), [(place, name) for name, place in places.items()]
    low, high = (float(each) for each in dimension.values)
    scale = np.log if dimension.kind.startswith("log") else float
    ends = float(scale(low)), float(scale(high))
    at = [np.nan if value is None else (float(scale(value)) - ends[0]) / (ends[1] - ends[0]) for value in values]
    marks = [low, float(np.exp(sum(ends) / 2)) if scale is np.log else (low + high) / 2, high]
    return np.array(at), [(place, f"{mark:.3g}") for place, mark in zip((0, 0.5, 1), marks, strict=True)]


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
