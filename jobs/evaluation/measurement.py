"""Measurement of a checkpoint on labelled rows: metrics with confidence intervals, baselines, slices, seen texts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.console.tables import format_text_table
from jobs.datasets.tokenizer import encode
from jobs.evaluation.baselines import (
    NETWORK_ALONE,
    SVC_NAME,
    MajorityBaseline,
    Metrics,
    NetworkDifference,
    SvcBaseline,
    compare_network,
    compute_metrics,
    measure_majority,
)
from jobs.evaluation.metrics import (
    Interval,
    accuracy,
    accuracy_interval,
    bootstrap_intervals,
    confusion,
    per_class_metrics,
)
from jobs.evaluation.out_of_scope import OutOfScope
from jobs.evaluation.reports.report import Evaluation
from jobs.evaluation.seen_texts import find_seen_texts
from jobs.evaluation.slices import AccuracySlice, slice_by_properties
from jobs.model.checkpoint import Checkpoint, load_train_texts

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "matthews_correlation": "Matthews correlation",
}
INTERVALS_NOTE = "The interval of the accuracy is Wilson's, the others are a bootstrap of the rows."


@dataclass(frozen=True)
class MeasuredEvaluation(Evaluation):
    """An evaluation with 95 % confidence intervals and baselines.

    matthews_correlation: None if all rows have the same class. network_alone: without the linear classifier of the
    checkpoint; None if it has none. linear_svc: None if it was left out or its training rows are not available.
    out_of_scope: None without such texts. slices: by length, share of unknown words and class, then by the columns of
    the command. seen_texts: number of texts with the same words as a training text, None if the checkpoint does not
    have what this is compared with; unseen_accuracy: accuracy on the other rows, None without such rows.
    """

    balanced_accuracy: float
    matthews_correlation: float | None
    accuracy_interval: Interval
    macro_f1_interval: Interval
    balanced_accuracy_interval: Interval
    matthews_correlation_interval: Interval | None
    majority: MajorityBaseline
    network_alone: Metrics | None
    network_alone_difference: NetworkDifference | None
    linear_svc: SvcBaseline | None
    out_of_scope: OutOfScope | None
    slices: list[AccuracySlice]
    seen_texts: int | None
    unseen_accuracy: float | None

    def comparison_rows(self) -> list[dict[str, str]]:
        """Return the metrics with their intervals, compared with those of the baselines, as rows of a table."""
        own = Metrics(self.accuracy, self.macro_f1, self.balanced_accuracy, self.matthews_correlation)
        rows = []
        for metric, name in METRIC_NAMES.items():
            interval = getattr(self, f"{metric}_interval")
            row = {
                "metric": name,
                "model": _format(getattr(own, metric)),
                "95% confidence": "-" if interval is None else "{:.4f} to {:.4f}".format(*interval),
            }
            if self.network_alone is not None:
                row[NETWORK_ALONE] = _format(getattr(self.network_alone, metric))
            if self.linear_svc is not None:
                row[SVC_NAME] = _format(getattr(self.linear_svc.metrics, metric))
            rows.append(row | {f"always '{self.majority.label}'": _format(getattr(self.majority.metrics, metric))})
        return rows

    def format_table(self) -> str:
        """Return the metrics as text."""
        parts = [super().format_table(), format_text_table(self.comparison_rows())]
        if self.out_of_scope is not None:
            parts.append(f"{format_text_table(self.out_of_scope.to_rows())}\n{self.out_of_scope.describe()}")
        return "\n\n".join(parts)

    def describe_differences(self) -> list[str]:
        """Return whether the model is better than the baselines, as sentences without full stops."""
        return [item.describe_difference() for item in (self.linear_svc, self.network_alone_difference) if item]

    def describe_seen_texts(self) -> str | None:
        """Return how many texts were trained on as text; None if there are none, or if it is not known."""
        if not self.seen_texts:
            return None
        text = f"{self.seen_texts:,} of {self.rows:,} texts have the same words as a training text"
        if self.unseen_accuracy is None:
            return f"{text}; the metrics show nothing about new texts"
        return f"{text}; accuracy on the other {self.rows - self.seen_texts:,}: {self.unseen_accuracy:.4f}"

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        nested = {
            "majority": asdict(self.majority),
            "network_alone": self.network_alone and asdict(self.network_alone),
            "network_alone_difference": self.network_alone_difference and asdict(self.network_alone_difference),
            "linear_svc": self.linear_svc and asdict(self.linear_svc),
            "out_of_scope": self.out_of_scope and asdict(self.out_of_scope),
            "slices": [asdict(item) for item in self.slices],
        }
        return super().to_json() | nested


def measure(
    checkpoint: Checkpoint,
    source: str,
    test_tokens: Sequence[Sequence[str]],
    labels: np.ndarray,
    predicted: np.ndarray,
    network_alone: np.ndarray | None,
    linear_svc: SvcBaseline | None,
    column_slices: Sequence[AccuracySlice],
    out_of_scope: OutOfScope | None = None,
) -> MeasuredEvaluation:
    """Return the evaluation of predictions.

    Args:
        source: name of the measured rows; test_tokens: the tokens of their texts.
        labels, predicted, network_alone: true classes, those that the checkpoint predicts and those that its network
            predicts without the linear classifier, `(rows,)` int64; None if there is none.
    """
    tokens = encode(test_tokens, checkpoint.vocabulary, checkpoint.experiment.text.max_tokens)
    digests = load_train_texts(checkpoint.path)
    seen = None if digests is None else find_seen_texts(tokens, digests)
    has_unseen = seen is not None and seen.any() and not seen.all()
    num_classes = len(checkpoint.labels)
    metrics = compute_metrics(labels, predicted)
    intervals = bootstrap_intervals(labels, predicted)
    is_single_class = metrics.matthews_correlation is None
    return MeasuredEvaluation(
        checkpoint=checkpoint.path,
        source=source,
        rows=len(labels),
        accuracy=metrics.accuracy,
        macro_f1=metrics.macro_f1,
        labels=checkpoint.labels,
        per_class=per_class_metrics(labels, predicted, num_classes),
        confusion=confusion(labels, predicted, num_classes),
        balanced_accuracy=metrics.balanced_accuracy,
        matthews_correlation=metrics.matthews_correlation,
        accuracy_interval=accuracy_interval(labels, predicted),
        macro_f1_interval=intervals["macro_f1"],
        balanced_accuracy_interval=intervals["balanced_accuracy"],
        matthews_correlation_interval=None if is_single_class else intervals["matthews_correlation"],
        majority=measure_majority(labels, checkpoint.labels),
        network_alone=None if network_alone is None else compute_metrics(labels, network_alone),
        network_alone_difference=None if network_alone is None else compare_network(labels, predicted, network_alone),
        linear_svc=linear_svc,
        out_of_scope=out_of_scope,
        slices=[*slice_by_properties(tokens, labels, checkpoint.labels, labels == predicted), *column_slices],
        seen_texts=None if seen is None else int(seen.sum()),
        unseen_accuracy=accuracy(labels[~seen], predicted[~seen]) if has_unseen and seen is not None else None,
    )


def _format(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
