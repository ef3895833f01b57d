"""Evaluation of a checkpoint with several labels per text: metrics with intervals, compared with baselines; slices."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster import choose_form
from cluster.console.tables import format_text_table
from jobs.datasets.readers import Split
from jobs.datasets.tokenizer import encode
from jobs.evaluation.baselines import NETWORK_ALONE, SVC_NAME, NetworkDifference
from jobs.evaluation.metrics import Interval, share_interval
from jobs.evaluation.multi_label.baselines import (
    FrequentLabels,
    LabelScores,
    LabelSvc,
    compare_network,
    measure_frequent_labels,
    measure_svc,
)
from jobs.evaluation.multi_label.bootstrap import bootstrap_f1, bootstrap_micro_f1
from jobs.evaluation.multi_label.metrics import METRIC_NAMES, LabelMetrics, count_labels
from jobs.evaluation.seen_texts import find_seen_texts
from jobs.evaluation.slices import Group, Slice, group_by_column, group_by_properties
from jobs.model.checkpoint import Checkpoint, load_train_texts

INTERVALS_NOTE = (
    f"The intervals of F1 are a bootstrap of the rows, those of '{METRIC_NAMES['accuracy']}' and P@1 Wilson's. "
    "P@k is the mean share of correct labels among the k best ones of a text, whatever its number of labels."
)


@dataclass(frozen=True)
class LabelSlice(Slice):
    """Rows with the same property, and their micro F1."""

    micro_f1: float

    def name_metric(self) -> tuple[str, float]:
        """Return the name of the metric and its value."""
        return "micro F1", self.micro_f1


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Metrics of a checkpoint on labelled rows, with 95 % confidence intervals and baselines.

    per_label: precision, recall, f1 and support, `(labels,)` each. labels_per_text: mean number of labels that texts
    have, and of those that they get. frequent_labels: the same labels for every text. network_alone: without the linear
    classifier of the checkpoint; None if it has none. linear_svc: None if it was left out or its training rows are not
    available. slices: by length and share of unknown words, then by the columns of the command. seen_texts: number of
    texts with the same words as a training text; None if that is not known.
    """

    checkpoint: str
    source: str
    rows: int
    metrics: LabelMetrics
    micro_f1_interval: Interval
    macro_f1_interval: Interval
    accuracy_interval: Interval
    precision_at_1_interval: Interval
    labels: list[str]
    per_label: dict[str, np.ndarray]
    labels_per_text: tuple[float, float]
    frequent_labels: FrequentLabels
    network_alone: LabelMetrics | None
    network_alone_difference: NetworkDifference | None
    linear_svc: LabelSvc | None
    slices: list[LabelSlice]
    seen_texts: int | None

    def comparison_rows(self) -> list[dict[str, str]]:
        """Return the metrics with their intervals, compared with those of the baselines, as rows of a table."""
        intervals = {
            METRIC_NAMES["micro_f1"]: self.micro_f1_interval,
            METRIC_NAMES["macro_f1"]: self.macro_f1_interval,
            METRIC_NAMES["accuracy"]: self.accuracy_interval,
            "P@1": self.precision_at_1_interval,
        }
        baselines = {
            NETWORK_ALONE: self.network_alone,
            SVC_NAME: None if self.linear_svc is None else self.linear_svc.metrics,
            self.frequent_labels.describe(): self.frequent_labels.metrics,
        }
        columns = {name: metrics.to_rows() for name, metrics in baselines.items() if metrics is not None}
        return [
            {
                "metric": name,
                "model": f"{value:.4f}",
                "95% confidence": "{:.4f} to {:.4f}".format(*intervals[name]) if name in intervals else "-",
                **{column: f"{values[name]:.4f}" for column, values in columns.items()},
            }
            for name, value in self.metrics.to_rows().items()
        ]

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

    def describe_differences(self) -> list[str]:
        """Return whether the model is better than the baselines, as sentences without full stops."""
        return [item.describe_difference() for item in (self.linear_svc, self.network_alone_difference) if item]

    def describe_baselines(self) -> list[str]:
        """Return sentences on the baselines, without full stops."""
        texts = self.describe_differences()
        if self.linear_svc is not None:
            texts.append(f"The SVC was trained on the same {self.linear_svc.training_rows:,} rows")
        labels = choose_form(len(self.frequent_labels.labels), "label", "labels")
        names = ", ".join(f"'{label}'" for label in self.frequent_labels.labels)
        return [*texts, f"The last column gives every text the same {labels}, those with the best micro F1: {names}"]

    def describe_seen_texts(self) -> str | None:
        """Return how many texts were trained on as text; None if there are none, or if it is not known."""
        if not self.seen_texts:
            return None
        return f"{self.seen_texts:,} of {self.rows:,} texts have the same words as a training text"

    def to_json(self) -> dict[str, Any]:
        """Return the evaluation as JSON values."""
        return asdict(self) | {"per_label": {name: values.tolist() for name, values in self.per_label.items()}}


def measure(
    checkpoint: Checkpoint,
    test: Split,
    test_tokens: Sequence[Sequence[str]],
    labels: np.ndarray,
    probabilities: np.ndarray,
    columns: Mapping[str, Sequence[str]],
    network_alone: LabelScores | None = None,
    linear_svc: LabelScores | None = None,
    training_rows: int = 0,
) -> MultiLabelEvaluation:
    """Return the evaluation of probabilities, `(rows, labels)`.

    Args:
        test_tokens: the tokens of the texts. labels: `(rows, labels)` of 0 and 1.
        columns: values of columns of the rows, by name; the micro F1 is listed by them.
        network_alone, linear_svc: of the rows, as of `score_network_alone` and `score_with_svcs`; training_rows: of the
            SVC.
    """
    tokens = encode(test_tokens, checkpoint.vocabulary, checkpoint.experiment.text.max_tokens)
    digests = load_train_texts(checkpoint.path)
    own = LabelScores(probabilities, checkpoint.label_thresholds)
    predicted, metrics = own.predicted, own.measure(labels)
    micro_f1_interval, macro_f1_interval = bootstrap_f1(labels, predicted)
    groups = [*group_by_properties(tokens), *(g for item in columns.items() for g in group_by_column(*item))]
    return MultiLabelEvaluation(
        checkpoint=checkpoint.path,
        source=test.path,
        rows=len(test),
        metrics=metrics,
        micro_f1_interval=micro_f1_interval,
        macro_f1_interval=macro_f1_interval,
        accuracy_interval=share_interval(round(metrics.accuracy * len(test)), len(test)),
        precision_at_1_interval=share_interval(round(metrics.precision_at["1"] * len(test)), len(test)),
        labels=checkpoint.labels,
        per_label=count_labels(labels, predicted).per_label(),
        labels_per_text=(float(labels.sum(axis=1).mean()), float(predicted.sum(axis=1).mean())),
        frequent_labels=measure_frequent_labels(labels, checkpoint.labels),
        network_alone=None if network_alone is None else network_alone.measure(labels),
        network_alone_difference=None if network_alone is None else compare_network(labels, own, network_alone),
        linear_svc=None if linear_svc is None else measure_svc(linear_svc, training_rows, labels, own),
        slices=[_measure_slice(group, labels, predicted) for group in groups],
        seen_texts=None if digests is None else int(find_seen_texts(tokens, digests).sum()),
    )


def _measure_slice(group: Group, labels: np.ndarray, predicted: np.ndarray) -> LabelSlice:
    true, own = labels[group.members], predicted[group.members]
    return LabelSlice(
        group.by, group.value, len(true), bootstrap_micro_f1(true, own), count_labels(true, own).micro_f1()
    )
