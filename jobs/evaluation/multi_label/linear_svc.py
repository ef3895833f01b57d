"""Baseline of several labels per text: a linear SVC for each label over TF-IDF, trained on the same rows."""

import logging
from collections.abc import Sequence

import numpy as np

from cluster.console.progress import ReportShare, ignore_share
from jobs.config.label_thresholds import ThresholdObjective
from jobs.config.settings import TextSettings
from jobs.datasets.dataset import Dataset
from jobs.datasets.label_sets import encode_label_sets
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.evaluation.baselines import MANY_ROWS, SVC_NAME, list_terms
from jobs.evaluation.multi_label.baselines import LabelScores
from jobs.evaluation.multi_label.metrics import sigmoid
from jobs.evaluation.multi_label.thresholds import GRID, choose_global_threshold, choose_thresholds, count_scores

logger = logging.getLogger(__name__)

# Thresholds are chosen on the grid of probabilities, which the margins from -1.5 to 1.5 are mapped to.
SCALE = 3.0


def score_with_svcs(
    dataset: Dataset,
    labels: Sequence[str],
    test_tokens: Sequence[Sequence[str]],
    settings: TextSettings,
    report: ReportShare = ignore_share,
    *,
    objective: ThresholdObjective = "micro_f1",
) -> LabelScores:
    """Return scores of texts between 0 and 1, with the threshold that decides on a label.

    As scikit-learn's `OneVsRestClassifier(LinearSVC())` over words and pairs of words. The threshold, one for all
    labels, has the highest micro F1 on the validation rows; for a precision there are thresholds of each label that
    reach it, as those of a checkpoint. Without such rows the threshold is the hyperplane.

    Args:
        dataset: its training part is trained on. labels: of the scores. settings: of the tokenizer.
        report: called with the share of the labels that are trained, from 0 to 1.
        objective: of the checkpoint's thresholds.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    if len(dataset.train) > MANY_ROWS:
        logger.info(f"training {SVC_NAME} for each label on {len(dataset.train):,} rows; --no-baseline leaves it out")
    tokens = tokenize_texts(dataset.train.texts, settings)
    vectorizer = TfidfVectorizer(analyzer=list_terms)
    features = vectorizer.fit_transform(tokens)
    targets = encode_label_sets(dataset.train.label_sets or [], labels)
    parts = [test_tokens, tokenize_texts(dataset.validation.texts, settings)]
    held_out = [vectorizer.transform(part) if part else None for part in parts]
    margins = [np.zeros((len(part), len(labels))) for part in parts]
    for label in range(len(labels)):
        report(label / len(labels))
        column = targets[:, label]
        model = LinearSVC(random_state=0).fit(features, column) if 0 < column.sum() < len(column) else None
        for part, own in zip(margins, held_out, strict=True):
            if own is not None:
                part[:, label] = model.decision_function(own) if model else (1 if column.any() else -1)
    test, validation = (sigmoid(SCALE * part) for part in margins)
    if not len(validation):
        return LabelScores(test, 0.5)
    targets = encode_label_sets(dataset.validation.label_sets or [], labels)
    if isinstance(objective, float):
        return LabelScores(test, choose_thresholds(validation, targets, objective))
    return LabelScores(test, float(GRID[choose_global_threshold(count_scores(validation, targets), "micro_f1")]))
