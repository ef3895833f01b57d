"""Plots of a search's trials: what they show."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from jobs.search.results.analysis import compare_embeddings
from jobs.search.results.plots import plot_embeddings, plot_parallel_coordinates, plot_slices
from jobs.search.space import parse_space
from tests.support.trial_records import EXPERIMENT, make_record, make_records

REPEATED = [
    make_record(n, {"model.embedding": kind, "seed": n}, 0.7 + n / 100)
    for n in (0, 1)
    for kind in ("static", "non-static")
]


def test_parallel_coordinates_show_a_line_for_each_trial_that_ends_at_its_objective() -> None:
    """The lowest ends at 0, the highest at 1; a setting that was not varied in a trial is left out of its line."""
    records = make_records(12)
    figure = plot_parallel_coordinates(EXPERIMENT, parse_space(EXPERIMENT), records)
    [axes] = figure.axes
    assert figure.get_suptitle().endswith(
        "12 trials\none line per trial; darker lines have a higher validation accuracy"
    )
    lines = [line for line in axes.lines if len(line.get_xdata()) > 2]  # the others are the axes of the settings
    accuracies = np.sort([record.best_value("accuracy") for record in records])
    heights = (accuracies - accuracies[0]) / (accuracies[-1] - accuracies[0])
    np.testing.assert_allclose(sorted(line.get_ydata()[-1] for line in lines), heights)
    num_settings = sorted(len(record.settings) for record in records)
    assert sorted(len(line.get_xdata()) for line in lines) == [count + 1 for count in num_settings]
    assert {text.get_text() for text in axes.texts} >= {"static", "non-static", "50", "100"}
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "validation\naccuracy"


def scattered_points(axes: Axes) -> np.ndarray:
    """Return the points of all scatter plots, `(points, 2)`, by their height, without NaN."""
    points = np.concatenate([np.ma.filled(item.get_offsets(), np.nan) for item in axes.collections])
    points = points[~np.isnan(points).any(axis=1)]
    return points[np.argsort(points[:, 1])]


def test_slices_show_each_setting_against_the_objective() -> None:
    """Every trial in which the setting was varied is a point."""
    records = sorted(make_records(12), key=lambda record: record.best_value("accuracy"))
    figure = plot_slices(EXPERIMENT, parse_space(EXPERIMENT), records)
    title = "docstrings: search of 12 trials\neach setting and the validation accuracy of the best epoch"
    assert figure.get_suptitle() == title
    slices = {axes.get_xlabel(): axes for axes in figure.axes if axes.get_visible()}
    assert figure.axes[0].get_ylabel() == "validation accuracy"
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"static", "non-static"}
    assert slices.keys() == set(EXPERIMENT.tune.space)
    points = scattered_points(slices["model.dropout"])
    np.testing.assert_allclose(points[:, 1], [record.best_value("accuracy") for record in records])
    np.testing.assert_allclose(points[:, 0], [record.settings["model.dropout"] / 0.8 for record in records])
    tuned = [record for record in records if record.settings["model.embedding"] == "non-static"]
    assert 0 < len(tuned) < 12
    points = scattered_points(slices["train.vectors_learning_rate"])
    np.testing.assert_allclose(points[:, 1], [record.best_value("accuracy") for record in tuned])


def test_the_comparison_of_embeddings_shows_trials_and_seeds() -> None:
    """Each kind in its own column: every trial, the best settings over the seeds, and their mean."""
    records = make_records(12)
    kinds = compare_embeddings(EXPERIMENT, records, REPEATED)
    figure = plot_embeddings(EXPERIMENT, records, kinds)
    [axes] = figure.axes
    assert figure.get_suptitle() == "docstrings: search of 12 trials\nvalidation accuracy by kind of embedding"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("model.embedding", "validation accuracy")
    figure.draw_without_rendering()
    assert not figure.legends[0].get_window_extent().overlaps(axes.get_tightbbox())
    assert [label.get_text() for label in axes.get_xticklabels()] == [kind.embedding for kind in kinds]
    trials, *seeds = [item for item in axes.collections if isinstance(item, PathCollection)]
    columns = np.ceil(trials.get_offsets()[:, 0]).astype(int)
    assert [kinds[column].embedding for column in columns] == [item.settings["model.embedding"] for item in records]
    np.testing.assert_allclose(trials.get_offsets()[:, 1], [record.best_value("accuracy") for record in records])
    for number, kind in enumerate(kinds):
        np.testing.assert_allclose(seeds[number].get_offsets()[:, 1], [0.7, 0.71])
        assert axes.containers[number].lines[0].get_ydata()[0] == pytest.approx(kind.mean)
