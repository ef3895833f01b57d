"""What a person keeps of a search: report.md, trials.csv, and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.tables import format_markdown_table
from jobs.config.experiment import Experiment
from jobs.evaluation.report import save_figure
from jobs.search.analysis import (
    EmbeddingResult,
    compute_axis_positions,
    compute_importances,
    format_trials_csv,
    summarize_fine_tuning,
    trial_embedding,
)
from jobs.search.records import TrialRecord, objective_metric
from jobs.search.space import Dimension
from jobs.training.history import MINIMIZED_METRICS
from jobs.training.run_folder import BestCheckpoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"rand": "tab:grey", "static": "tab:blue", "non-static": "tab:orange", "multichannel": "tab:green"}
SHOWN_TRIALS = 20
SLICE_COLUMNS = 3  # of slices


def write_search_report(
    folder: Path,
    experiment: Experiment,
    space: list[Dimension],
    records: list[TrialRecord],
    found: list[EmbeddingResult],
    best: BestCheckpoint,
    commands: list[str],
) -> None:
    """Write the report's files into a folder that exists.

    Args:
        found: what each kind of embedding reached.
        best: the contents of best.json.
        commands: that go on from here, to be copied.
    """
    (folder / "trials.csv").write_text(format_trials_csv(experiment, space, records), encoding="utf-8")
    known = [record for record in records if record.best]
    shares = compute_importances(experiment, space, records)
    plot_parallel_coordinates(folder / "parallel-coordinates.png", experiment, space, known)
    plot_slices(folder / "slices.png", experiment, space, known)
    plot_embeddings(folder / "embeddings.png", experiment, known, found)
    lines = _markdown(experiment, space, records, found, shares, best, commands)
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _markdown(
    experiment: Experiment,
    space: list[Dimension],
    records: list[TrialRecord],
    found: list[EmbeddingResult],
    shares: dict[str, float],
    best: BestCheckpoint,
    commands: list[str],
) -> list[str]:
    metric = objective_metric(experiment)
    counts = {status: sum(each.status == status for each in records) for status in ("finished", "stopped", "failed")}
    lines = [
        f"# {experiment.name}: a search over {len(space)} settings",
        "",
        f"{len(records)} trials: {counts['finished']} ran to their end, {counts['stopped']} were stopped before, "
        f"{counts['failed']} failed; {sum(each.seconds for each in records):,.0f} s of training. "
        f"Compared by validation {metric}, at each trial's best epoch. The figure of the best of many trials is "
        "higher than what it will reach on other texts: measure it on the test part.",
        "",
        f"**Best: {metric} {best.metrics[metric]:.4f}**, trial {best.trial}, epoch {best.epoch}:",
        "",
        *[f"* `{path}`: {value}" for path, value in (best.settings or {}).items()],
        "",
    ]
    if best.refit:
        lines += [f"Trained again on all {best.rows:,} rows of the training and validation parts.", ""]
    lines += [
        "```",
        *commands,
        "```",
        "",
        "## Does fine-tuning the vectors pay?",
        "",
        summarize_fine_tuning(experiment, found),
        "",
    ]
    lines += format_markdown_table(build_embedding_rows(experiment, found))
    lines += ["", "![kinds of embedding](embeddings.png)", "", "## Which settings matter", ""]
    if shares:
        lines += ["Share of the variance between trials that each setting explains alone (fANOVA); trials that were "
                  "stopped early count with what they had reached.", ""]  # fmt: skip
        lines += format_markdown_table([{"setting": path, "share": f"{share:.1%}"} for path, share in shares.items()])
    else:
        lines += ["There are too few trials to tell."]
    lines += ["", "![parallel coordinates](parallel-coordinates.png)", "", "![slices](slices.png)", ""]
    lines += [f"## The best {min(SHOWN_TRIALS, len(records))} trials", "", "All are in trials.csv.", ""]
    lines += format_markdown_table(_trial_rows(experiment, space, records))
    failed = [record for record in records if record.status == "failed"]
    if failed:
        lines += ["", "## Trials that failed", ""]
        lines += format_markdown_table([{"trial": each.number, "why": each.reason} for each in failed])
    return [*lines, ""]


def build_embedding_rows(experiment: Experiment, found: list[EmbeddingResult]) -> list[dict[str, Any]]:
    """Return the kinds of embedding side by side, as rows of a table."""
    metric = objective_metric(experiment)
    return [
        {
            "embedding": kind.embedding,
            "trials": kind.num_trials,
            f"best {metric}": f"{kind.best_record.best_metrics[metric]:.4f}",
            "seeds": len(kind.values_by_seed),
            "mean": f"{kind.mean:.4f}",
            "deviation": "-" if kind.std is None else f"{kind.std:.4f}",
            "lowest": f"{min(kind.values_by_seed.values()):.4f}",
            "highest": f"{max(kind.values_by_seed.values()):.4f}",
        }
        for kind in found
    ]


def _trial_rows(experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> list[dict[str, Any]]:
    metric = objective_metric(experiment)
    sign = 1 if metric in MINIMIZED_METRICS else -1
    ordered = sorted((each for each in records if each.best), key=lambda each: sign * each.best_metrics[metric])

    def short(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return [
        {"trial": each.number, metric: f"{each.best_metrics[metric]:.4f}", "epoch": f"{each.best} of {len(each.epochs)}",
         "status": each.status, **{one.path: short(each.settings.get(one.path)) for one in space}}
        for each in ordered[:SHOWN_TRIALS]
    ]  # fmt: skip


def plot_parallel_coordinates(
    path: Path, experiment: Experiment, space: list[Dimension], records: list[TrialRecord]
) -> None:
    """Write parallel coordinates: an axis for each setting and one for the objective, a line for each trial."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    metric = objective_metric(experiment)
    values = np.array([record.best_metrics[metric] for record in records])
    low, high = values.min(), values.max()
    heights = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    axes_at, marks, titles = [], [], []
    chance = np.random.default_rng(0)
    for each in space:
        at, names = compute_axis_positions(each, [record.settings.get(each.path) for record in records])
        # Lines through the same value lie side by side.
        axes_at.append(at + chance.uniform(-0.015, 0.015, len(at)) if each.is_categorical else at)
        marks.append(names)
        titles.append(each.path)
    axes_at.append(heights)
    marks.append([(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")])
    titles.append(metric)
    lines = np.array(axes_at)  # (axes, trials)
    figure = Figure(figsize=(max(6, 2.1 * len(lines)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    goodness = 1 - heights if metric in MINIMIZED_METRICS else heights
    for trial in np.argsort(goodness):
        shown = ~np.isnan(lines[:, trial])
        color = colormaps["viridis_r"](goodness[trial])
        axes.plot(np.flatnonzero(shown), lines[shown, trial], color=color, alpha=0.35 + 0.6 * goodness[trial],
                  linewidth=1 + goodness[trial])  # fmt: skip
    for number, names in enumerate(marks):
        axes.axvline(number, color="black", linewidth=0.8)
        for place, name in names:
            axes.annotate(name, (number, place), xytext=(4, 0), textcoords="offset points", size=8, va="center",
                          bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})  # fmt: skip
    axes.set_xticks(range(len(titles)), [title.replace(".", ".\n", 1) for title in titles], size=8)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(titles) - 0.5)
    axes.set_title(f"each line a trial; the darker, the better its {metric}", size=10)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    save_figure(figure, path)


def plot_slices(path: Path, experiment: Experiment, space: list[Dimension], records: list[TrialRecord]) -> None:
    """Write a picture for each setting: its values against the objective, colored by kind of embedding."""
    from matplotlib.figure import Figure

    columns = min(SLICE_COLUMNS, len(space))
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(space) :]:
        axes.set_visible(False)
    chance = np.random.default_rng(0)
    for each, axes in zip(space, grid.flat, strict=False):
        at, names = compute_axis_positions(each, [record.settings.get(each.path) for record in records])
        shift = chance.uniform(-0.03, 0.03, len(at)) if each.is_categorical else 0
        _scatter(axes, experiment, records, at + shift)
        axes.set_xticks([place for place, _ in names], [name for _, name in names], size=8)
        axes.set_xlim(-0.1, 1.1)
        axes.set_title(each.path, size=9)
        axes.set_ylabel(objective_metric(experiment), size=8)
    grid.flat[0].legend(fontsize=7)
    save_figure(figure, path)


def plot_embeddings(
    path: Path, experiment: Experiment, records: list[TrialRecord], found: list[EmbeddingResult]
) -> None:
    """Write the kinds of embedding side by side: every trial, and the best settings over the seeds."""
    from matplotlib.figure import Figure

    metric = objective_metric(experiment)
    figure = Figure(figsize=(1.8 + 1.6 * len(found), 3.8), layout="constrained")
    axes = figure.add_subplot()
    place = {kind.embedding: number for number, kind in enumerate(found)}
    chance = np.random.default_rng(0)
    at = np.array([place[trial_embedding(experiment, record)] for record in records]) + chance.uniform(
        -0.25, 0, len(records)
    )
    axes.scatter(
        at, [record.best_metrics[metric] for record in records], s=14, alpha=0.5, color="grey", label="a trial"
    )
    for number, kind in enumerate(found):
        values = list(kind.values_by_seed.values())
        axes.scatter([number + 0.15] * len(values), values, s=18, color=COLORS.get(kind.embedding), zorder=3,
                     label="its best settings, a seed" if number == 0 else None)  # fmt: skip
        axes.errorbar(number + 0.28, kind.mean, yerr=kind.std, fmt="_", color="black", capsize=4,
                      label="mean and deviation" if number == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(found)), [kind.embedding for kind in found])
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.set_ylabel(f"validation {metric}")
    axes.legend(fontsize=7)
    save_figure(figure, path)


def _scatter(axes: "Axes", experiment: Experiment, records: list[TrialRecord], at: np.ndarray) -> None:
    metric = objective_metric(experiment)
    for name, color in COLORS.items():
        own = [number for number, record in enumerate(records) if trial_embedding(experiment, record) == name]
        if own:
            axes.scatter(at[own], [records[number].best_metrics[metric] for number in own], s=14, alpha=0.7, color=color,
                         label=name)  # fmt: skip
