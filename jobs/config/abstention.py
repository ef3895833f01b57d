"""Abstention: thresholds of scores that a checkpoint stores, and the rule that applies one of them to texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from cluster import UsageError

if TYPE_CHECKING:
    import numpy as np

Objective = Literal["retention", "precision", "balanced"]
"""Aim of a threshold: the share of texts that keep a label, the share of correct labels among them, or the mean of the
shares of right decisions on texts and on out-of-scope texts."""
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
DEFAULT_OBJECTIVE: Objective = "retention"
OUT_OF_SCOPE = "out_of_scope"
"""Label of the class of out-of-scope texts. The name is reserved only if `data.out_of_scope` is set."""


class StoredThresholds(TypedDict, total=False):
    """Value `abstention` of the metrics of a checkpoint.

    thresholds: by objective, None where the rows cannot show the objective. rows, out_of_scope_rows: numbers of rows
    that they were selected on. out_of_scope: index of the class of out-of-scope texts. balanced_accuracy: of the
    threshold `balanced`, share of right decisions; auroc: area under the ROC curve of scores in and out of scope.
    """

    thresholds: dict[Objective, float | None]
    rows: int
    out_of_scope: int
    out_of_scope_rows: int
    balanced_accuracy: float
    auroc: float


class MissingThreshold(UsageError):
    """A checkpoint has no threshold for an objective of abstention."""


def select_classes(probabilities: "np.ndarray", out_of_scope: int | None) -> "tuple[np.ndarray, np.ndarray]":
    """Return the best class in scope of each text, `(texts,)` int64, and its probability.

    Args:
        probabilities: `(texts, classes)`.
        out_of_scope: index of the class of out-of-scope texts; None if there is none.
    """
    if out_of_scope is not None:
        probabilities = probabilities.copy()
        probabilities[:, out_of_scope] = -1
    return probabilities.argmax(axis=1), probabilities.max(axis=1)


@dataclass(frozen=True)
class AbstentionRule:
    """A text has the best class in scope, or none if its probability is below the threshold.

    out_of_scope: index of the class of out-of-scope texts; None if there is none.
    """

    threshold: float
    out_of_scope: int | None = None

    def apply(self, probabilities: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        """Return the class of each text, -1 for none, and the score of its best class in scope, `(texts,)` each.

        Args:
            probabilities: `(texts, classes)`.
        """
        best, scores = select_classes(probabilities, self.out_of_scope)
        best[~(scores >= self.threshold)] = -1  # also a score that is not a number
        return best, scores


def find_rule(metrics: Mapping[str, Any], objective: Objective) -> AbstentionRule | None:
    """Return the rule for an objective in the metrics of a checkpoint; None if they have no threshold for it."""
    abstention = metrics.get("abstention", {})
    threshold = abstention.get("thresholds", {}).get(objective)
    return None if threshold is None else AbstentionRule(threshold, abstention.get("out_of_scope"))


def require_rule(metrics: Mapping[str, Any], objective: Objective) -> AbstentionRule:
    """Return the rule for an objective in the metrics of a checkpoint.

    Raises:
        MissingThreshold: they have none for it, or there is no such objective.
    """
    if objective not in OBJECTIVES:
        raise MissingThreshold(f"{objective!r} is no objective of abstention; name one of {', '.join(OBJECTIVES)}")
    rule = find_rule(metrics, objective)
    if rule is None:
        raise MissingThreshold(f"the checkpoint {_describe_missing_threshold(metrics, objective)}")
    return rule


def _describe_missing_threshold(metrics: Mapping[str, Any], objective: Objective) -> str:
    """Return why the metrics of a checkpoint have no threshold for an objective."""
    abstention = metrics.get("abstention", {})
    if "label_thresholds" in metrics:
        return "has several labels per text, of which a text gets none if no score reaches its threshold"
    if "thresholds" not in abstention:
        return (
            "has no thresholds of abstention: it was trained by an earlier version, or without validation rows; "
            "train it again"
        )
    if objective == "precision" and "rows" in abstention:
        return (
            f"has no threshold for '{objective}': its {abstention['rows']} validation rows do not show that any "
            "reaches train.abstention_precision; lower that, or add validation rows"
        )
    return f"has no threshold for '{objective}'" + ("; train with data.out_of_scope" if objective == "balanced" else "")


def validate_abstention(abstention: Any, num_classes: int | None = None) -> None:
    """Raise a ValueError unless a value of a checkpoint's metrics has thresholds as `find_rule` reads them.

    Args:
        num_classes: of the checkpoint; None if it is not known.
    """
    if not isinstance(abstention, dict) or not isinstance(abstention.get("thresholds"), dict):
        raise ValueError("it has no thresholds")
    for threshold in abstention["thresholds"].values():
        # A NaN fails the comparison.
        if threshold is not None and not (type(threshold) in (int, float) and 0 <= threshold <= 1):
            raise ValueError(f"the threshold {str(threshold)[:50]} is not between 0 and 1")
    if (index := abstention.get("out_of_scope")) is None:
        return
    # Another class is left for the texts in scope.
    if type(index) is not int or not 0 <= index < (num_classes or index + 2) or num_classes == 1:
        raise ValueError(f"the class {str(index)[:50]} does not exist")
