"""Check of the labels: rows whose label disagrees with the predictions of a model that was not trained on them.

The model is logistic regression over TF-IDF of words and pairs of words. benchmarks/label_noise.py compares it with
the network. With several labels per text there is a model for each label, and a row may lack a label as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cluster import choose_form
from cluster.console.progress import ReportShare, ignore_share
from jobs.data_checks.classes import FEW_ROWS
from jobs.data_checks.confident_learning import LabelErrors, find_label_errors
from jobs.data_checks.findings import Finding, FindingRow, Severity
from jobs.data_checks.rows import TEST, Rows
from jobs.datasets.label_sets import encode_label_sets
from jobs.evaluation.baselines import list_terms

LABELS = "suspicious labels"  # name of the finding
NUM_FOLDS = 5
MIN_AGREEMENT = 0.8  # share of the labels that the model predicts, for a finding of high severity
# Share of a label's rows that its model, one of several, finds at least; otherwise it judges no row. Of 4,000 rows of
# debtags, 200 of which had a label added or removed, the first 100 suspicious rows had 13 to 23 of these (three seeds);
# without a limit 9 (one seed), and 3,200 instead of 1,100 rows were suspicious.
MIN_RECALL = 0.3
EPOCHS = 10
MANY_ROWS = 1000  # of so many, words and pairs that occur in one row only are left out, to save memory


def check_labels(rows: Rows, first: np.ndarray, seed: int, report: ReportShare = ignore_share) -> list[Finding]:
    """Return a finding with the rows whose label is likely wrong, the worst first; none without such rows.

    Rows of the test part are neither checked nor used. Classes with few rows, or with copies of one text only,
    are left out.

    Args:
        first: as of `find_first_copies`.
        report: called with the share of the models that are trained, from 0 to 1.
    """
    labels = rows.label_indices()
    is_used = (rows.part != TEST) & np.array([bool(tokens) for tokens in rows.tokens])
    if rows.is_multi_label:
        return _check_label_sets(rows, np.flatnonzero(is_used), labels, first, seed, report)
    sizes = np.bincount(labels[is_used], minlength=len(rows.classes))
    members = np.flatnonzero(is_used & (sizes[labels] >= FEW_ROWS))
    folds = assign_folds(labels[members], first[members], seed)
    num_folds = np.bincount(np.unique(labels[members] * NUM_FOLDS + folds) // NUM_FOLDS, minlength=len(rows.classes))
    is_known = num_folds[labels[members]] > 1  # by a model of the other folds
    members, folds = members[is_known], folds[is_known]
    classes, compact = np.unique(labels[members], return_inverse=True)
    if len(classes) < 2:
        return []
    features = vectorize_terms([rows.tokens[index] for index in members])
    if features is None:
        return [_describe_unchecked(len(members))]
    probabilities = predict_held_out(features, compact, folds, seed, report)
    errors = find_label_errors(probabilities, compact)
    if not errors.num_suspicious:
        return []
    agreement = float((probabilities.argmax(axis=1) == compact).mean())
    subject = f"{errors.num_suspicious:,} of {len(members):,} labels"
    subject += choose_form(errors.num_suspicious, " is", " are")
    listed = _list_rows(rows, errors, members, classes)
    return [_make_finding(subject, agreement, f"It agrees with {agreement:.0%} of all labels", listed)]


def _make_finding(subject: str, agreement: float, quality: str, rows: Sequence[FindingRow]) -> Finding:
    """Return the finding; quality: text on how well the model agrees with all labels, from 0 to 1."""
    is_reliable = agreement >= MIN_AGREEMENT
    them = choose_form(len(rows), "it", "them")
    message = f"{subject} suspicious: a model that was not trained on these rows finds {them} unlikely. {quality}; " + (
        "check the first rows" if is_reliable else "with so few, most of the suspicious ones may be right"
    )
    return Finding(LABELS, Severity.HIGH if is_reliable else Severity.MEDIUM, message, rows)


def _describe_unchecked(num_rows: int) -> Finding:
    """Return the finding on labels that no model can check, since no word is in two rows."""
    message = f"not checked, since no word is in two of {num_rows:,} rows; is data.text_column the column of the texts?"
    return Finding(LABELS, Severity.HIGH, message)


def _check_label_sets(
    rows: Rows, members: np.ndarray, groups: np.ndarray, first: np.ndarray, seed: int, report: ReportShare
) -> list[Finding]:
    """As `check_labels`, of rows that may have several labels.

    Args:
        members: indices of the rows that are checked. groups: as of `label_indices`, of all rows.
    """
    sets = rows.label_sets()
    targets = encode_label_sets([sets[index] for index in members], rows.classes)  # (rows, labels)
    sizes = targets.sum(axis=0, dtype=np.int64)
    checked = np.flatnonzero((sizes >= FEW_ROWS) & (len(members) - sizes >= FEW_ROWS))
    if not len(checked):
        return []
    features = vectorize_terms([rows.tokens[index] for index in members])
    if features is None:
        return [_describe_unchecked(len(members))]
    folds = assign_folds(groups[members], first[members], seed)
    correct = predicted = actual = 0
    suspicious: dict[int, list[tuple[float, int]]] = {}  # probability and number of the labels, by row
    for number, label in enumerate(checked.tolist()):
        report(number / len(checked))
        own = targets[:, label].astype(np.int64)
        if any(len(np.unique(folds[own == value])) < 2 for value in (0, 1)):  # a model would know only one of both
            continue
        probabilities = predict_held_out(features, own, folds, seed)
        is_predicted = probabilities[:, 1] > 0.5
        num_found = int(own[is_predicted].sum())
        correct += num_found
        predicted += int(is_predicted.sum())
        actual += int(own.sum())
        if num_found < MIN_RECALL * own.sum():
            continue
        errors = find_label_errors(probabilities, own)
        order = errors.order[: errors.num_suspicious]
        for row in order[is_predicted[order] != own[order]].tolist():
            suspicious.setdefault(row, []).append((float(errors.confidence[row]), label))
    if not suspicious:
        return []
    f1 = 2 * correct / (predicted + actual)
    listed = []
    for row, pairs in sorted(suspicious.items(), key=lambda item: min(item[1])):
        row_labels = set(sets[members[row]])
        named = [(rows.classes[label], probability) for probability, label in sorted(pairs)]
        notes = [
            f"'{name}' has a probability of {probability:.1%}"
            if name in row_labels
            else f"'{name}' is missing, and has a probability of {1 - probability:.1%}"
            for name, probability in named
        ]
        names = [name for name, _ in named]
        suggested = ", ".join(sorted(row_labels.symmetric_difference(names)))
        listed.append(FindingRow(int(members[row]), "; ".join(notes), suggested, 1 - min(pairs)[0], names))
    subject = f"labels of {len(listed):,} of {len(members):,} rows are"
    return [_make_finding(subject, f1, f"Its micro F1 on all labels is {f1:.0%}", listed)]


def _list_rows(rows: Rows, errors: LabelErrors, members: np.ndarray, classes: np.ndarray) -> list[FindingRow]:
    return [
        FindingRow(
            index=int(members[number]),
            note=f"probability of the label {errors.confidence[number]:.1%}",
            suggested=rows.classes[classes[errors.suggested[number]]],
            score=1 - float(errors.confidence[number]),
            labels=[rows.labels[members[number]]],
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


def vectorize_terms(tokens: Sequence[Sequence[str]]) -> Any | None:
    """Return the TF-IDF of texts, a sparse matrix `(texts, terms)`; None if they are many, and no word is in two."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    min_count = 2 if len(tokens) >= MANY_ROWS else 1
    vectorizer = TfidfVectorizer(analyzer=list_terms, sublinear_tf=True, dtype=np.float32, min_df=min_count)
    try:
        return vectorizer.fit_transform(tokens)
    except ValueError:
        if min_count == 1:
            raise
        return None  # no term remains


def predict_held_out(
    features: Any, labels: np.ndarray, folds: np.ndarray, seed: int, report: ReportShare = ignore_share
) -> np.ndarray:
    """Return the probabilities of the classes, `(rows, classes)`, each fold's of a model of the other folds.

    Args:
        labels: `(rows,)` int64, from 0 without gaps. folds: as of `assign_folds`.
    """
    from sklearn.linear_model import SGDClassifier

    probabilities = np.zeros((len(labels), int(labels.max()) + 1))
    for fold in range(NUM_FOLDS):
        report(fold / NUM_FOLDS)
        rows, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(held_out) and len(np.unique(labels[rows])) > 1:
            model = SGDClassifier(loss="log_loss", max_iter=EPOCHS, tol=None, random_state=seed)
            model.fit(features[rows], labels[rows])
            probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
    return probabilities
