"""Report of a search: report.md, report.html, trials.csv and plots."""

from pathlib import Path
from typing import Any

import numpy as np

from cluster import format_count
from cluster.console.tables import format_markdown_table
from jobs.config.experiment import Experiment
from jobs.evaluation.reports.figures import save_figure
from jobs.evaluation.reports.html.page import PAGE_NAME
from jobs.search.records import TrialRecord, objective_metric
from jobs.search.results.analysis import (
    MIN_TRIALS_FOR_IMPORTANCE,
    EmbeddingResult,
    compute_importances,
    format_trials_csv,
    summarize_fine_tuning,
)
from jobs.search.results.page import IMPORTANCE_HINT, SearchSummary, render_search
from jobs.search.results.plots import plot_embeddings, plot_parallel_coordinates, plot_slices
from jobs.search.results.setting_axes import NOT_VARIED, list_values
from jobs.search.space import Dimension
from jobs.training.run_files.run_folder import BestCheckpoint

MAX_LISTED_TRIALS = 20


def write_search_report(
    folder: Path,
    experiment: Experiment,
    space: list[Dimension],
    records: list[TrialRecord],
    kinds: list[EmbeddingResult],
    best: BestCheckpoint,
    commands: list[str],
    labels: np.ndarray,
) -> SearchSummary:
    """Write the report's files into an existing folder, and return what they say.

    Args:
        kinds: results of each kind of embedding.
        commands: next steps for the user.
        labels: classes of the validation rows, `(rows,)` int64.
    """
    metric = objective_metric(experiment)
    ranked = sorted(
        (record for record in records if record.best), key=lambda record: record.ranking_key(metric), reverse=True
    )
    (folder / "trials.csv").write_text(format_trials_csv(experiment, space, records), encoding="utf-8")
    save_figure(plot_parallel_coordinates(experiment, space, ranked), folder / "parallel-coordinates.png")
    save_figure(plot_slices(experiment, space, ranked), folder / "slices.png")
    save_figure(plot_embeddings(experiment, ranked, kinds), folder / "embeddings.png")
    importances = compute_importances(experiment, space, records)
    correct = format_correct_rows(best.metrics["accuracy"], len(labels))
    summary = SearchSummary(
        title=f"{experiment.name}: search over {format_count(len(space), 'setting')}",
        trials=_describe_trials(records),
        comparison=f"Trials are compared by validation {metric} of their best epoch. The value of the best of many "
        "trials is higher than on new texts: measure the best checkpoint on the test rows.",
        best=f"{metric} {best.metrics[metric]:.4f}",
        best_detail=f"{correct} validation rows correct, trial {best.trial}, epoch {best.epoch}",
        best_settings={path: "null" if value is None else str(value) for path, value in (best.settings or {}).items()},
        refit=f"Refit: trained again on all {best.rows:,} training and validation rows." if best.refit else "",
        commands=commands,
        verdict=summarize_fine_tuning(experiment, kinds, labels),
        kinds=build_embedding_rows(experiment, kinds),
        importances=importances,
        importance_note=_describe_missing_importances(importances, len(space), len(ranked)),
        rows=[_list_trial(metric, space, record, len(labels)) for record in ranked],
        failed=[{"trial": record.number, "reason": record.reason} for record in records if record.status == "failed"],
    )
    (folder / PAGE_NAME).write_text(render_search(summary, experiment, space, ranked), encoding="utf-8")
    (folder / "report.md").write_text("\n".join(_format_markdown(summary)), encoding="utf-8")
    return summary


def _describe_trials(records: list[TrialRecord]) -> str:
    counts = {status: sum(item.status == status for item in records) for status in ("finished", "stopped", "failed")}
    return (
        f"{len(records)} trials: {counts['finished']} finished, {counts['stopped']} were stopped early, "
        f"{counts['failed']} failed; {sum(record.seconds for record in records):,.0f} s of training."
    )


def format_correct_rows(accuracy: float | None, num_rows: int) -> str:
    """Return the number of correct rows, such as `6 of 7`."""
    return f"{round((accuracy or 0) * num_rows):,} of {num_rows:,}"


def _describe_missing_importances(importances: dict[str, float], num_settings: int, num_results: int) -> str:
    """Return why settings have no importance; empty if all have one."""
    if len(importances) == num_settings:
        return ""
    missing = "of the other settings" if importances else "of the settings"
    return (
        f"The importance {missing} is not listed: it requires different results of at least "
        f"{MIN_TRIALS_FOR_IMPORTANCE} trials in which the setting was varied. This search has results of "
        f"{format_count(num_results, 'trial')}."
    )


def _list_trial(metric: str, space: list[Dimension], record: TrialRecord, num_rows: int) -> dict[str, Any]:
    """Return a trial as a row of a table."""
    return {
        "trial": record.number,
        metric: f"{record.best_value(metric):.4f}",
        "correct": format_correct_rows(record.best_value("accuracy"), num_rows),
        "epoch": f"{record.best} of {len(record.epochs)}",
        "status": record.status,
        **{dimension.path: _format_value(value) for dimension in space for value in list_values(dimension, [record])},
    }


def _format_value(value: Any) -> str:
    if value is None:
        return "null"
    return "-" if value is NOT_VARIED else f"{value:.4g}" if isinstance(value, float) else str(value)


def build_embedding_rows(experiment: Experiment, kinds: list[EmbeddingResult]) -> list[dict[str, Any]]:
    """Return the comparison of the kinds of embedding, as rows of a table."""
    metric = objective_metric(experiment)
    return [
        {
            "embedding": kind.embedding,
            "trials": kind.num_trials,
            f"best {metric}": f"{kind.best_record.best_value(metric):.4f}",
            "seeds": len(kind.values_by_seed),
            "mean": f"{kind.mean:.4f}",
            "deviation": "-" if kind.std is None else f"{kind.std:.4f}",
            "lowest": f"{min(kind.values_by_seed.values()):.4f}",
            "highest": f"{max(kind.values_by_seed.values()):.4f}",
        }
        for kind in kinds
    ]


def _format_markdown(summary: SearchSummary) -> list[str]:
    """Return the lines of report.md."""
    lines = [
        f"# {summary.title}", "",
        f"{summary.trials} {summary.comparison}", "",
        f"**Best: {summary.best}**, {summary.best_detail}:", "",
        *[f"* `{path}`: {value}" for path, value in summary.best_settings.items()], "",
        *([summary.refit, ""] if summary.refit else []),
        "```", *summary.commands, "```", "",
        "## Does fine-tuning the vectors pay?", "",
        summary.verdict, "",
        *format_markdown_table(summary.kinds), "",
        "![kinds of embedding](embeddings.png)", "",
        "## Which settings matter", "",
    ]  # fmt: skip
    if summary.importances:
        rows = [{"setting": path, "share": f"{share:.1%}"} for path, share in summary.importances.items()]
        lines += [IMPORTANCE_HINT, "", *format_markdown_table(rows), ""]
    if summary.importance_note:
        lines += [summary.importance_note, ""]
    lines += ["![parallel coordinates](parallel-coordinates.png)", "", "![slices](slices.png)", ""]
    trials = summary.rows[:MAX_LISTED_TRIALS]
    lines += [f"## The best {len(trials)} trials", "", "trials.csv lists all trials.", ""]
    lines += format_markdown_table(trials)
    if summary.failed:
        lines += ["", "## Failed trials", "", *format_markdown_table(summary.failed)]
    return [*lines, ""]
