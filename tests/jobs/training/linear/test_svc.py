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

from jobs.config.class_weights import ClassWeights
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.tokenizer import PADDING, UNKNOWN, Tokens, tokenize
from jobs.model.batches import Collator
from jobs.model.linear.classifier import LinearClassifier
from jobs.model.linear.tensors import BIAS, PAIRS, WEIGHT
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus
from jobs.training.linear import svc
from jobs.training.linear.preparation import prepare_linear_classifier
from jobs.training.linear.svc import MAX_CACHED, find_pairs, sample_rows, train_linear_classifier
from jobs.training.loop import create_loop
from tests.support.label_sets import make_label_set_rows, write_label_sets
from tests.support.toy_data import make_toy_rows


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


def create_linear_classifier(experiment: Experiment, corpus: Corpus) -> LinearClassifier:
    loop = create_loop(experiment, corpus)
    prepare_linear_classifier(loop)
    assert loop.network.linear is not None
    return loop.network.linear


def score(path: LinearClassifier, corpus: Corpus) -> np.ndarray:
    collator = Collator(corpus.validation.tokens, len(corpus.vectors))
    return path(collator.collate(np.arange(len(corpus.validation)))).numpy()


def make_inputs(experiment: Experiment) -> tuple[Corpus, list[str], list[str]]:
    """Return the corpus, the training texts and the validation texts."""
    dataset = load_dataset(experiment)
    corpus = build_corpus(experiment, dataset, use_pretrained=False)
    return corpus, list(dataset.train.texts), list(dataset.validation.texts)


@pytest.mark.parametrize(
    ("weights", "of_svc"), [(None, "balanced"), ("balanced", None), ({"good": 1.0, "bad": 5.0},) * 2]
)
def test_scores_of_classes_are_those_of_sklearn(
    make_experiment: Callable[..., Experiment], tmp_path: Path, weights: ClassWeights, of_svc: ClassWeights
) -> None:
    """Two classes of different sizes have opposite scores, and are balanced if those of the network are not."""
    rows = [row for index, row in enumerate(make_toy_rows(240)) if index % 4 != 1]  # twice as many good ones as bad
    data = tmp_path / "sizes.tsv"
    data.write_text("label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows))
    experiment = make_experiment(model__linear="words-and-pairs", train__class_weights=weights, data__train=str(data))
    corpus, train, validation = make_inputs(experiment)
    path = create_linear_classifier(experiment, corpus)
    assert 0 < len(path.pairs) < 500
    expected = score_with_sklearn(
        experiment, train, corpus.train.labels, validation, sample_weight=corpus.row_weights(of_svc)
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
    content = "label\ttext\n" + "".join(f"{label}\t{text}\n" for label, text in rows)
    (tmp_path / "words.csv").write_text(content)
    experiment = make_experiment(model__linear="words-and-pairs", data__train=str(tmp_path / "words.csv"))
    corpus, _, _ = make_inputs(experiment)
    assert train_linear_classifier(corpus, None)[PAIRS].shape == (0, 2)
    linear = create_linear_classifier(experiment, corpus)
    np.testing.assert_array_equal(score(linear, corpus).argmax(axis=1), corpus.validation.labels)
    corpus.train.labels[:] = 1
    corpus = replace(corpus)  # without the cache
    linear = create_linear_classifier(experiment, corpus)
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


def test_only_the_classes_with_weights_are_balanced(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """To balance a class whose rows weigh nothing is an error only if the settings ask for it."""
    (tmp_path / "weights.csv").write_text("label,text,weight\n" + "a,one,1\nb,two,1\nc,three,0\n" * 8)
    experiment = make_experiment(
        model__linear="words-and-pairs", data__train=str(tmp_path / "weights.csv"), data__weight_column="weight"
    )
    corpus, _, _ = make_inputs(experiment)
    linear = create_linear_classifier(experiment, corpus)
    assert linear.bias[2] == -1


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
    collator = Collator(corpus.validation.tokens, len(corpus.vectors))
    single = [linear(collator.collate(np.array([row]))) for row in range(len(corpus.validation))]
    np.testing.assert_allclose(torch.cat(single).numpy(), score(linear, corpus), atol=1e-6)


def test_it_is_trained_once_for_each_weights_of_the_classes(make_experiment: Callable[..., Experiment]) -> None:
    """So trials of a search with the same corpus train it once; the cache is limited, and other rows have none."""
    corpus, _, _ = make_inputs(make_experiment())
    first, weighted = train_linear_classifier(corpus, None), train_linear_classifier(corpus, {"bad": 5.0})
    assert not np.array_equal(weighted[WEIGHT], first[WEIGHT])
    assert train_linear_classifier(corpus, None) is first
    for factor in range(MAX_CACHED):
        train_linear_classifier(corpus, {"good": 2.0 + factor})
    assert len(corpus.linear) == MAX_CACHED
    assert train_linear_classifier(corpus, None) is not first
    assert not replace(corpus, train=corpus.validation).linear


def test_pairs_are_of_two_words_that_a_text_has_next_to_each_other() -> None:
    """Twice or more; texts at both ends and in the middle may be empty."""
    texts: list[list[int]] = [[], [2, 3, 2], [3, 2], [], [2, 3, UNKNOWN, 4, UNKNOWN], [PADDING], [4, 5], [4, 5, 4, 5]]
    texts.append([])
    offsets = np.cumsum([0, *map(len, texts)])
    pairs = find_pairs(Tokens(np.array([word for text in texts for word in text], np.int32), offsets))
    assert [divmod(key, 1 << 32) for key in pairs.tolist()] == [(2, 3), (3, 2), (4, 5)]
    for ids in ([], [2], [2, 3]):
        assert not len(find_pairs(Tokens(np.array(ids, np.int32), np.array([0, 0, len(ids)]))))


def test_a_large_corpus_is_sampled(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is that of a corpus with only these rows. With many classes the sample is smaller."""
    corpus, _, _ = make_inputs(make_experiment())
    part, tokens = corpus.train, corpus.train.tokens
    assert sample_rows(part, len(tokens.ids), 2) == slice(None)
    monkeypatch.setattr(svc, "MAX_TOKENS", len(tokens.ids) // 2)
    monkeypatch.setattr(svc, "MIN_CLASS_ROWS", 1)
    rows = sample_rows(part, len(tokens.ids), 2)
    assert len(rows) == len(tokens) // 2
    assert (np.diff(rows) > 0).all()
    assert len(sample_rows(part, len(tokens.ids), 20)) == len(tokens) // 4
    with caplog.at_level("INFO"):
        sampled = train_linear_classifier(corpus, None)
    assert f"on {len(rows)} of {len(tokens)} rows" in caplog.text
    monkeypatch.undo()
    smaller = replace(part, tokens=tokens.select(rows), labels=part.labels[rows])
    expected = train_linear_classifier(replace(corpus, train=smaller), None)
    for name, value in expected.items():
        np.testing.assert_array_equal(sampled[name], value)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_sample_has_rows_of_every_class_and_none_of_weight_0(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, multi_label: bool
) -> None:
    corpus, _, _ = make_inputs(make_experiment())
    labels = np.zeros(len(corpus.train), np.int64)
    labels[[5, 50]], labels[60] = 1, 2
    weights = np.ones(len(labels), np.float32)
    weights[::2] = 0
    weights[50], weights[60] = 1, 1
    part = replace(corpus.train, labels=np.eye(3, dtype=np.uint8)[labels] if multi_label else labels, weights=weights)
    monkeypatch.setattr(svc, "MAX_TOKENS", len(part.tokens.ids) // 10)
    rows = sample_rows(part, len(part.tokens.ids), 3)
    assert {5, 50, 60} <= set(rows)
    assert (weights[rows] > 0).all()
    assert len(rows) < len(labels) // 4
