"""Axes of the settings of a search: positions of the trials' values, and ticks."""

from typing import Any

import numpy as np

from jobs.search.results.setting_axes import NOT_VARIED, compute_axis_positions, list_values, place_trials
from jobs.search.space import Dimension
from tests.support.trial_records import make_record


def test_null_is_a_value_of_a_setting() -> None:
    """Such as no weights of the classes; a trial without the setting has none."""
    balancing = Dimension("train.class_weights", "grid", [None, "balanced"])
    all_settings: list[dict[str, Any]] = [{balancing.path: None}, {}, {balancing.path: "balanced"}]
    values = list_values(balancing, [make_record(1, settings, 0.5) for settings in all_settings])
    assert values == [None, NOT_VARIED, "balanced"]
    positions, ticks = compute_axis_positions(balancing, values)
    np.testing.assert_allclose(positions, [0, np.nan, 1])
    assert [label for _, label in ticks] == ["null", "balanced"]


def test_values_are_in_order_on_an_axis() -> None:
    """Listed values are evenly spaced; those drawn by their logarithm are spaced by it."""
    values = [3, "a", NOT_VARIED, [1, 2]]
    positions, ticks = compute_axis_positions(Dimension("x", "choice", ["a", [1, 2], 3]), values)
    np.testing.assert_allclose(positions, [1, 0, np.nan, 0.5])
    assert [label for _, label in ticks] == ["a", "[1, 2]", "3"]
    positions, ticks = compute_axis_positions(Dimension("x", "loguniform", [1e-4, 1e-2]), [1e-3, 1e-4])
    np.testing.assert_allclose(positions, [0.5, 0.0])
    assert [label for _, label in ticks] == ["0.0001", "0.001", "0.01"]


def test_only_trials_with_the_same_listed_value_are_moved_apart() -> None:
    """By up to the jitter, and in the same way each time; numbers of a range stay where they are."""
    listed, ranged = Dimension("a", "choice", ["x", "y", "z"]), Dimension("b", "uniform", [0.0, 1.0])
    records = [make_record(number, {"a": "y", "b": number / 10}, 0.5) for number in range(10)]
    records.append(make_record(10, {"b": 1.0}, 0.5))
    first, second = place_trials([listed, ranged], records, 0.01)
    assert (first.path, second.path) == ("a", "b")
    assert len({*first.positions[:10].tolist()}) == 10
    np.testing.assert_allclose(first.positions, [0.5] * 10 + [np.nan], atol=0.01)
    np.testing.assert_array_equal(second.positions, np.arange(11) / 10)
    np.testing.assert_array_equal(first.positions, place_trials([listed, ranged], records, 0.01)[0].positions)
