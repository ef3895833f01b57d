"""Analysis of a search's trials: kinds of embedding compared, importance of settings, table of all trials."""

import csv
import io
import json
import statistics
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord, apply_trial_settings, objective_metric, select_best_record
from jobs.search.space import Dimension, get_setting
from jobs.training.history import MINIMIZED_METRICS, comparison_key

# With fewer trials, importances are noise.
MIN_TRIALS_FOR_IMPORTANCE = 6
CSV_METRICS = ("train_loss", "loss", "accuracy", "macro_f1", "examples_per_second")


@dataclass(frozen=True)
class EmbeddingResult:
    """Results of a kind of embedding: its best trial, and the objective of the best settings by seed."""

    embedding: str
    num_trials: int
    best_record: TrialRecord
    values_by_seed: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values_by_seed.values())

    @property
    def std(self) -> float | None:
        """Standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.values_by_seed.values()) if len(self.values_by_seed) > 1 else None


def compare_embeddings(
    experiment: Experiment, records: list[TrialRecord], repeated: list[TrialRecord]
) -> list[EmbeddingResult]:
    """Return the results of each kind of embedding, the best first.

    Args:
        repeated: the trials of each kind's best settings with other seeds.
    """
    metric = objective_metric(experiment)
    by_kind: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.best:
            by_kind.setdefault(trial_embedding(experiment, record), []).append(record)
    results = []
    for name, trials in by_kind.items():
        best = select_best_record(trials, metric)
        assert best is not None
        by_seed = {
            record.settings["seed"]: record.best_value(metric)
            for record in repeated
            if record.best and trial_embedding(experiment, record) == name
        }
        by_seed = by_seed or {experiment.seed: best.best_value(metric)}
        results.append(EmbeddingResult(name, len(trials), best, by_seed))
    return sorted(results, key=lambda kind: comparison_key(vars(kind.best_record.best_epoch), metric), reverse=True)


def trial_embedding(experiment: Experiment, record: TrialRecord) -> str:
    """Return a trial's kind of embedding."""
    return str(record.settings.get("model.embedding", experiment.model.embedding))


def summarize_fine_tuning(experiment: Experiment, kinds: list[EmbeddingResult]) -> str:
    """Return, in a sentence or two, whether fine-tuning the vectors pays on this dataset."""
    metric = objective_metric(experiment)
    by_name = {kind.embedding: kind for kind in kinds}
    tuned = [by_name[name] for name in ("non-static", "multichannel") if name in by_name]
    if "static" not in by_name or not tuned:
        return (
            "Whether fine-tuning the vectors pays was not searched: that requires trials of static, and of non-static "
            "or multichannel."
        )
    import scipy.stats

    static = by_name["static"]
    best = max(tuned, key=lambda kind: kind.mean * (-1 if metric in MINIMIZED_METRICS else 1))
    seeds = sorted(static.values_by_seed.keys() & best.values_by_seed.keys())
    if not seeds:
        return "Whether fine-tuning the vectors pays is not known: no seed was trained with both kinds of embedding."
    gains = [best.values_by_seed[seed] - static.values_by_seed[seed] for seed in seeds]
    gain = statistics.mean(gains)
    values = f"{best.embedding} {metric} {best.mean:.4f}, static {static.mean:.4f}: {gain:+.4f}"
    if len(gains) < 2:
        return f"{values}, with a single seed each, which cannot separate gain from chance; set tune.seeds=5."
    error = statistics.stdev(gains) / len(gains) ** 0.5
    margin = error * float(scipy.stats.t.ppf(0.975, len(gains) - 1))
    better = -gain if metric in MINIMIZED_METRICS else gain
    verdict = "Fine-tuning the vectors pays" if better > margin else "Whether fine-tuning the vectors pays is not clear"
    if better < -margin:
        verdict = "Fine-tuning the vectors does not pay"
    return (
        f"{verdict}: {values} on the validation rows, the mean of {len(gains)} seeds with differences between "
        f"{min(gains):+.4f} and {max(gains):+.4f}; the 95 % confidence interval of the gain is ±{margin:.4f} "
        "(Student's t)."
    )


def compute_importances(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> dict[str, float]:
    """Return the share of the objective's variance that each setting explains alone (fANOVA, Hutter et al. 2014).

    Settings that were varied in some trials only are measured with those. Empty if there are too few trials.
    """
    importances: dict[str, float] = {}
    unconditional = [dimension for dimension in space if not dimension.conditions]
    for conditional in [None, *(dimension for dimension in space if dimension.conditions)]:
        dimensions = [*unconditional, conditional] if conditional else unconditional
        paths = {dimension.path for dimension in dimensions}
        trials = [record for record in records if record.best and paths <= record.settings.keys()]
        if len(trials) < MIN_TRIALS_FOR_IMPORTANCE or not dimensions:
            continue
        shares = _run_fanova(dimensions, trials, objective_metric(experiment))
        importances |= shares if conditional is None else {conditional.path: shares[conditional.path]}
    return dict(sorted(importances.items(), key=lambda item: -item[1]))


def _run_fanova(space: list[Dimension], records: list[TrialRecord], metric: str) -> dict[str, float]:
    import optuna
    from optuna.trial import create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize" if metric in MINIMIZED_METRICS else "maximize")
    for record in records:
        study.add_trial(
            create_trial(
                params={item.path: item.to_optuna_value(record.settings[item.path]) for item in space},
                distributions={item.path: item.distribution() for item in space},
                value=record.best_value(metric),
            )
        )
    varied = [item.path for item in space if len({json.dumps(record.settings[item.path]) for record in records}) > 1]
    if not varied or len({record.best_value(metric) for record in records}) < 2:
        return {item.path: 0.0 for item in space}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `normalize` is marked experimental
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied, normalize=False)
    return {item.path: float(shares.get(item.path, 0.0)) for item in space}


def format_trials_csv(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> str:
    """Return all trials as csv, by number, with the values of the best epoch."""
    paths = [dimension.path for dimension in space]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "status", "reason", *paths, "epochs", "best_epoch", *CSV_METRICS, "seconds"])
    for record in sorted(records, key=lambda record: record.number):
        trained = apply_trial_settings(experiment, record.settings)
        settings = [_to_cell(record.settings.get(path, get_setting(trained, path))) for path in paths]
        metrics = [getattr(record.best_epoch, key) if record.best_epoch else "" for key in CSV_METRICS]
        writer.writerow(
            [record.number, record.status, record.reason, *settings, len(record.epochs), record.best, *metrics,
             round(record.seconds, 3)]
        )  # fmt: skip
    return stream.getvalue()


def _to_cell(value: Any) -> str | int | float:
    return value if isinstance(value, str | int | float) else json.dumps(value)


def compute_axis_positions(dimension: Dimension, values: list[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Return the positions of a setting's values on an axis from 0 to 1, NaN for None, and the axis' ticks.

    Args:
        values: None where the setting was not varied.
    """
    if dimension.is_categorical:
        names = [_format_value(value) for value in dimension.values]
        step = 1 / max(1, len(names) - 1)
        ticks = {name: (index * step if len(names) > 1 else 0.5) for index, name in enumerate(names)}
        positions = [np.nan if value is None else ticks[_format_value(value)] for value in values]
        return np.array(positions), [(position, name) for name, position in ticks.items()]
    low, high = (float(value) for value in dimension.values)
    is_log = dimension.kind.startswith("log")
    scale = np.log if is_log else float
    start, end = float(scale(low)), float(scale(high))
    positions = [np.nan if value is None else (float(scale(value)) - start) / (end - start) for value in values]
    middle = float(np.exp((start + end) / 2)) if is_log else (low + high) / 2
    labels = zip((0, 0.5, 1), (low, middle, high), strict=True)
    return np.array(positions), [(position, f"{value:.3g}") for position, value in labels]


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
