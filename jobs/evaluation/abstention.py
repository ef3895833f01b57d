"""Abstention: thresholds selected on validation rows, the risk-coverage curve, detection of out-of-scope texts.

A text has no label if the score of its best class is below a threshold. The score is the probability with the
checkpoint's temperature (maximum softmax probability, Hendrycks & Gimpel 2017). Thresholds are selected so that they
hold for new rows on average, not only for the validation rows: by one row more than the quantile, as in conformal
prediction. The fewer rows there are, the more careful they are.
"""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.console.tables import format_markdown_table
from cluster.storage import write_json
from jobs.config.abstention import OBJECTIVES, OUT_OF_SCOPE, Objective, StoredThresholds, find_rule, select_classes
from jobs.evaluation.metrics import softmax
from jobs.evaluation.reports.figures import (
    BLUE,
    GREY,
    VERMILLION,
    add_legend,
    create_figure,
    figure_style,
    save_figure,
    shorten_label,
)
from jobs.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jobs.config.settings import TrainSettings

logger = logging.getLogger(__name__)

MARKERS: dict[Objective, str] = {"retention": "o", "precision": "^", "balanced": "s"}


def select_retention_threshold(scores: np.ndarray, retention: float) -> float:
    """Return the highest threshold that a new row of the same kind reaches with at least this probability.

    It is a score of the rows: of n rows, the k-th lowest with k at most (1 - retention) * (n + 1), as in split
    conformal prediction. 0 if there are too few rows for any other, fewer than 19 for 95 %.

    Args:
        scores: of the rows in scope, `(rows,)`.
    """
    rank = int((1 - retention) * (len(scores) + 1) + 1e-9)
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank else 0.0


def select_precision_threshold(scores: np.ndarray, correct: np.ndarray, precision: float) -> float | None:
    """Return the lowest threshold with this share of correct rows among those that reach it; None if there is none.

    One wrong row is added to those that reach it, as in conformal selection (Jin & Candès 2023), which limits the mean
    share of wrong ones among new rows. So 95 % needs at least 20 rows that reach it.

    Args:
        scores, correct: of all rows, `(rows,)`; an out-of-scope row is never correct.
    """
    levels, answered, right = _accumulate(scores, correct)
    allowed = (1 - precision) * answered + 1e-9
    reached = np.flatnonzero(answered - right + 1 <= allowed)
    if not len(reached):
        return None
    return 0.0 if reached[-1] == len(levels) - 1 else float(levels[reached[-1]])


def select_balanced_threshold(scores: np.ndarray, correct: np.ndarray, out_of_scope: np.ndarray) -> tuple[float, float]:
    """Return the threshold with the highest balanced share of right decisions, and this share.

    The share is the mean of two: correct rows that reach the threshold, and out-of-scope rows that do not.

    Args:
        scores, correct: of the rows in scope, `(rows,)`. out_of_scope: scores of out-of-scope rows, at least one.
    """
    levels = np.unique(np.concatenate([[0.0], scores, out_of_scope]))
    right = np.sort(scores[correct])
    kept = (len(right) - np.searchsorted(right, levels)) / len(scores)
    rejected = np.searchsorted(np.sort(out_of_scope), levels) / len(out_of_scope)
    shares = (kept + rejected) / 2
    best = int(shares.argmax())
    lower = levels[best - 1] if best else levels[best]  # between two scores, since new rows have neither
    return float((lower + levels[best]) / 2), float(shares[best])


def compute_auroc(scores: np.ndarray, out_of_scope: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of pairs in which the row in scope has the higher score."""
    ordered = np.sort(scores)
    above = [len(scores) - np.searchsorted(ordered, out_of_scope, side) for side in ("left", "right")]
    return float(np.mean(above) / len(scores))


def select_thresholds(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    settings: "TrainSettings",
    class_names: list[str],
    out_of_scope_logits: np.ndarray | None,
) -> StoredThresholds:
    """Return the thresholds of each objective, as a checkpoint stores them.

    Args:
        logits, labels: of the validation rows, `(rows, classes)` and `(rows,)`.
        settings: `abstention_thresholds` are taken instead of selected ones.
        class_names: one of them is `OUT_OF_SCOPE` if that is a class.
        out_of_scope_logits: of held-out out-of-scope rows, `(rows, classes)`; None without such rows.
    """
    index = class_names.index(OUT_OF_SCOPE) if OUT_OF_SCOPE in class_names and out_of_scope_logits is not None else None
    stored: StoredThresholds = {} if index is None else {"out_of_scope": index}
    if settings.abstention_thresholds is not None:
        stored["thresholds"] = dict(settings.abstention_thresholds)
        return stored
    best, scores = select_classes(softmax(logits / temperature), index)
    correct = best == labels
    stored["rows"] = len(labels)
    thresholds: dict[Objective, float | None] = {}
    thresholds["retention"] = select_retention_threshold(scores, settings.abstention_retention)
    stored["thresholds"] = thresholds
    if out_of_scope_logits is None:
        thresholds["precision"] = select_precision_threshold(scores, correct, settings.abstention_precision)
        return stored
    _, others = select_classes(softmax(out_of_scope_logits / temperature), index)
    thresholds["precision"] = select_precision_threshold(
        np.concatenate([scores, others]),
        np.concatenate([correct, np.zeros(len(others), bool)]),
        settings.abstention_precision,
    )
    thresholds["balanced"], stored["balanced_accuracy"] = select_balanced_threshold(scores, correct, others)
    stored["out_of_scope_rows"], stored["auroc"] = len(others), compute_auroc(scores, others)
    return stored


@dataclass(frozen=True)
class RiskCoverage:
    """Risk-coverage curve of rows that are answered in the order of their scores, the highest first.

    coverage: share of the answered rows; risk: share of wrong ones among them; thresholds: lowest score of the answered
    rows; `(points,)` each, by rising coverage. area: the mean risk over all coverages; lower is better.
    """

    coverage: np.ndarray
    risk: np.ndarray
    thresholds: np.ndarray

    @property
    def area(self) -> float:
        """Area under the curve."""
        return float(np.average(self.risk, weights=np.diff(self.coverage, prepend=0)))

    def at(self, threshold: float) -> tuple[float, float | None]:
        """Return the coverage with a threshold, and the risk, which is None if no row is answered."""
        answered = int((self.thresholds >= threshold).sum())
        return (float(self.coverage[answered - 1]), float(self.risk[answered - 1])) if answered else (0.0, None)


def compute_risk_coverage(scores: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Return the curve of rows with scores `(rows,)`, of which some are correct, `(rows,)` bool.

    Rows with equal scores are answered together.
    """
    levels, answered, right = _accumulate(scores, correct)
    return RiskCoverage(answered / len(scores), 1 - right / answered, levels)


def _accumulate(scores: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the different scores, the highest first, and the numbers of rows, and correct rows, that reach each."""
    levels, indices, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    right = np.bincount(indices, weights=correct, minlength=len(levels))
    return -levels, counts.cumsum(), right.cumsum()


@dataclass(frozen=True)
class AbstentionResult:
    """Result of a threshold on labelled rows. coverage: share of rows with a label; precision: share of correct ones
    among them, None if there are none."""

    objective: Objective
    threshold: float
    coverage: float
    precision: float | None

    def to_row(self) -> dict[str, str]:
        """Return the result as a row of a table."""
        precision = "-" if self.precision is None else f"{self.precision:.4f}"
        return {
            "objective": self.objective,
            "threshold": f"{self.threshold:.4f}",
            "rows with a label": f"{self.coverage:.4f}",
            "accuracy on them": precision,
        }


@dataclass(frozen=True)
class Abstention:
    """Abstention on labelled rows: the risk-coverage curve, and the results of the checkpoint's thresholds."""

    curve: RiskCoverage
    results: list[AbstentionResult]

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        curve = {name: values.tolist() for name, values in vars(self.curve).items()}
        results = [asdict(result) for result in self.results]
        return {"risk_coverage_area": self.curve.area, "objectives": results, "risk_coverage": curve}


def measure_abstention(checkpoint: Checkpoint, labels: np.ndarray, probabilities: np.ndarray) -> Abstention:
    """Return the abstention on rows with class indices `(rows,)` and probabilities `(rows, classes)`."""
    rules = {objective: rule for objective in OBJECTIVES if (rule := find_rule(checkpoint.metrics, objective))}
    index = next((rule.out_of_scope for rule in rules.values()), None)
    best, scores = select_classes(probabilities, index)
    curve = compute_risk_coverage(scores, best == labels)
    results = []
    for objective, rule in rules.items():
        coverage, risk = curve.at(rule.threshold)
        results.append(AbstentionResult(objective, rule.threshold, coverage, None if risk is None else 1 - risk))
    return Abstention(curve, results)


def write_abstention(folder: Path, abstention: Abstention, name: str) -> list[str]:
    """Log and write the abstention, and return the section of report.md on it, as lines of Markdown.

    The files are abstention.json and risk-coverage.png.

    Args:
        folder: of the report. name: of the experiment.
    """
    logger.info(f"area under the risk-coverage curve {abstention.curve.area:.4f}")
    save_figure(draw_risk_coverage(abstention, name), folder / "risk-coverage.png")
    write_json(str(folder / "abstention.json"), abstention.to_json())
    lines = [
        "## Abstention",
        "",
        "Rows are answered in the order of their scores. The curve shows the share of wrong labels among the answered "
        f"rows; the area under it, their mean over all coverages, is {abstention.curve.area:.4f}.",
        "",
    ]
    if abstention.results:
        lines += [*format_markdown_table([result.to_row() for result in abstention.results]), ""]
    return [*lines, "![risk-coverage curve](risk-coverage.png)", ""]


@figure_style()
def draw_risk_coverage(abstention: Abstention, name: str) -> "Figure":
    """Return the risk-coverage curve, with the checkpoint's thresholds; `name` is the experiment's."""
    curve = abstention.curve
    figure = create_figure(7, 5, f"{shorten_label(name)}: share of wrong labels when unsure rows have none")
    axes = figure.add_subplot()
    axes.plot(curve.coverage, curve.risk, color=BLUE, label=f"risk, area {curve.area:.4f}")
    axes.axhline(curve.risk[-1], color=GREY, linestyle="--", linewidth=1, label="all rows have a label")
    for result in abstention.results:
        if result.precision is not None:
            axes.plot(
                result.coverage,
                1 - result.precision,
                color=VERMILLION,
                linestyle="none",
                marker=MARKERS[result.objective],
                label=f"{result.objective}, threshold {result.threshold:.3f}",
            )
    axes.set(xlabel="coverage: share of the rows with a label", ylabel="risk: share of wrong labels among them")
    axes.set(xlim=(0, 1.02), ylim=(0, None))
    add_legend(figure, [axes])
    return figure
