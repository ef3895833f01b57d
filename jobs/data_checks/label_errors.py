"""Check of the labels: rows whose label disagrees with the predictions of a model that was not trained on them.

The model is logistic regression over TF-IDF of words and pairs of words. benchmarks/label_noise.py compares it with
the network.
"""

from collections.abc import Sequence

import numpy as np

from jobs.data_checks.classes import FEW_ROWS
from jobs.data_checks.confident_learning import LabelErrors, find_label_errors
from jobs.data_checks.findings import Finding, FindingRow, Severity
from jobs.data_checks.rows import TEST, Rows
from jobs.evaluation.baselines import list_terms

LABELS = "suspicious labels"  # name of the finding
NUM_FOLDS = 5
MIN_AGREEMENT = 0.8  # share of the labels that the model predicts, for a finding of high severity
EPOCHS = 10
MANY_ROWS = 1000  # of so many, words and pairs that occur in one row only are left out, to save memory


def check_labels(rows: Rows, first: np.ndarray, seed: int) -> list[Finding]:
    """Return a finding with the rows whose label is likely wrong, the worst first; none without such rows.

    Rows of the test part are neither checked nor used. Classes with few rows are left out, and all rows if
    they may have several labels.

    Args:
        first: as of `find_first_copies`.
    """
    if rows.is_multi_label:  # confident learning compares classes of which a row has one
        return []
    labels = rows.label_indices()
    is_used = (rows.part != TEST) & np.array([bool(tokens) for tokens in rows.tokens])
    sizes = np.bincount(labels[is_used], minlength=len(rows.classes))
    members = np.flatnonzero(is_used & (sizes[labels] >= FEW_ROWS))
    classes, compact = np.unique(labels[members], return_inverse=True)
    if len(classes) < 2:
        return []
    tokens = [rows.tokens[index] for index in members]
    probabilities = predict_out_of_fold(tokens, compact, first[members], seed)
    errors = find_label_errors(probabilities, compact)
    if not errors.num_suspicious:
        return []
    agreement = float((probabilities.argmax(axis=1) == compact).mean())
    is_reliable = agreement >= MIN_AGREEMENT
    message = (
        f"{errors.num_suspicious:,} of {len(members):,} labels are suspicious: a model that was not trained on these "
        f"rows finds them unlikely. It agrees with {agreement:.0%} of all labels; "
        + ("check the first rows" if is_reliable else "with so few, most of the suspicious ones may be right")
    )
    severity = Severity.HIGH if is_reliable else Severity.MEDIUM
    return [Finding(LABELS, severity, message, _list_rows(rows, errors, members, classes))]


def _list_rows(rows: Rows, errors: LabelErrors, members: np.ndarray, classes: np.ndarray) -> list[FindingRow]:
    return [
        FindingRow(
            index=int(members[number]),
            note=f"probability of the label {errors.confidence[number]:.1%}",
            suggested=rows.classes[classes[errors.suggested[number]]],
            score=1 - float(errors.confidence[number]),
        )
        for number in errors.order[: errors.num_suspicious]
    ]


def assign_folds(labels: np.ndarray, groups: np.ndarray, seed: int, num_folds: int = NUM_FOLDS) -> np.ndarray:
    """Return the fold of each row, `(rows,)` int64: each class is divided evenly, rows of a group are in one fold.

    Args:
        groups: `(rows,)` int64, such as that of identical texts, whose wrong labels would confirm each other.
    """
    values, leaders, inverse = np.unique(groups, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(values))
    order = shuffled[np.argsort(labels[leaders[shuffled]], kind="stable")]
    folds = np.empty(len(values), np.int64)
    folds[order] = np.arange(len(values)) % num_folds
    return folds[inverse]


def predict_out_of_fold(
    tokens: Sequence[Sequence[str]], labels: np.ndarray, groups: np.ndarray, seed: int
) -> np.ndarray:
    """Return the probabilities of the classes, `(rows, classes)`, of models that were not trained on the row.

    Args:
        tokens: of each text. labels: `(rows,)` int64, from 0 without gaps. groups, seed: as of `assign_folds`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    min_count = 2 if len(tokens) >= MANY_ROWS else 1
    vectorizer = TfidfVectorizer(analyzer=list_terms, sublinear_tf=True, dtype=np.float32, min_df=min_count)
    features = vectorizer.fit_transform(tokens)
    folds = assign_folds(labels, groups, seed)
    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    for fold in range(NUM_FOLDS):
        rows, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(held_out) and len(np.unique(labels[rows])) > 1:
            model = SGDClassifier(loss="log_loss", max_iter=EPOCHS, tol=None, random_state=seed)
            model.fit(features[rows], labels[rows])
            probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
    return probabilities
