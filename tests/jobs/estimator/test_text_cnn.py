"""The scikit-learn estimator: its contract, the same weights as the command's, inputs, errors, saved models."""

import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from cluster import UsageError, resources
from cluster.machine import GpuState
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.embeddings.pretraining import train_word2vec
from jobs.estimator.parameters import read_parameters
from jobs.estimator.text_cnn import TextCNNClassifier
from jobs.training.history import Epoch
from tests.support.loops import train_in_process
from tests.support.toy_data import make_toy_rows, write_word2vec

LABELS, TEXTS = (list(column) for column in zip(*make_toy_rows(120), strict=True))
SMALL: dict[str, Any] = {"embedding": "rand", "feature_maps": 8, "filter_widths": (1, 2), "epochs": 6, "batch_size": 10}


@pytest.fixture(scope="module")
def model() -> TextCNNClassifier:
    return TextCNNClassifier(**SMALL, learning_rate=0.01).fit(TEXTS, LABELS)


def test_the_weights_are_those_of_the_command(make_experiment: Callable[..., Experiment]) -> None:
    """With the same rows and settings, bit for bit."""
    experiment = make_experiment()
    dataset = load_dataset(experiment)
    loop, weights = train_in_process(experiment)
    fitted = TextCNNClassifier(**read_parameters(experiment) | {"vectors": experiment.vectors.path})
    fitted.fit(
        dataset.train.texts, dataset.train.labels, eval_set=(dataset.validation.texts, dataset.validation.labels)
    )
    assert loop.network.linear is not None
    linear = {name: value.numpy() for name, value in loop.network.linear.tensors().items()}
    own, expected = fitted._model.checkpoint.weights, linear | weights[loop.progress.best]
    assert own.keys() == expected.keys()
    assert all(np.array_equal(own[name], expected[name]) for name in expected)


def test_it_learns_and_reports_its_epochs(model: TextCNNClassifier) -> None:
    """And a callback sees each epoch."""
    assert model.score(TEXTS, LABELS) > 0.9
    num_epochs = len(model.epochs_)
    assert [epoch.epoch for epoch in model.epochs_] == [*range(1, num_epochs + 1)]
    assert 1 <= model.best_epoch_ <= num_epochs <= 6
    seen: list[Epoch] = []
    TextCNNClassifier(**SMALL, learning_rate=0.01).fit(TEXTS, LABELS, callbacks=[seen.append])
    assert [epoch.epoch for epoch in seen] == [epoch.epoch for epoch in model.epochs_]


def test_the_seed_decides_the_result() -> None:
    """A generator gives a seed of its own each time."""
    fits = [TextCNNClassifier(**SMALL | {"epochs": 1}, random_state=seed).fit(TEXTS, LABELS) for seed in (1, 1, 2)]
    first, again, other = (fitted.predict_proba(TEXTS[:5]) for fitted in fits)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    generator = TextCNNClassifier(random_state=np.random.RandomState(3))
    assert generator.to_experiment().seed != generator.to_experiment().seed


def test_vectors_of_many_words_are_trained_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several threads train other vectors each time, though not always with few texts."""
    train = Mock(wraps=train_word2vec)
    monkeypatch.setattr("jobs.training.corpora.building.SINGLE_THREAD_WORDS", 1)
    monkeypatch.setattr("jobs.training.corpora.building.count_cpus", lambda: 8)
    monkeypatch.setattr("jobs.training.corpora.building.train_word2vec", train)
    settings = SMALL | {"embedding": "static", "epochs": 1, "settings": {"vectors.dimensions": 8}}
    first, again = (TextCNNClassifier(**settings).fit(TEXTS, LABELS) for _ in range(2))
    own, expected = first._model.checkpoint.weights, again._model.checkpoint.weights
    assert all(np.array_equal(own[name], expected[name]) for name in expected)
    assert [call.args[4] for call in train.call_args_list] == [1, 1]


def test_it_is_a_part_of_pipelines_and_searches() -> None:
    """Parameters are set by name; cross-validation clones the estimator."""
    strip = FunctionTransformer(lambda texts: [text.strip() for text in texts])
    pipeline = make_pipeline(strip, TextCNNClassifier(**SMALL | {"epochs": 1}))
    search = GridSearchCV(pipeline, {"textcnnclassifier__feature_maps": [2, 4]}, cv=2, refit=False)
    search.fit(TEXTS, LABELS)
    assert len(search.cv_results_["mean_test_score"]) == 2
    assert len(cross_val_score(TextCNNClassifier(**SMALL | {"epochs": 1}), TEXTS, LABELS, cv=2)) == 2
    assert clone(TextCNNClassifier(dropout=0.3)).dropout == 0.3


@pytest.mark.slow
def test_a_search_in_several_processes_has_the_same_result() -> None:
    """Processes that import everything anew, as joblib starts them."""
    own, several = (
        GridSearchCV(TextCNNClassifier(**SMALL, verbose=True), {"feature_maps": [2, 4]}, cv=2, n_jobs=n_jobs)
        for n_jobs in (1, 2)
    )
    expected = own.fit(TEXTS, LABELS).cv_results_["mean_test_score"].tolist()
    assert several.fit(TEXTS, LABELS).cv_results_["mean_test_score"].tolist() == expected
    assert np.array_equal(several.predict_proba(TEXTS), own.predict_proba(TEXTS))


@pytest.mark.slow
def test_weights_of_rows_are_those_of_each_fold() -> None:
    """Of cross-validations and searches. Scores are weighted by a search, and with metadata routing."""
    texts, labels, weights = np.array(TEXTS), np.array(LABELS), np.random.default_rng(0).exponential(size=len(TEXTS))
    estimator = TextCNNClassifier(**SMALL | {"epochs": 1})
    folds = list(StratifiedKFold(2).split(texts, labels))
    plain, weighted = [], []
    for train, test in folds:
        model = clone(estimator).fit(texts[train], labels[train], weights[train])
        plain.append(model.score(texts[test], labels[test]))
        weighted.append(model.score(texts[test], labels[test], weights[test]))
    parameters = {"sample_weight": weights}
    assert cross_val_score(estimator, texts, labels, cv=folds, params=parameters).tolist() == plain
    assert cross_val_score(estimator, texts, labels, cv=folds).tolist() != plain != weighted
    with config_context(enable_metadata_routing=True):
        routed = clone(estimator).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        assert cross_val_score(routed, texts, labels, cv=folds, params=parameters).tolist() == weighted
    for model, routing in ((estimator, False), (routed, True)):
        with config_context(enable_metadata_routing=routing):
            search = GridSearchCV(model, {"feature_maps": [8]}, cv=folds, refit=False).fit(texts, labels, **parameters)
        assert search.cv_results_["mean_test_score"].tolist() == [np.mean(weighted)]


@pytest.mark.parametrize(
    "convert",
    [tuple, np.array, pa.array, lambda values: np.array(values, object)],
    ids=["tuple", "numpy", "arrow", "object"],
)
def test_inputs_of_other_types_are_equal_to_lists(convert: Callable[[list[str]], Any]) -> None:
    """Arrow's arrays have elements that are not Python's."""
    settings = SMALL | {"epochs": 1}
    fitted = TextCNNClassifier(**settings).fit(convert(TEXTS), convert(LABELS))
    expected = TextCNNClassifier(**settings).fit(TEXTS, LABELS)
    assert np.array_equal(fitted.predict(convert(TEXTS)), expected.predict(TEXTS))


def test_labels_keep_their_type_and_order() -> None:
    """In a checkpoint labels are texts, and 10 is before 9."""
    numbers = np.array([9 if label == "good" else 10 for label in LABELS])
    fitted = TextCNNClassifier(**SMALL, learning_rate=0.01).fit(TEXTS, numbers)
    assert fitted.classes_.tolist() == [9, 10]
    assert fitted.score(TEXTS, numbers) > 0.9
    predicted = fitted.predict(TEXTS)
    assert np.array_equal(predicted, fitted.classes_[fitted.predict_proba(TEXTS).argmax(axis=1)])
    assert fitted.explain(TEXTS[0], 9).score != fitted.explain(TEXTS[0], 10).score


def test_an_explanation_adds_up_to_the_score(model: TextCNNClassifier) -> None:
    """By default that of the most likely label."""
    explanation = model.explain(TEXTS[0])
    assert explanation.score == pytest.approx(explanation.bias + sum(phrase.share for phrase in explanation.phrases))
    assert explanation == model.explain(TEXTS[0], model.predict(TEXTS[:1])[0])
    with pytest.raises(ValueError, match="'other' is not one of the labels: bad, good"):
        model.explain(TEXTS[0], "other")


def test_validation_rows_may_be_a_list_with_one_pair() -> None:
    """As of LightGBM and XGBoost; several pairs are an error."""
    small, pair = TextCNNClassifier(**SMALL | {"epochs": 1}), (TEXTS[:20], LABELS[:20])
    expected = small.fit(TEXTS, LABELS, eval_set=pair).epochs_[0].loss
    assert small.fit(TEXTS, LABELS, eval_set=[pair]).epochs_[0].loss == expected
    wrong: Any
    for wrong in ([pair, pair], [], TEXTS, (TEXTS,), [TEXTS]):
        with pytest.raises(ValueError, match="eval_set must be a pair"):
            small.fit(TEXTS, LABELS, eval_set=wrong)


def test_weights_of_rows_and_classes_are_those_of_the_loss() -> None:
    """Of labels of any type; a weight of each class is one of each of its rows."""
    # The SVC of a linear classifier would balance the classes of weighted rows.
    small = SMALL | {"linear": "none", "epochs": 1}
    equal = TextCNNClassifier(**small).fit(TEXTS, LABELS).predict_proba(TEXTS)
    numbers = np.array([2.0 if label == "good" else 1.0 for label in LABELS])
    of_rows = TextCNNClassifier(**small).fit(TEXTS, LABELS, np.where(numbers == 1, 9, 1)).predict_proba(TEXTS)
    of_classes = TextCNNClassifier(**small, class_weight={1.0: 9, 2.0: 1}).fit(TEXTS, numbers).predict_proba(TEXTS)
    assert np.array_equal(of_rows, of_classes)
    assert of_rows[:, 0].mean() > equal[:, 0].mean() + 0.01
    flags = TextCNNClassifier(**small, class_weight={False: 9, True: 1}).fit(TEXTS, numbers == 2)
    assert np.array_equal(flags.predict_proba(TEXTS), of_rows)
    assert TextCNNClassifier(class_weight="balanced").to_experiment().train.class_weights == "balanced"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "120 texts and 1 weights"),
        ([-1.0] * 120, "not a number of at least 0"),
        ([float(label == "good") for label in LABELS], "one class, 'good', with a weight above zero"),
    ],
    ids=["number", "negative", "class"],
)
def test_wrong_weights_of_rows_are_errors(weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextCNNClassifier(**SMALL).fit(TEXTS, LABELS, weights)


@pytest.mark.parametrize("labels", [["good"], ["good", "bad", "other"]])
def test_class_weights_are_of_the_labels(labels: list[str]) -> None:
    """As in an experiment file, also in searches and in a user's own trainer."""
    model = TextCNNClassifier(**SMALL, class_weight=dict.fromkeys(labels, 2.0))
    for method in (model.fit, model.tune, model.train_loop_config, model.trainable):
        with pytest.raises(UsageError, match=r"train\.class_weights: (lacks a weight of 'bad'|has weights of 'other')"):
            method(TEXTS, LABELS)


def test_trials_of_a_users_tuner_have_settings_without_contradictions() -> None:
    """They are checked before Ray is used."""
    with pytest.raises(UsageError, match=r"train\.metric=micro_f1 is a metric of several labels"):
        TextCNNClassifier(**SMALL, settings={"train.metric": "micro_f1"}).trainable(TEXTS, LABELS)


def test_a_gpu_that_torch_cannot_use_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in `train`: a request of it is an error, and otherwise the CPU is used."""
    monkeypatch.setattr(resources, "inspect_gpus", lambda: GpuState(count=1, error="no kernel image"))
    TextCNNClassifier(**SMALL | {"epochs": 1}).fit(TEXTS, LABELS)
    assert "training on the CPU" in caplog.text
    with pytest.raises(resources.ResourceError, match="no kernel image"):
        TextCNNClassifier(**SMALL, settings={"train.use_gpu": True}).fit(TEXTS, LABELS)


def test_only_the_best_epoch_is_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The previous one is removed when the next is written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    numbers: list[int] = []
    TextCNNClassifier(**SMALL, learning_rate=0.01, settings={"train.metric": "loss"}).fit(
        TEXTS, LABELS, callbacks=[lambda _: numbers.append(len(list(tmp_path.glob("*/epoch-*"))))]
    )
    assert numbers == [1] * 6


def test_it_can_be_pickled(model: TextCNNClassifier) -> None:
    """Joblib does so, for processes."""
    model.predict(TEXTS[:1])
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(TEXTS), model.predict(TEXTS))


def test_vectors_of_a_file_are_initial_values(tmp_path: Path) -> None:
    """The file does not change."""
    words = sorted({word for text in TEXTS for word in text.split()})
    path = write_word2vec(tmp_path / "v.bin", words, np.random.default_rng(0).normal(size=(len(words), 12)))
    before = path.read_bytes()
    settings = {"vectors.norm": None}
    static, tuned = (
        TextCNNClassifier(str(path), **SMALL | {"embedding": kind}, settings=settings).fit(TEXTS, LABELS)
        for kind in ("static", "non-static")
    )
    assert path.read_bytes() == before
    assert static._model.checkpoint.weights["fixed_vectors"].shape[1] == 12
    assert not np.array_equal(
        tuned._model.checkpoint.weights["vectors"], static._model.checkpoint.weights["fixed_vectors"]
    )


def test_wrong_arguments_are_errors(model: TextCNNClassifier) -> None:
    """They say what is wrong."""
    small = TextCNNClassifier(**SMALL)
    with pytest.raises(NotFittedError):
        small.predict(TEXTS)
    with pytest.raises(ValueError, match="put it in a list"):
        model.predict("a single text")
    with pytest.raises(ValueError, match=r"texts\[1\] is 3, not a text"):
        model.predict(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        model.predict(np.array([["a"], ["b"]]))
    with pytest.raises(ValueError, match="120 texts and 119 labels"):
        small.fit(TEXTS, LABELS[1:])
    with pytest.raises(ValueError, match="y has one class, 'one'"):
        small.fit(TEXTS, ["one"] * 120)
    with pytest.raises(ValueError, match=r"the training rows: texts\[1\] has half of a surrogate pair"):
        small.fit(["a", "\ud800", *TEXTS[2:]], LABELS)
    with pytest.raises(ValueError, match=r"labels\[0\] has half of a surrogate pair"):
        small.fit(TEXTS, ["\ud800", *LABELS[1:]])
    for missing in (None, float("nan")):
        with pytest.raises(ValueError, match=r"the training rows: labels\[1\] is (None|nan), not a label"):
            small.fit(TEXTS, np.array([LABELS[0], missing, *LABELS[2:]], object))
        with pytest.raises(ValueError, match=r"the training rows: labels\[1\] is (None|nan), not a label"):
            small.fit(TEXTS, [LABELS[0], missing, *LABELS[2:]])
        with pytest.raises(ValueError, match=r"labels\[1\] is \['a', (None|nan)\]; None, NaN and arrays are no labels"):
            small.fit(TEXTS, [["a"], ["a", missing], *[["a"]] * 118])
    with pytest.raises(ValueError, match=r"labels\[1\] is empty, not a label"):
        small.fit(TEXTS, [LABELS[0], " ", *LABELS[2:]])
    with pytest.raises(ValueError, match=r"labels\[1\] is \['a', ''\]; an empty text"):
        small.fit(TEXTS, [["a"], ["a", ""], *[["a"]] * 118])
    with pytest.raises(ValueError, match=r"labels\[0\] is \[array"):
        small.fit(["a", "b"], [[np.array([1, 2])], ["b"]])
    with pytest.raises(ValueError, match="eval_set has no rows"):
        small.fit(TEXTS, LABELS, eval_set=([], []))
    for share in (-0.1, 0, 1, 10):
        with pytest.raises(ValueError, match=f"validation_fraction must be between 0 and 1, not {share}"):
            clone(small).set_params(validation_fraction=share).fit(TEXTS, LABELS)
    with pytest.raises(
        UsageError, match=r"too few to draw validation_fraction=0\.1 from: .*add rows, or pass eval_set$"
    ):
        small.fit(["a b", "c d"], ["x", "y"])
    with pytest.raises(ValueError, match="eval_set has the label 'other'"):
        small.fit(TEXTS, LABELS, eval_set=(["a"], ["other"]))
    with pytest.raises(UsageError, match="dropout"):
        TextCNNClassifier(dropout=2.0).fit(TEXTS, LABELS)
