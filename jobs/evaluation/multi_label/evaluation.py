"""Evaluation of a checkpoint with several labels per text: metrics compared with a baseline, and slices."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.console.tables import format_text_table
from jobs.datasets.readers import Split
from jobs.datasets.tokenizer import encode
from jobs.evaluation.baselines import SVC_NAME
from jobs.evaluation.metrics import Interval
from jobs.evaluation.multi_label.metrics import (
    count_labels,
    mean_average_precision,
    precision_at,
    subset_accuracy,
)
from jobs.evaluation.seen_texts import find_seen_texts
from jobs.evaluation.slices import group_values
from jobs.model.checkpoint import Checkpoint, load_train_texts

PRECISION_AT = (1, 3, 5)
NUM_RESAMPLES = 1000
BLOCK_RESAMPLES = 50  # drawn at once, which limits the memory
METRIC_NAMES = {
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "micro_precision": "micro precision",
    "micro_recall": "micro recall",
    "accuracy": "all labels correct",
    "mean_average_precision": "mean average precision",
}


@dataclass(frozen=True)
class LabelMetrics:
    """Metrics of predicted labels. accuracy: share of rows whose labels are all correct; precision_at: by k."""

    micro_f1: float
    macro_f1: float
    micro_precision: float
    micro_recall: float
    accuracy: float
    mean_average_precision: float
    precision_at: dict[str, float]

    def to_rows(self) -> dict[str, float]:
        """Return the values by the name that a table shows."""
        values = {name: float(getattr(self, metric)) for metric, name in METRIC_NAMES.items()}
        return values | {f"P@{k}": value for k, value in self.precision_at.items()}


@dataclass(frozen=True)
class LabelSlice:
    """Rows with the same value of a column, and their micro F1."""

    by: str
    value: str
    rows: int
    micro_f1: float

    def to_row(self) -> Mapping[str, object]:
        """Return the slice as a row of a table."""
        return {self.by: self.value, "rows": self.rows, "micro F1": f"{self.micro_f1:.3f}"}


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Metrics of a checkpoint on labelled rows.

    micro_f1_interval: at 95 %, of a bootstrap of the rows. per_label: precision, recall, f1 and support, `(labels,)`
    each. labels_per_text: mean number of the labels that texts have, and of those that they get. linear_svc: None if it
    was left out or its training rows are not available. seen_texts: number of texts with the same words as a training
    text; None if that is not known.
    """

    checkpoint: str
    source: str
    rows: int
    metrics: LabelMetrics
    micro_f1_interval: Interval
    labels: list[str]
    per_label: dict[str, np.ndarray]
    labels_per_text: tuple[float, float]
    linear_svc: LabelMetrics | None
    slices: list[LabelSlice]
    seen_texts: int | None

    def comparison_rows(self) -> list[dict[str, str]]:
        """Return the metrics, compared with those of the baseline, as rows of a table."""
        baseline = self.linear_svc.to_rows() if self.linear_svc else {}
        rows = []
        for name, value in self.metrics.to_rows().items():
            interval = "{:.4f} to {:.4f}".format(*self.micro_f1_interval) if name == METRIC_NAMES["micro_f1"] else ""
            row = {"metric": name, "model": f"{value:.4f}", "95% confidence": interval}
            rows.append(row | ({SVC_NAME: f"{baseline[name]:.4f}"} if baseline else {}))
        return rows

    def label_rows(self) -> list[Mapping[str, object]]:
        """Return the metrics of each label as rows of a table, the most frequent label first."""
        order = np.argsort(-self.per_label["support"], kind="stable")
        return [
            {
                "label": self.labels[index],
                **{name: f"{self.per_label[name][index]:.3f}" for name in ("precision", "recall", "f1")},
                "rows": str(self.per_label["support"][index]),
            }
            for index in order
        ]

    def format_table(self) -> str:
        """Return the metrics as text."""
        true, predicted = self.labels_per_text
        return (
            f"{format_text_table(self.label_rows())}\n\n{format_text_table(self.comparison_rows())}\n"
            f"micro F1 {self.metrics.micro_f1:.4f}   macro F1 {self.metrics.macro_f1:.4f}   on {self.rows:,} rows of "
            f"{self.source}, with {true:.2f} labels per text; {predicted:.2f} were predicted"
        )

    def describe_seen_texts(self) -> str | None:
        """Return how many texts were trained on as text; None if there are none, or if it is not known."""
        if not self.seen_texts:
            return None
        return f"{self.seen_texts:,} of {self.rows:,} texts have the same words as a training text"

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return asdict(self) | {"per_label": {name: values.tolist() for name, values in self.per_label.items()}}


def compute_metrics(labels: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> LabelMetrics:
    """Return the metrics of predictions, `(rows, labels)` each."""
    counts = count_labels(labels, predicted)
    return LabelMetrics(
        counts.micro_f1(),
        counts.macro_f1(),
        counts.micro_precision(),
        counts.micro_recall(),
        subset_accuracy(labels, predicted),
        mean_average_precision(labels, scores),
        {str(k): precision_at(k, labels, scores) for k in PRECISION_AT if k <= labels.shape[1]},
    )


def bootstrap_micro_f1(labels: np.ndarray, predicted: np.ndarray, seed: int = 0) -> Interval:
    """Return the 95 % confidence interval of the micro F1: percentiles of resampled rows (Efron 1979)."""
    true, own = labels.astype(bool), predicted.astype(bool)
    counts = np.stack([(true & own).sum(axis=1), true.sum(axis=1), own.sum(axis=1)], axis=1)  # (rows, 3)
    random = np.random.default_rng(seed)
    values: list[np.ndarray] = []
    for _ in range(NUM_RESAMPLES // BLOCK_RESAMPLES):
        drawn = random.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), BLOCK_RESAMPLES)
        correct, total_true, total_own = (drawn @ counts).T
        values.append(2 * correct / np.maximum(total_true + total_own, 1))
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def measure(
    checkpoint: Checkpoint,
    test: Split,
    test_tokens: Sequence[Sequence[str]],
    labels: np.ndarray,
    probabilities: np.ndarray,
    linear_svc: tuple[np.ndarray, float] | None,
    columns: Mapping[str, Sequence[str]],
) -> MultiLabelEvaluation:
    """Return the evaluation of probabilities, `(rows, labels)`.

    Args:
        test_tokens: the tokens of the texts. labels: `(rows, labels)` of 0 and 1.
        linear_svc: scores and threshold of the baseline, as of `score_with_svcs`.
        columns: values of columns of the rows, by name; the micro F1 is listed by them.
    """
    tokens = encode(test_tokens, checkpoint.vocabulary, checkpoint.experiment.text.max_tokens)
    digests = load_train_texts(checkpoint.path)
    predicted = probabilities >= checkpoint.label_thresholds
    svc = None
    if linear_svc is not None:
        scores, threshold = linear_svc
        svc = compute_metrics(labels, scores >= threshold, scores)
    counts = count_labels(labels, predicted)
    return MultiLabelEvaluation(
        checkpoint.path,
        test.path,
        len(test),
        compute_metrics(labels, predicted, probabilities),
        bootstrap_micro_f1(labels, predicted),
        checkpoint.labels,
        counts.per_label(),
        (float(labels.sum(axis=1).mean()), float(predicted.sum(axis=1).mean())),
        svc,
        [item for name, values in columns.items() for item in _slice(name, values, labels, predicted)],
        None if digests is None else int(find_seen_texts(tokens, digests).sum()),
    )


def _slice(by: str, values: Sequence[str], labels: np.ndarray, predicted: np.ndarray) -> list[LabelSlice]:
    groups, names = group_values(values)
    return [
        LabelSlice(by, name, int(members.sum()), count_labels(labels[members], predicted[members]).micro_f1())
        for number, name in enumerate(names)
        if (members := groups == number).any()
    ]
