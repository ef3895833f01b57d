"""Training of the linear classifier: its scores are those of scikit-learn's pipeline."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.svm import LinearSVC

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.tokenizer import tokenize
from jobs.model.batches import Collator
from jobs.model.linear.classifier import LinearClassifier
from jobs.model.linear.tensors import BIAS, PAIRS, WEIGHT
from jobs.training.corpus import Corpus, build_corpus
from jobs.training.linear.svc import create_linear_classifier, train_linear_classifier
from tests.support.label_sets import make_label_set_rows, write_label_sets


def list_terms(text: str) -> list[str]:
    tokens = tokenize(text)
    return [*tokens, *map(" ".join, pairwise(tokens))]


def score_with_sklearn(
    experiment: Experiment, train: Sequence[str], labels: np.ndarray, texts: Sequence[str], **options: object
) -> np.ndarray:
    """Return the scores of LinearSVC over the TF-IDF of words, and of pairs that occur twice."""
    counter = CountVectorizer(analyzer=list_terms)
    counts = counter.fit_transform(train)
    terms = np.array(counter.get_feature_names_out())
    is_used = np.array([" " not in term for term in terms]) | (np.asarray(counts.sum(axis=0)).ravel() >= 2)
    idf = np.log((1 + len(train)) / (1 + np.asarray((counts > 0).sum(axis=0)).ravel())) + 1

    def weight(matrix: object) -> np.ndarray:
        dense = np.asarray(matrix.toarray())[:, is_used]  # type: ignore[attr-defined]
        return np.asarray(dense * idf[is_used] / np.sqrt(np.maximum(dense @ idf[is_used] ** 2, 1e-30))[:, None])

    model = LinearSVC(random_state=0).fit(weight(counts), labels, **options)
    return np.asarray(model.decision_function(weight(counter.transform(texts))))


def score(path: LinearClassifier, corpus: Corpus) -> np.ndarray:
    collator = Collator(corpus.validation.tokens, len(corpus.vectors))
    return path(collator.collate(np.arange(len(corpus.validation)))).numpy()


def make_inputs(experiment: Experiment) -> tuple[Corpus, list[str], list[str]]:
    """Return the corpus, the training texts and the validation texts."""
    dataset = load_dataset(experiment)
    corpus = build_corpus(experiment, dataset, use_pretrained=False)
    return corpus, list(dataset.train.texts), list(dataset.validation.texts)


@pytest.mark.parametrize("weights", [None, {"good": 1.0, "bad": 5.0}])
def test_scores_of_classes_are_those_of_sklearn(
    make_experiment: Callable[..., Experiment], weights: dict[str, float] | None
) -> None:
    """Two classes have opposite scores."""
    experiment = make_experiment(model__linear="words-and-pairs", train__class_weights=weights)
    corpus, train, validation = make_inputs(experiment)
    path = create_linear_classifier(experiment, corpus)
    assert path is not None
    assert 0 < len(path.pairs) < 500
    expected = score_with_sklearn(
        experiment, train, corpus.train.labels, validation, sample_weight=corpus.row_weights(weights)
    )
    np.testing.assert_allclose(score(path, corpus), np.stack([-expected, expected], axis=1), atol=2e-3)


def test_scores_of_several_labels_are_those_of_sklearn(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A label of no row has the score -1."""
    path = write_label_sets(tmp_path / "labels.jsonl", make_label_set_rows(150))
    experiment = make_experiment(
        model__linear="words-and-pairs", data__train=str(path), data__multi_label=True, train__class_weights="balanced"
    )
    corpus, train, validation = make_inputs(experiment)
    corpus.train.labels[:, 1] = 0
    linear = create_linear_classifier(experiment, corpus)
    assert linear is not None
    scores, label_weights = score(linear, corpus), corpus.label_weights("balanced")
    assert label_weights is not None
    for label in range(len(corpus.labels)):
        column = corpus.train.labels[:, label]
        expected = np.full(len(validation), -1.0)
        if label != 1:
            weights = np.where(column, label_weights[label], 1.0)
            expected = score_with_sklearn(experiment, train, column, validation, sample_weight=weights)
        np.testing.assert_allclose(scores[:, label], expected, atol=2e-3)


def test_texts_without_pairs_and_a_single_class_are_trained_on(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A text has one word at most. A class that the training rows lack has the score -1."""
    rows = [("good", "fine"), ("bad", ""), ("bad", "awful")] * 10
    content = "label,text\n" + "".join(f"{label},{text}\n" for label, text in rows)
    (tmp_path / "words.csv").write_text(content)
    experiment = make_experiment(model__linear="words-and-pairs", data__train=str(tmp_path / "words.csv"))
    corpus, _, _ = make_inputs(experiment)
    assert train_linear_classifier(corpus, None)[PAIRS].shape == (0, 2)
    linear = create_linear_classifier(experiment, corpus)
    assert linear is not None
    np.testing.assert_array_equal(score(linear, corpus).argmax(axis=1), corpus.validation.labels)
    corpus.train.labels[:] = 1
    linear = create_linear_classifier(experiment, corpus)
    assert linear is not None
    np.testing.assert_array_equal(score(linear, corpus), np.tile([-1, 1], (len(corpus.validation), 1)))


@pytest.mark.parametrize("num_classes", [3, 4])
def test_a_class_whose_rows_weigh_nothing_has_the_lowest_score(
    make_experiment: Callable[..., Experiment], tmp_path: Path, num_classes: int
) -> None:
    rows = [f"class{index},word{index} and\n" for index in range(num_classes)] * 8
    (tmp_path / "classes.csv").write_text("label,text\n" + "".join(rows))
    corpus, _, _ = make_inputs(
        make_experiment(model__linear="words-and-pairs", data__train=str(tmp_path / "classes.csv"))
    )
    weights = np.where(corpus.train.labels == 1, 0.0, 1.0)
    tensors = train_linear_classifier(replace(corpus, train=replace(corpus.train, weights=weights)), None)
    assert tensors[BIAS][1] == -1
    assert not tensors[WEIGHT][:, 1].any()
    assert all(tensors[WEIGHT][:, index].any() for index in range(num_classes) if index != 1)


def test_a_label_whose_rows_weigh_nothing_has_the_lowest_score(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    path = write_label_sets(tmp_path / "labels.jsonl", make_label_set_rows(150))
    experiment = make_experiment(model__linear="words-and-pairs", data__train=str(path), data__multi_label=True)
    corpus, _, _ = make_inputs(experiment)
    weights = np.where(corpus.train.labels[:, 1], 0.0, 1.0)
    tensors = train_linear_classifier(replace(corpus, train=replace(corpus.train, weights=weights)), None)
    assert (tensors[BIAS][1], tensors[WEIGHT][:, 1].any()) == (-1, False)


def test_scores_do_not_depend_on_the_other_texts_of_a_batch(make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment(model__linear="words-and-pairs")
    corpus, _, _ = make_inputs(experiment)
    linear = create_linear_classifier(experiment, corpus)
    assert linear is not None
    collator = Collator(corpus.validation.tokens, len(corpus.vectors))
    single = [linear(collator.collate(np.array([row]))) for row in range(len(corpus.validation))]
    np.testing.assert_allclose(torch.cat(single).numpy(), score(linear, corpus), atol=1e-6)
