"""Plots of a search's trials as PNG: parallel coordinates, each setting, and the kinds of embedding."""

from typing import TYPE_CHECKING

import numpy as np

from cluster import format_count
from jobs.config.experiment import Experiment
from jobs.evaluation.reports.figures import (
    BLUE,
    GREEN,
    GREY,
    VERMILLION,
    add_legend,
    create_figure,
    figure_style,
    shorten_label,
)
from jobs.search.records import TrialRecord, objective_label, objective_metric
from jobs.search.results.analysis import EmbeddingResult, trial_embedding
from jobs.search.results.setting_axes import LINE_JITTER, POINT_JITTER, Ticks, place_trials
from jobs.search.space import Dimension
from jobs.training.history import MINIMIZED_METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Color and marker of each kind of embedding.
MARKERS = {
    "rand": (GREY, "o"),
    "static": (BLUE, "s"),
    "non-static": (VERMILLION, "^"),
    "multichannel": (GREEN, "D"),
}
NUM_SLICE_COLUMNS = 3


@figure_style()
def plot_parallel_coordinates(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> "Figure":
    """Return parallel coordinates: an axis for each setting and one for the objective, a line for each trial."""
    from matplotlib import colormaps

    metric = objective_metric(experiment)
    values = np.array([record.best_value(metric) for record in records])
    low, high = values.min(), values.max()
    heights = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    settings = place_trials(space, records, LINE_JITTER)
    lines = np.array([*(setting.positions for setting in settings), heights])  # (axes, trials)
    objective = np.linspace(0, 1, 5) if high > low else np.array([0.5])
    objective_ticks = [(height, f"{low + height * (high - low):.4g}") for height in objective]
    direction = "lower" if metric in MINIMIZED_METRICS else "higher"
    figure = create_figure(
        max(7, 2.1 * len(lines)), 5, f"{_figure_title(experiment, records)}\none line per trial; "
        f"darker lines have a {direction} {objective_label(experiment)}"
    )  # fmt: skip
    axes = figure.add_subplot()
    goodness = 1 - heights if metric in MINIMIZED_METRICS else heights
    for trial in np.argsort(goodness):
        shown = ~np.isnan(lines[:, trial])
        color = colormaps["Blues"](0.35 + 0.65 * goodness[trial])
        axes.plot(np.flatnonzero(shown), lines[shown, trial], color=color, linewidth=1 + goodness[trial])
    titles = [*(setting.path for setting in settings), objective_label(experiment)]
    _draw_parallel_axes(axes, titles, [*(setting.ticks for setting in settings), objective_ticks])
    return figure


def _draw_parallel_axes(axes: "Axes", titles: list[str], ticks: list[Ticks]) -> None:
    for number, labels in enumerate(ticks):
        axes.axvline(number, color="black", linewidth=0.8)
        # To the left of the first axis and to the right of the last one there are no lines.
        offset, alignment = ((-5, 0), "right") if number == 0 else ((5, 0), "left")
        for position, label in labels:
            axes.annotate(
                shorten_label(label), (number, position), offset, textcoords="offset points", size=9, ha=alignment,
                va="center", zorder=3, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.5},
            )  # fmt: skip
    axes.set_xticks(range(len(titles)), [title.replace(".", ".\n", 1).replace(" ", "\n", 1) for title in titles])
    axes.set_yticks([])
    axes.set(xlim=(-0.1, len(titles) - 0.9), ylim=(-0.05, 1.05))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _figure_title(experiment: Experiment, records: list[TrialRecord]) -> str:
    return f"{shorten_label(experiment.name)}: search of {format_count(len(records), 'trial')}"


@figure_style()
def plot_slices(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> "Figure":
    """Return a scatter plot for each setting: its values against the objective, colored by kind of embedding."""
    columns = min(NUM_SLICE_COLUMNS, len(space))
    rows = -(-len(space) // columns)
    title = (
        f"{_figure_title(experiment, records)}\neach setting and the {objective_label(experiment)} of the best epoch"
    )
    figure = create_figure(max(6, 4.2 * columns), 3.2 * rows + 1, title)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(space) :]:
        axes.set_visible(False)
    for setting, axes in zip(place_trials(space, records, POINT_JITTER), grid.flat, strict=False):
        _scatter_trials(axes, experiment, records, setting.positions)
        axes.set_xticks([position for position, _ in setting.ticks], [shorten_label(text) for _, text in setting.ticks])
        axes.set_xlim(-0.1, 1.1)
        axes.set_xlabel(setting.path)
    for axes in grid[:, 0]:
        axes.set_ylabel(objective_label(experiment))
    add_legend(figure, list(grid.flat[: len(space)]))
    return figure


def _scatter_trials(axes: "Axes", experiment: Experiment, records: list[TrialRecord], positions: np.ndarray) -> None:
    values = np.array([record.best_value(objective_metric(experiment)) for record in records])
    kinds = np.array([trial_embedding(experiment, record) for record in records])
    for kind, (color, marker) in MARKERS.items():
        own = kinds == kind
        if own.any():
            axes.scatter(positions[own], values[own], s=24, alpha=0.7, linewidth=0, color=color, marker=marker,
                         label=kind)  # fmt: skip


@figure_style()
def plot_embeddings(experiment: Experiment, records: list[TrialRecord], kinds: list[EmbeddingResult]) -> "Figure":
    """Return the comparison of the kinds of embedding: every trial, and the best settings over the seeds."""
    metric = objective_metric(experiment)
    title = f"{_figure_title(experiment, records)}\n{objective_label(experiment)} by kind of embedding"
    figure = create_figure(max(6.5, 1.8 + 1.6 * len(kinds)), 4.5, title)
    axes = figure.add_subplot()
    columns = {kind.embedding: number for number, kind in enumerate(kinds)}
    shift = np.random.default_rng(0).uniform(-0.25, 0, len(records))
    positions = np.array([columns[trial_embedding(experiment, record)] for record in records]) + shift
    values = [record.best_value(metric) for record in records]
    axes.scatter(positions, values, s=16, alpha=0.6, linewidth=0, color=GREY, label="one trial, its best epoch")
    for number, kind in enumerate(kinds):
        seeds = list(kind.values_by_seed.values())
        axes.scatter([number + 0.15] * len(seeds), seeds, s=24, color=BLUE, marker="s", zorder=3,
                     label="best settings, one seed" if number == 0 else None)  # fmt: skip
        axes.errorbar(number + 0.28, kind.mean, yerr=kind.std, fmt="_", color="black", capsize=4,
                      label="mean and standard deviation of the seeds" if number == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(kinds)), [kind.embedding for kind in kinds])
    axes.set_xlim(-0.6, len(kinds) - 0.4)
    axes.set(xlabel="model.embedding", ylabel=objective_label(experiment))
    add_legend(figure, [axes])
    return figure
