"""The paired test of a search's verdict: hand-computed intervals, and how often it is wrong in simulated searches."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import f1_score

from benchmarks.verdict import Scenario, measure
from jobs.evaluation.multi_label.metrics import encode_row_counts
from jobs.search.results.verdict import KindRows, compare_kinds, compute_row_values, estimate_optimism

ONE_TRIAL = np.zeros((1, 98))


def make_repeated(correct: list[int]) -> np.ndarray:
    """Return values of 98 rows, of which so many are correct with each seed, the first ones."""
    return np.array([np.arange(98) < number for number in correct], float)


def compare(first: list[int], second: list[int], choices: int = 1) -> tuple[float, float, float]:
    kinds = (KindRows(ONE_TRIAL, make_repeated(first)), KindRows(ONE_TRIAL, make_repeated(second)))
    gain = compare_kinds(*kinds, [98], choices)
    return gain.mean, gain.low, gain.high


def test_the_interval_combines_the_variances_by_row_and_by_seed() -> None:
    """Those of a hand calculation; the mean is that of the rows and two more, one for each kind."""
    mean, low, high = compare([60, 60, 60], [50, 50, 50])
    assert mean == pytest.approx(10 / 98)
    by_row = np.array([1.0] * 10 + [0.0] * 88 + [1.0, -1.0])
    margin = 1.9842 * by_row.std(ddof=1) / 10  # Student's t, 99 degrees of freedom
    assert (low, high) == pytest.approx((0.1 - margin, 0.1 + margin), abs=1e-4)
    _, low_with_seeds, high_with_seeds = compare([55, 60, 65], [50, 50, 50])
    by_row = np.array([1.0] * 5 + [2 / 3] * 5 + [1 / 3] * 5 + [0.0] * 83 + [1.0, -1.0])
    row_variance, seed_variance = by_row.var(ddof=1) / 100, (np.array([5, 10, 15]) / 98).var(ddof=1) / 3
    variance = row_variance + seed_variance
    freedom = variance**2 / (row_variance**2 / 99 + seed_variance**2 / 2)
    margin = scipy.stats.t.ppf(0.975, freedom) * variance**0.5
    assert (low_with_seeds, high_with_seeds) == pytest.approx((0.1 - margin, 0.1 + margin))


def test_a_choice_among_kinds_widens_the_interval() -> None:
    _, low, high = compare([60] * 3, [50] * 3)
    _, low_of_two, high_of_two = compare([60] * 3, [50] * 3, choices=2)
    assert low_of_two < low < high < high_of_two


def test_rows_that_all_speak_for_one_kind_are_no_certainty_if_they_are_few() -> None:
    ones, zeros = np.ones((5, 3)), np.zeros((5, 3))
    gain = compare_kinds(KindRows(ones[:1], ones), KindRows(zeros[:1], zeros), [3])
    assert gain.low < 0 < gain.high
    assert not gain.seeds_dominate


def test_the_better_the_choice_the_lower_the_gain() -> None:
    """The kind with many trials may be the better one by the choice alone; that with few trials gains nothing."""
    random = np.random.default_rng(0)
    many, few = (random.random((trials, 200)) < 0.8 for trials in (50, 1))
    repeated = random.random((2, 4, 200)) < 0.8
    searched = [many.astype(float), few.astype(float)]
    kinds = [KindRows(rows, values.astype(float)) for rows, values in zip(searched, repeated, strict=True)]
    alone = [KindRows(searched[1], kind.repeated) for kind in kinds]
    gain, gain_alone = compare_kinds(*kinds, [200]), compare_kinds(*alone, [200])
    bias = estimate_optimism(kinds[0].searched)
    assert gain.low == pytest.approx(gain_alone.low - bias)
    assert gain.high == gain_alone.high
    reverse, reverse_alone = compare_kinds(*kinds[::-1], [200]), compare_kinds(*alone[::-1], [200])
    assert reverse.low == reverse_alone.low
    assert reverse.high == pytest.approx(reverse_alone.high + bias)


def test_the_optimism_is_that_of_the_best_of_several_equal_trials() -> None:
    """0 for a single trial, and for trials that predict the same; more for more trials, and for fewer rows."""
    random = np.random.default_rng(0)
    values = (random.random((30, 2000)) < 0.8).astype(float)
    assert estimate_optimism(values[:1]) == pytest.approx(0)
    assert estimate_optimism(np.repeat(values[:1], 5, axis=0)) == pytest.approx(0, abs=1e-6)
    two, thirty, fewer_rows = (estimate_optimism(part) for part in (values[:2], values, values[:, :200]))
    assert 0 < two < thirty < fewer_rows
    # The deviation of a mean is sqrt(0.8 * 0.2 / 2000) = 0.009, the best of thirty means is 2.0 deviations above them.
    assert 0.4 * 2 * 0.009 < thirty < 2 * 0.009


@pytest.mark.parametrize("classes", [2, 5])
def test_the_mean_of_the_row_values_is_the_metric(classes: int) -> None:
    """That of macro F1 also if classes are missing; a row more of each kind changes the mean as it does the metric."""
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 400)
    predicted = np.where(random.random(400) < 0.7, labels, random.integers(0, classes + 1, 400))
    accuracy = compute_row_values("accuracy", labels, predicted)
    macro_f1 = compute_row_values("macro_f1", labels, predicted)
    assert accuracy is not None
    assert macro_f1 is not None
    assert accuracy.mean() == pytest.approx((labels == predicted).mean())
    expected = f1_score(labels, predicted, average="macro", zero_division=0.0)
    assert macro_f1.mean() == pytest.approx(expected)
    for row in range(20):
        more = f1_score(np.append(labels, labels[row]), np.append(predicted, predicted[row]), average="macro")
        assert more - expected == pytest.approx((macro_f1[row] - expected) / 401, abs=2e-5)
    assert compute_row_values("loss", labels, predicted) is None


def test_with_several_labels_per_text_the_mean_of_the_row_values_is_the_metric() -> None:
    """A row more of each kind changes the mean as it does the micro F1."""
    random = np.random.default_rng(0)
    labels = (random.random((400, 5)) < 0.3).astype(np.int64)
    predicted = np.where(random.random(labels.shape) < 0.8, labels, 1 - labels)
    numbers = encode_row_counts(labels, predicted)
    micro_f1, accuracy = (compute_row_values(metric, labels, numbers) for metric in ("micro_f1", "accuracy"))
    assert micro_f1 is not None
    assert accuracy is not None
    assert accuracy.mean() == pytest.approx((labels == predicted).all(axis=1).mean())
    expected = f1_score(labels, predicted, average="micro")
    assert micro_f1.mean() == pytest.approx(expected)
    for row in range(20):
        more = [np.concatenate([values, values[row : row + 1]]) for values in (labels, predicted)]
        changed = f1_score(*more, average="micro")
        assert changed - expected == pytest.approx((micro_f1[row] - expected) / 401, abs=2e-5)
    assert compute_row_values("macro_f1", labels, numbers) is None


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "micro_f1"])
def test_simulated_searches_without_a_difference_rarely_have_a_verdict(metric: str) -> None:
    """And most of those with a clear one have it; benchmarks/verdict.py has more sizes."""
    none = measure(Scenario(rows=300, trials=(4, 12, 12), metric=metric), 100)
    assert none["pays"] <= 5
    assert none["does not pay"] <= 5
    assert measure(Scenario(rows=300, trials=(4, 12, 12), difference=0.06, metric=metric), 30)["pays"] >= 80
