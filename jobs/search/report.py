"""What a person keeps of a search: report.md, trials.csv, and pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.config.experiment import Experiment
from jobs.evaluation.report import markdown_table, save
from jobs.search.analysis import Kind, importances, kind_of, positions, table, verdict
from jobs.search.records import Record, objective
from jobs.search.space import Dimension
from jobs.training.history import LESS_IS_BETTER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"rand": "tab:grey", "static": "tab:blue", "non-static": "tab:orange", "multichannel": "tab:green"}
SHOWN_TRIALS = 20
COLUMNS = 3  # of slices


def write(
    folder: Path,
    experiment: Experiment,
    space: list[Dimension],
    records: list[Record],
    found: list[Kind],
    best: dict[str, Any],
    commands: list[str],
) -> None:
    """Write the report's files into a folder that exists.

    Args:
        found: what each kind of embedding reached.
        best: the contents of best.json.
        commands: that go on from here, to be copied.
    """
    (folder / "trials.csv").write_text(table(experiment, space, records), encoding="utf-8")
    known = [record for record in records if record.best]
    shares = importances(experiment, space, records)
    draw_parallel(folder / "parallel-coordinates.png", experiment, space, known)
    draw_slices(folder / "slices.png", experiment, space, known)
    draw_kinds(folder / "embeddings.png", experiment, known, found)
    lines = _markdown(experiment, space, records, found, shares, best, commands)
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _markdown(
    experiment: Experiment,
    space: list[Dimension],
    records: list[Record],
    found: list[Kind],
    shares: dict[str, float],
    best: dict[str, Any],
    commands: list[str],
) -> list[str]:
    metric = objective(experiment)
    counts = {status: sum(each.status == status for each in records) for status in ("finished", "stopped", "failed")}
    lines = [
        f"# {experiment.name}: a search over {len(space)} settings",
        "",
        f"{len(records)} trials: {counts['finished']} ran to their end, {counts['stopped']} were stopped before, "
        f"{counts['failed']} failed; {sum(each.seconds for each in records):,.0f} s of training. "
        f"Compared by validation {metric}, at each trial's best epoch. The figure of the best of many trials is "
        "higher than what it will reach on other texts: measure it on the test part.",
        "",
        f"**Best: {metric} {best['metrics'][metric]:.4f}**, trial {best['trial']}, epoch {best['metrics']['epoch']}:",
        "",
        *[f"* `{path}`: {value}" for path, value in best["settings"].items()],
        "",
    ]
    if best.get("refit"):
        lines += [f"Trained again on all {best['rows']:,} rows of the training and validation parts.", ""]
    lines += ["```", *commands, "```", "", "## Does fine-tuning the vectors pay?", "", verdict(experiment, found), ""]
    lines += markdown_table(kind_rows(experiment, found))
    lines += ["", "![kinds of embedding](embeddings.png)", "", "## Which settings matter", ""]
    if shares:
        lines += ["Share of the variance between trials that each setting explains alone (fANOVA); trials that were "
                  "stopped early count with what they had reached.", ""]  # fmt: skip
        lines += markdown_table([{"setting": path, "share": f"{share:.1%}"} for path, share in shares.items()])
    else:
        lines += ["There are too few trials to tell."]
    lines += ["", "![parallel coordinates](parallel-coordinates.png)", "", "![slices](slices.png)", ""]
    lines += [f"## The best {min(SHOWN_TRIALS, len(records))} trials", "", "All are in trials.csv.", ""]
    lines += markdown_table(_trial_rows(experiment, space, records))
    failed = [record for record in records if record.status == "failed"]
    if failed:
        lines += ["", "## Trials that failed", ""]
        lines += markdown_table([{"trial": each.number, "why": each.reason} for each in failed])
    return [*lines, ""]


def kind_rows(experiment: Experiment, found: list[Kind]) -> list[dict[str, Any]]:
    """Return the kinds of embedding side by side, as rows of a table."""
    metric = objective(experiment)
    return [
        {
            "embedding": kind.name,
            "trials": kind.trials,
            f"best {metric}": f"{kind.best.figures[metric]:.4f}",
            "seeds": len(kind.values),
            "mean": f"{kind.mean:.4f}",
            "deviation": "-" if kind.deviation is None else f"{kind.deviation:.4f}",
            "lowest": f"{min(kind.values.values()):.4f}",
            "highest": f"{max(kind.values.values()):.4f}",
        }
        for kind in found
    ]


def _trial_rows(experiment: Experiment, space: list[Dimension], records: list[Record]) -> list[dict[str, Any]]:
    metric = objective(experiment)
    sign = 1 if metric in LESS_IS_BETTER else -1
    ordered = sorted((each for each in records if each.best), key=lambda each: sign * each.figures[metric])

    def short(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    return [
        {"trial": each.number, metric: f"{each.figures[metric]:.4f}", "epoch": f"{each.best} of {len(each.epochs)}",
         "status": each.status, **{one.path: short(each.settings.get(one.path)) for one in space}}
        for each in ordered[:SHOWN_TRIALS]
    ]  # fmt: skip


def draw_parallel(path: Path, experiment: Experiment, space: list[Dimension], records: list[Record]) -> None:
    """Write parallel coordinates: an axis for each setting and one for the objective, a line for each trial."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    metric = objective(experiment)
    values = np.array([record.figures[metric] for record in records])
    low, high = values.min(), values.max()
    heights = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    axes_at, marks, titles = [], [], []
    chance = np.random.default_rng(0)
    for each in space:
        at, names = positions(each, [record.settings.get(each.path) for record in records])
        # Lines through the same value lie side by side.
        axes_at.append(at + chance.uniform(-0.015, 0.015, len(at)) if each.is_discrete else at)
        marks.append(names)
        titles.append(each.path)
    axes_at.append(heights)
    marks.append([(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")])
    titles.append(metric)
    lines = np.array(axes_at)  # (axes, trials)
    figure = Figure(figsize=(max(6, 2.1 * len(lines)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    goodness = 1 - heights if metric in LESS_IS_BETTER else heights
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
    save(figure, path)


def draw_slices(path: Path, experiment: Experiment, space: list[Dimension], records: list[Record]) -> None:
    """Write a picture for each setting: its values against the objective, colored by kind of embedding."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(space))
    rows = -(-len(space) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(space) :]:
        axes.set_visible(False)
    chance = np.random.default_rng(0)
    for each, axes in zip(space, grid.flat, strict=False):
        at, names = positions(each, [record.settings.get(each.path) for record in records])
        shift = chance.uniform(-0.03, 0.03, len(at)) if each.is_discrete else 0
        _scatter(axes, experiment, records, at + shift)
        axes.set_xticks([place for place, _ in names], [name for _, name in names], size=8)
        axes.set_xlim(-0.1, 1.1)
        axes.set_title(each.path, size=9)
        axes.set_ylabel(objective(experiment), size=8)
    grid.flat[0].legend(fontsize=7)
    save(figure, path)


def draw_kinds(path: Path, experiment: Experiment, records: list[Record], found: list[Kind]) -> None:
    """Write the kinds of embedding side by side: every trial, and the best settings over the seeds."""
    from matplotlib.figure import Figure

    metric = objective(experiment)
    figure = Figure(figsize=(1.8 + 1.6 * len(found), 3.8), layout="constrained")
    axes = figure.add_subplot()
    place = {kind.name: number for number, kind in enumerate(found)}
    chance = np.random.default_rng(0)
    at = np.array([place[kind_of(experiment, record)] for record in records]) + chance.uniform(-0.25, 0, len(records))
    axes.scatter(at, [record.figures[metric] for record in records], s=14, alpha=0.5, color="grey", label="a trial")
    for number, kind in enumerate(found):
        values = list(kind.values.values())
        axes.scatter([number + 0.15] * len(values), values, s=18, color=COLORS.get(kind.name), zorder=3,
                     label="its best settings, a seed" if number == 0 else None)  # fmt: skip
        axes.errorbar(number + 0.28, kind.mean, yerr=kind.deviation, fmt="_", color="black", capsize=4,
                      label="mean and deviation" if number == 0 else None)  # fmt: skip
    axes.set_xticks(range(len(found)), [kind.name for kind in found])
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.set_ylabel(f"validation {metric}")
    axes.legend(fontsize=7)
    save(figure, path)


def _scatter(axes: "Axes", experiment: Experiment, records: list[Record], at: np.ndarray) -> None:
    metric = objective(experiment)
    for name, color in COLORS.items():
        own = [number for number, record in enumerate(records) if kind_of(experiment, record) == name]
        if own:
            axes.scatter(at[own], [records[number].figures[metric] for number in own], s=14, alpha=0.7, color=color,
                         label=name)  # fmt: skip
