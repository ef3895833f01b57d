"""Analysis of a search: importances, the comparison of the kinds of embedding, and the table of all trials."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.config.experiment import Experiment
from jobs.search.records import TrialRecord, encode_predictions
from jobs.search.results.analysis import (
    CANNOT_TELL,
    MIN_SEEDS_FOR_VERDICT,
    MIN_TRIALS_FOR_IMPORTANCE,
    EmbeddingResult,
    compare_embeddings,
    compute_importances,
    compute_row_margin,
    format_trials_csv,
    summarize_fine_tuning,
)
from jobs.search.space import parse_space
from tests.support.trial_records import EXPERIMENT, make_epoch, make_record, make_records


def test_the_setting_that_matters_comes_first_and_one_without_effect_last() -> None:
    """A conditional setting is measured with the trials in which it was varied."""
    records = [*make_records(60), make_record(61, {}, None)]
    importances = compute_importances(EXPERIMENT, parse_space(EXPERIMENT), records)
    assert next(iter(importances)) == "model.dropout"
    assert importances["model.dropout"] > 0.5
    assert importances["model.feature_maps"] < 0.05
    assert importances["train.vectors_learning_rate"] > 0.02


def test_few_trials_have_no_importances() -> None:
    """Neither have trials with equal results."""
    space = parse_space(EXPERIMENT)
    assert compute_importances(EXPERIMENT, space, make_records(MIN_TRIALS_FOR_IMPORTANCE - 1)) == {}
    settings = {**make_records(1)[0].settings, "model.embedding": "static"}
    same = [make_record(number, settings, 0.5) for number in range(MIN_TRIALS_FOR_IMPORTANCE)]
    assert compute_importances(EXPERIMENT, space, same) == {}


LABELS = np.repeat([0, 1], 100)


def make_result(name: str, *values: float) -> EmbeddingResult:
    best = make_record(1, {"model.embedding": name}, values[0])
    return EmbeddingResult(name, best, dict(enumerate(values)), [best], {})


def summarize(
    tuned: Sequence[float], static: Sequence[float], class_sizes: Sequence[int], experiment: Experiment = EXPERIMENT
) -> str:
    kinds = [make_result("non-static", *tuned), make_result("static", *static)]
    return summarize_fine_tuning(experiment, kinds, np.repeat(np.arange(len(class_sizes)), class_sizes))


@pytest.mark.parametrize(
    ("static", "tuned", "expected"),
    [
        ((0.80, 0.81, 0.80, 0.81), (0.84, 0.85, 0.84, 0.84), r"^Fine-tuning the vectors pays: .*\+0\.03"),
        ((0.84, 0.85, 0.84, 0.84), (0.80, 0.81, 0.80, 0.81), r"^Fine-tuning the vectors does not pay: .*-0\.03"),
        ((0.80, 0.84, 0.79, 0.83), (0.82, 0.81, 0.83, 0.80), r"^Cannot tell"),
        ((0.80, 0.80), (0.90, 0.90), r"^Cannot tell .* the mean of 2 seeds, too few"),
        ((0.80,), (0.9,), r"^Cannot tell .* a single seed, too few .* tune\.seeds=5"),
    ],
)
def test_fine_tuning_pays_if_enough_seeds_agree(static: tuple, tuned: tuple, expected: str) -> None:
    assert re.search(expected, summarize(tuned, static, [10_000, 10_000]))


@given(
    correct=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    class_sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    seeds=st.integers(1, 8),
    metric=st.sampled_from(["accuracy", "macro_f1"]),
)
def test_equal_differences_of_a_few_rows_are_no_certainty(
    correct: tuple[int, int], class_sizes: list[int], seeds: int, metric: str
) -> None:
    """The margin is never below the error that the number of rows allows, however often it is repeated."""
    rows = sum(class_sizes)
    tuned, static = (min(number, rows) / rows for number in correct)
    experiment = EXPERIMENT.replace({"tune.metric": metric})
    summary = summarize([tuned] * seeds, [static] * seeds, class_sizes, experiment)
    if seeds < MIN_SEEDS_FOR_VERDICT:
        assert summary.startswith(CANNOT_TELL)
        return
    stated = re.search(r"gain is ±([\d.]+)", summary)
    assert stated is not None
    # Also if all rows are correct.
    assert float(stated[1]) > 1 / rows
    assert summary.startswith(CANNOT_TELL) == (abs(tuned - static) <= float(stated[1]) + 1e-4)


def test_seven_rows_are_too_few_for_a_verdict() -> None:
    """All seeds of one kind classify two more rows than the other."""
    summary = summarize([1.0] * 5, [5 / 7] * 5, [3, 4])
    assert summary.startswith(CANNOT_TELL)
    assert "on 7 validation rows, the mean of 5 seeds" in summary


def test_the_margin_of_rows_is_that_of_the_difference_of_two_proportions() -> None:
    """Rare classes widen that of macro F1; other metrics have none."""
    binomial = 1.96 * (0.8 * 0.2 / 10_000 + 0.7 * 0.3 / 10_000) ** 0.5
    assert compute_row_margin("accuracy", 0.8, 0.7, [100, 9_900]) == pytest.approx(binomial, rel=0.01)
    assert compute_row_margin("macro_f1", 0.8, 0.7, [5_000, 5_000]) == pytest.approx(binomial, rel=0.01)
    rare = compute_row_margin("macro_f1", 0.8, 0.7, [100, 9_900])
    assert rare is not None
    assert rare > 4 * binomial
    assert compute_row_margin("loss", 0.8, 0.7, [5_000, 5_000]) is None
    loss = EXPERIMENT.replace({"tune.metric": "loss"})
    assert "set tune.metric" in summarize([0.2] * 5, [0.4] * 5, [5_000, 5_000], loss)


def test_the_better_kind_of_fine_tuning_is_compared_by_its_mean() -> None:
    """The objective may be minimized; without trials of both sides nothing is compared."""
    kinds = [
        make_result("static", 0.8, 0.8),
        make_result("non-static", 0.7, 0.71),
        make_result("multichannel", 0.9, 0.91),
    ]
    assert "multichannel accuracy 0.9050" in summarize_fine_tuning(EXPERIMENT, kinds, LABELS)
    assert "non-static loss 0.7050" in summarize_fine_tuning(EXPERIMENT.replace({"tune.metric": "loss"}), kinds, LABELS)
    assert "was not searched" in summarize_fine_tuning(EXPERIMENT, kinds[:1], LABELS)


def make_predicted(number: int, settings: dict[str, object], errors: Sequence[int]) -> TrialRecord:
    """Return a record with predictions of `LABELS` that are wrong in some rows."""
    predicted = LABELS.copy()
    predicted[list(errors)] = 1 - predicted[list(errors)]
    record = make_record(number, settings, 1 - len(errors) / len(LABELS))
    return replace(record, predicted=encode_predictions(predicted))


def make_search(errors_by_kind: dict[str, range], seeds: int = 4) -> list[EmbeddingResult]:
    """Return the kinds of a search: two trials of each, and its best settings with some seeds, with equal errors."""
    ended = [
        make_predicted(number, {"model.embedding": kind}, errors)
        for number, (kind, errors) in enumerate([*errors_by_kind.items()] * 2, start=1)
    ]
    repeated = [
        make_predicted(number, {"model.embedding": kind, "seed": seed}, errors)
        for seed in range(seeds)
        for number, (kind, errors) in enumerate(errors_by_kind.items(), start=1)
    ]
    return compare_embeddings(EXPERIMENT, ended, repeated)


def read_interval(summary: str) -> tuple[float, float]:
    match = re.search(r"interval of the gain is ([+-][\d.]+) to ([+-][\d.]+), paired by rows and seeds", summary)
    assert match is not None
    return float(match[1]), float(match[2])


def test_the_verdict_is_paired_by_rows_if_the_predictions_are_known() -> None:
    """Errors in the same rows say nothing about the difference, so few other rows are enough."""
    kinds = make_search({"static": range(60), "non-static": range(10, 60)})
    summary = summarize_fine_tuning(EXPERIMENT, kinds, LABELS)
    assert summary.startswith("Fine-tuning the vectors pays: non-static accuracy 0.7500, static 0.7000: +0.0500 on 200")
    assert "it accounts for the choice of the best of 4 trials on these rows" in summary
    low, high = read_interval(summary)
    assert 0 < low < 0.05 < high
    without = [replace(kind, trials=[], repeated={}) for kind in kinds]
    assert summarize_fine_tuning(EXPERIMENT, without, LABELS).startswith(CANNOT_TELL)
    # The same number of errors in other rows.
    kinds = make_search({"static": range(60), "non-static": range(50, 100)})
    summary = summarize_fine_tuning(EXPERIMENT, kinds, LABELS)
    assert summary.startswith(CANNOT_TELL)
    assert summary.endswith("Chance may be the reason; more validation rows would narrow the interval most.")
    macro_f1 = EXPERIMENT.replace({"tune.metric": "macro_f1"})
    assert summarize_fine_tuning(macro_f1, make_search({"static": range(60), "non-static": range(9, 50)}), LABELS)[:4] \
        == "Fine"  # fmt: skip


def test_the_choice_between_two_kinds_is_taken_into_account() -> None:
    """Bonferroni: the interval is wider than that of one kind."""
    errors = {"static": range(60), "non-static": range(12, 60)}
    one = summarize_fine_tuning(EXPERIMENT, make_search(errors), LABELS)
    two = summarize_fine_tuning(EXPERIMENT, make_search(errors | {"multichannel": range(70)}), LABELS)
    assert "and of 2 kinds" in two
    assert read_interval(two)[0] < read_interval(one)[0]
    assert read_interval(two)[1] > read_interval(one)[1]


@pytest.mark.parametrize("missing", ["repeated", "trials"])
def test_records_of_earlier_versions_lack_predictions(missing: str) -> None:
    """Then the kinds are compared as if they were measured on different rows. A failed trial changes nothing."""
    kinds = make_search({"static": range(60), "non-static": range(10, 60)})
    best, *others = kinds
    records = [replace(record, predicted="") for record in best.trials]
    changed = replace(best, trials=records)
    if missing == "repeated":
        changed = replace(best, repeated=best.repeated | {2: replace(best.repeated[2], predicted="")})
    assert re.search(r"gain is ±", summarize_fine_tuning(EXPERIMENT, [changed, *others], LABELS))
    failed = replace(best, trials=[*best.trials, records[0]])
    assert "paired by rows" in summarize_fine_tuning(EXPERIMENT, [failed, *others], LABELS)


def test_only_seeds_of_both_kinds_are_compared() -> None:
    """A trial of one of them may have failed."""
    static = replace(make_result("static", 0.5), values_by_seed={1: 0.5, 2: 0.6, 3: 0.7, 4: 0.0})
    summary = summarize_fine_tuning(
        EXPERIMENT, [make_result("non-static", 0, 0.7, 0.8, 0.9), static], np.zeros(1000, int)
    )
    assert "non-static accuracy 0.8000, static 0.6000: +0.2000" in summary


def test_a_kind_of_which_all_seeds_failed_hides_no_verdict_on_the_other() -> None:
    """Its only value is that of its best trial, which is too high."""
    kinds = make_search({"static": range(60), "non-static": range(10, 60)})
    alone = replace(make_result("multichannel", 0.99), values_by_seed={99: 0.99})
    summary = summarize_fine_tuning(EXPERIMENT, [alone, *kinds], LABELS)
    assert summary.startswith("Fine-tuning the vectors pays: non-static")


def test_several_labels_without_predictions_have_the_reason_for_no_verdict() -> None:
    kinds = [make_result("non-static", 0, 0.7, 0.8, 0.9), make_result("static", 0, 0.5, 0.6, 0.7)]
    labels = np.zeros((1000, 3), int)
    for metric, reason in (("micro_f1", "predictions of trials are missing"), ("macro_f1", "set tune.metric to one")):
        experiment = EXPERIMENT.replace({"data.label_separator": ",", "tune.metric": metric, "train.metric": metric})
        assert reason in summarize_fine_tuning(experiment, kinds, labels)


def test_kinds_of_embedding_are_compared_by_their_best_settings_over_the_seeds() -> None:
    """A kind of which all trials failed is left out."""
    ended = [
        make_record(1, {"model.embedding": "static"}, 0.7),
        make_record(2, {"model.embedding": "non-static"}, 0.8),
        make_record(3, {"model.embedding": "static"}, 0.75),
        make_record(4, {"model.embedding": "multichannel"}, None),
    ]
    repeated = [make_record(n, {"model.embedding": "static", "seed": n}, 0.7 + n / 100) for n in (0, 1)]
    first, second = compare_embeddings(EXPERIMENT, ended, repeated)
    assert (first.embedding, first.num_trials, first.values_by_seed, first.std) == ("non-static", 1, {0: 0.8}, None)
    assert (second.embedding, second.num_trials, second.best_record.number) == ("static", 2, 3)
    assert second.values_by_seed == {0: 0.7, 1: 0.71}
    assert second.mean == pytest.approx(0.705)


def test_the_table_contains_every_trial_with_the_settings_it_was_trained_with() -> None:
    """Also settings that were not varied in the trial, and the reason of a failed one."""
    ended = [
        make_record(2, {"model.embedding": "static", "model.dropout": 0.1, "model.feature_maps": 50}, 0.8),
        TrialRecord(1, {"model.embedding": "non-static"}, "failed", "out of memory"),
    ]
    rows = list(csv.DictReader(io.StringIO(format_trials_csv(EXPERIMENT, parse_space(EXPERIMENT), ended))))
    assert [row["trial"] for row in rows] == ["1", "2"]
    assert (rows[0]["reason"], rows[0]["accuracy"]) == ("out of memory", "")
    assert (rows[1]["model.dropout"], rows[1]["accuracy"], rows[1]["best_epoch"]) == ("0.1", "0.8", "1")


def test_the_table_has_the_metrics_of_several_labels_per_text() -> None:
    epoch = replace(make_epoch(1, 0.5), micro_f1=0.7, precision_at_1=0.8, mean_average_precision=0.6)
    record = TrialRecord(1, {}, "finished", epochs=[epoch], best=1)
    experiment = EXPERIMENT.replace({"data.multi_label": True})
    [row] = csv.DictReader(io.StringIO(format_trials_csv(experiment, parse_space(experiment), [record])))
    assert [row[name] for name in ("micro_f1", "precision_at_1", "mean_average_precision")] == ["0.7", "0.8", "0.6"]


def test_the_table_has_the_metrics_of_one_label_per_text_where_trials_have_them() -> None:
    epochs = [make_epoch(1, 0.5), replace(make_epoch(1, 0.5), balanced_accuracy=0.4, matthews_correlation=0.1)]
    records = [TrialRecord(number, {}, "finished", epochs=[epoch], best=1) for number, epoch in enumerate(epochs, 1)]
    rows = csv.DictReader(io.StringIO(format_trials_csv(EXPERIMENT, parse_space(EXPERIMENT), records)))
    assert [(row["balanced_accuracy"], row["matthews_correlation"]) for row in rows] == [("", ""), ("0.4", "0.1")]
