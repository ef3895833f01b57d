"""Out-of-scope texts in an evaluation: texts that belong to no class, compared with the measured rows, which are in
scope.

The score of a text is the probability of its best class (maximum softmax probability, Hendrycks & Gimpel 2017). With
the checkpoint's threshold for retention, a text with a lower score has no label.
"""

from dataclasses import dataclass

import numpy as np

from jobs.config.abstention import DEFAULT_OBJECTIVE, OUT_OF_SCOPE, MissingThreshold, require_rule
from jobs.datasets.readers import DataError, Split
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.datasets.tokenizer import encode
from jobs.evaluation.abstention import compute_auroc
from jobs.evaluation.metrics import NUM_RESAMPLES, Interval, percentile_interval, share_interval
from jobs.evaluation.seen_texts import find_seen_texts
from jobs.model.checkpoint import Checkpoint, load_train_texts


@dataclass(frozen=True)
class OutOfScope:
    """Abstention on rows in scope and on out-of-scope texts, with 95 % confidence intervals.

    source, rows: name and number of the out-of-scope texts. threshold: of the checkpoint, for retention. auroc: share
    of the pairs of a row in scope and an out-of-scope text in which the row has the higher score. recall: share of the
    out-of-scope texts without a label. answered: share of the rows in scope with a label. answered_accuracy: share of
    correct labels among these; None if there are none. seen_texts: number of the texts with the same words as a
    training text, None if that is not known.
    """

    source: str
    rows: int
    threshold: float
    auroc: float
    auroc_interval: Interval
    recall: float
    recall_interval: Interval
    answered: float
    answered_interval: Interval
    answered_accuracy: float | None
    answered_accuracy_interval: Interval
    seen_texts: int | None

    def to_rows(self) -> list[dict[str, str]]:
        """Return the values as rows of a table."""
        values: dict[str, tuple[float | None, Interval]] = {
            "AUROC of the score": (self.auroc, self.auroc_interval),
            "out-of-scope texts without a label": (self.recall, self.recall_interval),
            "rows in scope with a label": (self.answered, self.answered_interval),
            "accuracy on these": (self.answered_accuracy, self.answered_accuracy_interval),
        }
        return [
            {
                "out of scope": name,
                "value": "-" if value is None else f"{value:.4f}",
                "95% confidence": "{:.4f} to {:.4f}".format(*interval),
            }
            for name, (value, interval) in values.items()
        ]

    def describe(self) -> str:
        """Return what the values are of, as sentences."""
        return (
            f"The measured rows are in scope; the {self.rows:,} texts of {self.source} are not. A text has no label if "
            f"its score is below {self.threshold:.4f}, the checkpoint's threshold for '{DEFAULT_OBJECTIVE}'. AUROC is "
            "the share of the pairs of both in which the row in scope has the higher score. Its interval is a "
            "bootstrap of the rows and the texts, the others are Wilson's."
            + (f" {self.seen_texts:,} of the texts have the same words as a training text." if self.seen_texts else "")
        )


def check_threshold(checkpoint: Checkpoint) -> None:
    """Raise a MissingThreshold if a checkpoint has no threshold for retention, with which the texts are measured."""
    try:
        require_rule(checkpoint.metrics, DEFAULT_OBJECTIVE)
    except MissingThreshold as error:
        raise MissingThreshold(f"{checkpoint.path}: --out-of-scope: {error}") from error


def measure_out_of_scope(
    checkpoint: Checkpoint, labels: np.ndarray, probabilities: np.ndarray, texts: Split, other_probabilities: np.ndarray
) -> OutOfScope:
    """Return the abstention on rows in scope and on out-of-scope texts.

    Args:
        labels, probabilities: of the measured rows, class indices `(rows,)` and `(rows, classes)`. Rows of the class of
            out-of-scope texts are left out.
        texts, other_probabilities: out-of-scope texts, and their probabilities `(texts, classes)`.

    Raises:
        MissingThreshold: the checkpoint has no threshold for retention.
        DataError: no measured row is in scope.
    """
    rule = require_rule(checkpoint.metrics, DEFAULT_OBJECTIVE)
    if rule.out_of_scope is not None:
        in_scope = labels != rule.out_of_scope
        labels, probabilities = labels[in_scope], probabilities[in_scope]
        if not len(labels):
            raise DataError(f"all rows to compare {texts.path} with have the label '{OUT_OF_SCOPE}' themselves")
    (classes, scores), (other_classes, others) = rule.apply(probabilities), rule.apply(other_probabilities)
    num_answered, num_correct = int((classes >= 0).sum()), int((classes == labels).sum())
    num_rejected = int((other_classes < 0).sum())
    return OutOfScope(
        source=texts.path,
        rows=len(texts),
        threshold=rule.threshold,
        auroc=compute_auroc(scores, others),
        auroc_interval=bootstrap_auroc(scores, others),
        recall=num_rejected / len(texts),
        recall_interval=share_interval(num_rejected, len(texts)),
        answered=num_answered / len(labels),
        answered_interval=share_interval(num_answered, len(labels)),
        answered_accuracy=num_correct / num_answered if num_answered else None,
        answered_accuracy_interval=share_interval(num_correct, num_answered),
        seen_texts=_count_seen_texts(checkpoint, texts),
    )


def _count_seen_texts(checkpoint: Checkpoint, texts: Split) -> int | None:
    digests, settings = load_train_texts(checkpoint.path), checkpoint.experiment.text
    if digests is None:
        return None
    tokens = encode(tokenize_texts(texts.texts, settings), checkpoint.vocabulary, settings.max_tokens)
    return int(find_seen_texts(tokens, digests).sum())


def bootstrap_auroc(scores: np.ndarray, out_of_scope: np.ndarray, seed: int = 0) -> Interval:
    """Return the 95 % confidence interval of the AUROC: percentiles of resampled rows (bootstrap, Efron 1979).

    To the rows of each kind one with a score above all and one with a score below all are added, so that rows that are
    all in the right order do not make the value certain, the less so the fewer they are. These move the AUROC towards
    0.5, so the interval is moved back by the difference of the mean to that of the rows.

    Args:
        scores, out_of_scope: of the rows in scope and of out-of-scope texts, `(rows,)` and `(texts,)`.
    """
    inside, outside = (np.sort(np.append(values, [-np.inf, np.inf])) for values in (scores, out_of_scope))
    left, right = (np.searchsorted(inside, outside, side) for side in ("left", "right"))
    random, values = np.random.default_rng(seed), np.empty(NUM_RESAMPLES)
    for index in range(NUM_RESAMPLES):
        drawn = np.bincount(random.integers(len(inside), size=len(scores)), minlength=len(inside))
        lower = np.append(0, drawn.cumsum())  # number of drawn rows below each row
        shares = 1 - (lower[left] + lower[right]) / (2 * len(scores))  # of the drawn rows, above each text
        values[index] = shares[random.integers(len(outside), size=len(out_of_scope))].mean()
    estimate = compute_auroc(scores, out_of_scope)
    low, high = percentile_interval(values - values.mean() + estimate, estimate)
    return max(0.0, low), high
