"""Analysis of a search's trials: kinds of embedding compared, importance of settings, table of all trials."""

import io
import json
import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from cluster.console.csv_output import create_csv_writer
from jobs.config.experiment import Experiment
from jobs.config.label_thresholds import MULTI_LABEL_METRICS, SINGLE_LABEL_METRICS
from jobs.search.records import (
    MAX_RECORDED_ROWS,
    TrialRecord,
    apply_trial_settings,
    decode_predictions,
    objective_metric,
    select_best_record,
)
from jobs.search.results.verdict import Gain, KindRows, compare_kinds, compute_row_values
from jobs.search.space import Dimension
from jobs.training.history import MINIMIZED_METRICS, comparison_key, negate_if_minimized

# With fewer trials, importances are noise: of 6 trials whose results do not depend on four settings, the largest share
# was up to 76 %. It stays near 40 % with 12 trials and above; the report says so.
MIN_TRIALS_FOR_IMPORTANCE = 12
# With fewer seeds, their deviation is too uncertain for a verdict; it may be 0 by chance.
MIN_SEEDS_FOR_VERDICT = 3
MIN_KNOWN_SHARE = 0.5  # of the trials of a kind, whose predictions are known
CANNOT_TELL = "Cannot tell whether fine-tuning the vectors pays"
NORMAL_QUANTILE = statistics.NormalDist().inv_cdf(0.975)  # of a 95 % confidence interval
CSV_METRICS = ("train_loss", "loss", "accuracy", "macro_f1", "examples_per_second")


@dataclass(frozen=True)
class EmbeddingResult:
    """Results of a kind of embedding: its best trial, and the objective of the best settings by seed.

    trials: all that have an epoch; repeated: those of the best settings with other seeds, by seed.
    """

    embedding: str
    best_record: TrialRecord
    values_by_seed: dict[int, float]
    trials: list[TrialRecord]
    repeated: dict[int, TrialRecord]

    @property
    def num_trials(self) -> int:
        """Number of trials that have an epoch."""
        return len(self.trials)

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
        own = {
            record.settings["seed"]: record
            for record in repeated
            if record.best and trial_embedding(experiment, record) == name
        }
        by_seed = {seed: record.best_value(metric) for seed, record in (own or {experiment.seed: best}).items()}
        results.append(EmbeddingResult(name, best, by_seed, trials, own))
    return sorted(results, key=lambda kind: comparison_key(vars(kind.best_record.best_epoch), metric), reverse=True)


def trial_embedding(experiment: Experiment, record: TrialRecord) -> str:
    """Return a trial's kind of embedding."""
    return str(record.settings.get("model.embedding", experiment.model.embedding))


def summarize_fine_tuning(experiment: Experiment, kinds: list[EmbeddingResult], labels: np.ndarray) -> str:
    """Return, in a few sentences, whether fine-tuning the vectors pays on this dataset.

    With the predictions of the trials the test is paired by rows and seeds (`jobs.search.results.verdict`). Without,
    the 95 % confidence interval of the gain combines that of the mean over the seeds (Student's t) with that of the
    choice of the validation rows, which all seeds share (`compute_row_margin`).

    Args:
        labels: classes of the validation rows, `(rows,)` int64; or `(rows, labels)` of 0 and 1.
    """
    class_sizes = [int(size) for size in np.bincount(labels) if size] if labels.ndim == 1 else [len(labels)]
    metric = objective_metric(experiment)
    by_name = {kind.embedding: kind for kind in kinds}
    tuned = [by_name[name] for name in ("non-static", "multichannel") if name in by_name]
    if "static" not in by_name or not tuned:
        return (
            "Whether fine-tuning the vectors pays was not searched: that requires trials of static, and of non-static "
            "or multichannel."
        )
    static = by_name["static"]
    # A kind whose trials with other seeds failed has only the value of its best trial, which is too optimistic.
    comparable = [kind for kind in tuned if kind.values_by_seed.keys() & static.values_by_seed.keys()]
    best = max(comparable or tuned, key=lambda kind: negate_if_minimized(kind.mean, metric))
    seeds = sorted(static.values_by_seed.keys() & best.values_by_seed.keys())
    if not seeds:
        return f"{CANNOT_TELL}: no seed was trained with both kinds of embedding."
    means = [statistics.mean(kind.values_by_seed[seed] for seed in seeds) for kind in (best, static)]
    gains = [best.values_by_seed[seed] - static.values_by_seed[seed] for seed in seeds]
    gain = statistics.mean(gains)
    values = (
        f"{best.embedding} {metric} {means[0]:.4f}, static {means[1]:.4f}: {gain:+.4f} on {sum(class_sizes):,} "
        f"validation rows, {'a single seed' if len(seeds) == 1 else f'the mean of {len(seeds)} seeds'}"
    )
    if len(seeds) < MIN_SEEDS_FOR_VERDICT:
        return f"{CANNOT_TELL}: {values}, too few to separate a gain from chance; set tune.seeds=5."
    values += f", with differences between {min(gains):+.4f} and {max(gains):+.4f}"
    rows_of_kinds = [_collect_rows(kind, seeds, metric, labels) for kind in (best, static)]
    if rows_of_kinds[0] is not None and rows_of_kinds[1] is not None:
        weighted_sizes = class_sizes if metric == "macro_f1" else [len(labels)]
        result = compare_kinds(rows_of_kinds[0], rows_of_kinds[1], weighted_sizes, len(tuned))
        return _describe_gain(result, values, best.num_trials + static.num_trials, len(tuned))
    row_margin = compute_row_margin(metric, means[0], means[1], class_sizes) if labels.ndim == 1 else None
    if row_margin is None:
        return f"{CANNOT_TELL}: {values}. {_explain_unknown_margin(metric, is_multi_label=labels.ndim == 2)}"
    margin = math.hypot(compute_seed_margin(gains), row_margin)
    return (
        f"{_format_verdict(gain - margin, gain + margin)}: {values}. The 95 % confidence interval of the gain is "
        f"±{margin:.4f}; the number of validation rows alone makes it ±{row_margin:.4f}."
    )


def _explain_unknown_margin(metric: str, *, is_multi_label: bool) -> str:
    """Return why it is not known what the choice of the validation rows changes."""
    paired = ("accuracy", "micro_f1") if is_multi_label else ("accuracy", "macro_f1")
    if metric in paired:
        return (
            "What the choice of the validation rows changes is not known, since the predictions of trials are missing: "
            f"those of several workers, or of more than {MAX_RECORDED_ROWS:,} validation rows, are not recorded."
        )
    return (
        f"What the choice of the validation rows changes is known for {' and '.join(paired)} only; set tune.metric to "
        "one of them."
    )


def _format_verdict(low: float, high: float) -> str:
    """Return the verdict of an interval of the gain."""
    if low <= 0 <= high:
        return CANNOT_TELL
    return f"Fine-tuning the vectors {'pays' if low > 0 else 'does not pay'}"


def _describe_gain(gain: Gain, values: str, num_trials: int, num_kinds: int) -> str:
    """Return the verdict of a paired test; num_kinds: of which the better one was compared with static."""
    verdict = _format_verdict(gain.low, gain.high)
    choice = f"the best of {num_trials} trials" + (f" and of {num_kinds} kinds" if num_kinds > 1 else "")
    text = (
        f"{verdict}: {values}. The 95 % confidence interval of the gain is {gain.low:+.4f} to {gain.high:+.4f}, paired "
        f"by rows and seeds; it accounts for the choice of {choice} on these rows."
    )
    if verdict == CANNOT_TELL:
        text += f" Chance may be the reason; more {'seeds (tune.seeds)' if gain.seeds_dominate else 'validation rows'} "
        text += "would narrow the interval most."
    return text


def _collect_rows(kind: EmbeddingResult, seeds: list[int], metric: str, labels: np.ndarray) -> KindRows | None:
    """Return the values of the rows in the trials of a kind; None if they are not known.

    Some trials may lack predictions, such as failed ones, but not most of them and not those of the seeds.
    """
    searched = [record for record in kind.trials if record.predicted]
    repeated = [kind.repeated[seed] for seed in seeds if seed in kind.repeated and kind.repeated[seed].predicted]
    if len(repeated) < len(seeds) or len(searched) < MIN_KNOWN_SHARE * len(kind.trials):
        return None
    values = [compute_row_values(metric, labels, decode_predictions(item.predicted)) for item in [*searched, *repeated]]
    known = [item for item in values if item is not None]
    if len(known) < len(values):
        return None
    return KindRows(np.array(known[: len(searched)]), np.array(known[len(searched) :]))


def compute_seed_margin(gains: list[float]) -> float:
    """Return half the width of the 95 % confidence interval of the mean of some gains (Student's t)."""
    import scipy.stats

    error = statistics.stdev(gains) / len(gains) ** 0.5
    return float(error * scipy.stats.t.ppf(0.975, len(gains) - 1))


def compute_row_margin(metric: str, first: float, second: float, class_sizes: Sequence[int]) -> float | None:
    """Return half the width of the 95 % confidence interval of the difference of two values on the same rows.

    It is that of the difference of two independent proportions (Dietterich 1998, section 3.2), with a correct and a
    wrong row added to each (Agresti & Caffo 2000): so it is above 0 even if all rows are correct. That both values
    are measured on the same rows is not used; it would rather narrow the interval. More seeds do not narrow it.

    For macro_f1 the number of rows is the one with which a mean over equally large classes varies as much as the mean
    over classes of these sizes. Above 0 for any number of rows; None for metrics that are not a share of the rows.
    """
    if metric == "accuracy":
        rows = float(sum(class_sizes))
    elif metric == "macro_f1":
        rows = len(class_sizes) ** 2 / sum(1 / size for size in class_sizes)
    else:
        return None
    shares = [(value * rows + 1) / (rows + 2) for value in (first, second)]
    return NORMAL_QUANTILE * math.sqrt(sum(share * (1 - share) for share in shares) / (rows + 2))


def compute_importances(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> dict[str, float]:
    """Return the share of the objective's variance that each setting explains alone (fANOVA, Hutter et al. 2014).

    Settings that were varied in some trials only are measured with those. A setting is left out if fewer than
    `MIN_TRIALS_FOR_IMPORTANCE` trials varied it, and all are if the trials' results are equal.
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
        importances |= {
            path: share for path, share in shares.items() if conditional is None or path == conditional.path
        }
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
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `normalize` is marked experimental
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied, normalize=False)
    return {item.path: float(shares.get(item.path, 0.0)) for item in space}


def format_trials_csv(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> str:
    """Return all trials as csv, by number, with the values of the best epoch."""
    paths = [dimension.path for dimension in space]
    stream = io.StringIO()
    writer = create_csv_writer(stream)
    names = [*CSV_METRICS, *(MULTI_LABEL_METRICS if experiment.data.is_multi_label else SINGLE_LABEL_METRICS)]
    writer.writerow(["trial", "status", "reason", *paths, "epochs", "best_epoch", *names, "seconds"])
    for record in sorted(records, key=lambda record: record.number):
        trained = apply_trial_settings(experiment, record.settings)
        settings = [_to_cell(record.settings.get(path, attrgetter(path)(trained))) for path in paths]
        metrics = [getattr(record.best_epoch, key) if record.best_epoch else "" for key in names]
        writer.writerow(
            [record.number, record.status, record.reason, *settings, len(record.epochs), record.best, *metrics,
             round(record.seconds, 3)]
        )  # fmt: skip
    return stream.getvalue()


def _to_cell(value: Any) -> str | int | float:
    return value if isinstance(value, str | int | float) else json.dumps(value)
