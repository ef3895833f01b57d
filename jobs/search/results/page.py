"""HTML page of a search: verdict, settings that matter, learning curves and trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.config.experiment import Experiment
from jobs.evaluation.reports.html.charts import Axis, Chart, ParallelChart, Points, Scale, Series
from jobs.evaluation.reports.html.page import render_page
from jobs.search.records import TrialRecord, objective_label, objective_metric
from jobs.search.results.analysis import trial_embedding
from jobs.search.results.setting_axes import LINE_JITTER, POINT_JITTER, place_trials
from jobs.search.space import Dimension

MAX_CHARTED_TRIALS = 200
MAX_TABLE_TRIALS = 1000
NUM_SHADES = 10
IMPORTANCE_HINT = (
    "Share of the variance between trials that each setting explains alone (fANOVA); trials that were stopped early "
    "count with their best epoch. The largest share is often near 40 % even if no setting has an effect."
)
# Style of each kind of embedding.
STYLES = {"rand": "d", "static": "a", "non-static": "b", "multichannel": "c"}


@dataclass(frozen=True)
class SearchSummary:
    """Contents of the report of a search, for Markdown and HTML.

    trials: their numbers and time; comparison: how they are compared. best: the objective of the best one, and
    best_detail: more about it. refit: whether it was trained again, or empty. verdict: whether fine-tuning pays.
    kinds: table of the kinds of embedding. importances: of the settings, and why some are missing. rows: table of the
    trials with an epoch, the best first; failed: of the failed ones.
    """

    title: str
    trials: str
    comparison: str
    best: str
    best_detail: str
    best_settings: Mapping[str, str]
    refit: str
    commands: Sequence[str]
    verdict: str
    kinds: Sequence[Mapping[str, object]]
    importances: Mapping[str, float]
    importance_note: str
    rows: Sequence[Mapping[str, object]]
    failed: Sequence[Mapping[str, object]]


class SearchCharts:
    """Charts of the trials of a search; each trial has the color of its kind of embedding.

    Args:
        records: with an epoch, the best first.
    """

    def __init__(self, experiment: Experiment, space: Sequence[Dimension], records: Sequence[TrialRecord]) -> None:
        self._space, self._records = space, records
        self._metric = objective_metric(experiment)
        self._label = objective_label(experiment)
        self._kinds = [trial_embedding(experiment, record) for record in records]
        self._values = [record.best_value(self._metric) for record in records]
        self._scale = Scale.of(self._values)

    def draw_coordinates(self) -> ParallelChart:
        """Return parallel coordinates: an axis for each setting and one for the objective."""
        settings = place_trials(self._space, self._records, LINE_JITTER)
        heights = [self._scale.position(value) for value in self._values]
        lines = np.array([*(setting.positions for setting in settings), heights])  # (axes, trials)
        axes = [Axis(setting.path, setting.ticks) for setting in settings]
        axes.append(self._scale.axis(self._label.replace(" ", ".", 1)))
        series = []
        for trial in reversed(range(len(self._records))):
            points = [(number, value) for number, value in enumerate(lines[:, trial].tolist()) if not math.isnan(value)]
            shade = f"{STYLES[self._kinds[trial]]} s{round(NUM_SHADES * self._goodness(trial))}"
            series.append(self._make_series(trial, points, shade))
        return ParallelChart("Parallel coordinates: a line for each trial", axes, series)

    def draw_settings(self) -> list[Chart]:
        """Return a chart for each setting: its values against the objective."""
        charts = []
        for setting in place_trials(self._space, self._records, POINT_JITTER):
            positions = 0.04 + 0.92 * setting.positions
            series = [
                self._make_series(
                    trial, [(float(positions[trial]), self._scale.position(self._values[trial]))], is_line=False
                )
                for trial in np.flatnonzero(~np.isnan(positions)).tolist()
            ]
            axis = Axis(setting.path, [(0.04 + 0.92 * position, text) for position, text in setting.ticks])
            charts.append(Chart(setting.path, axis, self._scale.axis(self._label), series))
        return charts

    def draw_curves(self) -> list[Chart]:
        """Return the learning curves: objective and training loss of each epoch."""
        return [self._draw_curve(self._metric, self._label), self._draw_curve("train_loss", "training loss")]

    def _draw_curve(self, metric: str, label: str) -> Chart:
        curves = [[getattr(epoch, metric) for epoch in record.epochs] for record in self._records]
        scale = Scale.of([value for curve in curves for value in curve if value is not None])
        last = max(len(curve) for curve in curves)
        x = Scale.of([1, max(2, last)]) if last > 5 else Scale(1, max(2, last), 1)
        series = []
        for trial in reversed(range(len(curves))):
            points = [
                (x.position(number), scale.position(value))
                for number, value in enumerate(curves[trial], 1)
                if value is not None
            ]
            series.append(self._make_series(trial, points, has_markers=len(points) == 1))
        return Chart(label, x.axis("epoch"), scale.axis(label), series)

    def _make_series(
        self,
        trial: int,
        points: Points,
        style: str = "",
        is_line: bool = True,
        has_markers: bool = False,
    ) -> Series:
        record, kind = self._records[trial], self._kinds[trial]
        title = f"trial {record.number}: {self._metric} {self._values[trial]:.4f}"
        return Series(
            kind, style or STYLES[kind], points, is_line, has_markers or not is_line, title, str(record.number)
        )

    def _goodness(self, trial: int) -> float:
        """Return the rank of a trial among those of the charts, from 0 to 1 for the best one."""
        return 1 - trial / max(1, len(self._records) - 1)


def render_search(
    summary: SearchSummary, experiment: Experiment, space: Sequence[Dimension], ranked: Sequence[TrialRecord]
) -> str:
    """Return the page; ranked: trials with an epoch, the best first."""
    charts = SearchCharts(experiment, space, ranked[:MAX_CHARTED_TRIALS])
    charts_hint = ""
    if len(ranked) > MAX_CHARTED_TRIALS:
        charts_hint = f"The charts have the best {MAX_CHARTED_TRIALS:,} of {len(ranked):,} trials."
    rows = summary.rows[:MAX_TABLE_TRIALS]
    left_out = "" if len(rows) == len(summary.rows) else f"The best {len(rows):,} of {len(summary.rows):,} trials. "
    sections = {"best": "Best trial", "fine-tuning": "Fine-tuning", "settings": "Settings", "curves": "Learning curves",
                "trials": "Trials"}  # fmt: skip
    return render_page(
        "search.html",
        summary.title,
        summary=summary,
        sections=sections.items(),
        importance_hint=IMPORTANCE_HINT,
        coordinates=charts.draw_coordinates(),
        setting_charts=charts.draw_settings(),
        curves=charts.draw_curves(),
        charts_hint=charts_hint,
        trials=rows,
        trials_hint=f"{left_out}The best one is first; trials.csv has all with every metric.",
    )
