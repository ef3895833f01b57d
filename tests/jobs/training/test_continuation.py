"""Continued training: what is known keeps its scores, vocabulary and classes grow, and the run resumes exactly."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from gensim.models import KeyedVectors

from jobs.config.conflicts import check_fold_settings
from jobs.config.experiment import Experiment, ExperimentError
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.datasets.readers import DataError
from jobs.evaluation.baselines import RowsUnavailable, load_training_dataset
from jobs.evaluation.drift import load_drift
from jobs.evaluation.evaluate import evaluate
from jobs.evaluation.export import export_vectors
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint, load_training_state, save_checkpoint
from jobs.search.search import check_search
from jobs.training.continuation import continue_training, load_start_weights, number_classes
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus
from jobs.training.loop import Loop, create_loop
from jobs.training.run_files.snapshot import capture, gather_weights, restore
from jobs.training.train import train
from tests.support.loops import train_checkpoint
from tests.support.torch_network import predict_logits
from tests.support.toy_data import NEGATIVE_WORDS, make_toy_rows, write_word2vec

NEW_ROWS = [("weather", f"rain and sun in {word}") for word in ("may", "june", "july", "winter", "spring")] * 4
KNOWN_TEXTS = ["the film was great", "a dull story", "", "people and music"]


@pytest.fixture
def base(make_experiment: Callable[..., Experiment], tmp_path: Path) -> str:
    """A checkpoint of the toy data."""
    train_checkpoint(make_experiment(model__embedding="multichannel"), tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def more_csv(tmp_path: Path) -> str:
    """Fewer rows of one known class, and those of a new class with new words; no row of the other known class."""
    path = tmp_path / "more.csv"
    rows = [row for row in make_toy_rows(80, seed=5) if row[0] == "good"] + NEW_ROWS
    path.write_text("label,text\n" + "".join(f'{label},"{text}"\n' for label, text in rows))
    return str(path)


def make_inputs(experiment: Experiment) -> tuple[Dataset, Corpus]:
    dataset = load_dataset(experiment)
    return dataset, build_corpus(experiment, dataset, use_pretrained=False)


def start_loop(experiment: Experiment) -> Loop:
    """Return a loop as a worker creates it."""
    experiment, corpus = continue_training(experiment, *make_inputs(experiment))
    loop = create_loop(experiment, corpus)
    assert experiment.train.start_from is not None
    load_start_weights(loop.network, corpus, load_checkpoint(experiment.train.start_from))
    return loop


def test_classes_are_numbered_without_a_search_for_each() -> None:
    """With thousands of classes a search in the list for each would take seconds."""

    class Labels(list[str]):
        def index(self, *_: object) -> int:
            raise AssertionError

    assert number_classes(["c", "a"], Labels("abc")).tolist() == [2, 0]


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_known_classes_keep_their_logits_until_they_are_trained(
    make_experiment: Callable[..., Experiment], tmp_path: Path, more_csv: str, embedding: str
) -> None:
    """Also a class without rows in the new data, and words that these do not have. Training then learns the new one."""
    train_checkpoint(make_experiment(model__embedding=embedding), tmp_path / "base")
    expected = Classifier(load_checkpoint(str(tmp_path / "base")), share_table=False).predict_logits(KNOWN_TEXTS)
    experiment = make_experiment(
        model__embedding=embedding, data__train=more_csv, train__start_from=str(tmp_path / "base"), train__epochs=12,
        train__learning_rate=0.05,
    )  # fmt: skip
    loop = start_loop(experiment)
    assert loop.corpus.labels == ["bad", "good", "weather"]
    assert {"rain", "dull", "awful"} <= set(loop.corpus.words)
    capture(experiment, loop.corpus, loop, resumable=False)(tmp_path / "started")
    started = Classifier(load_checkpoint(str(tmp_path / "started")), share_table=False)
    np.testing.assert_allclose(started.predict_logits(KNOWN_TEXTS)[:, :2], expected, atol=1e-5)
    list(loop.train_epochs())
    capture(experiment, loop.corpus, loop, resumable=False)(tmp_path / "trained")
    trained = load_checkpoint(str(tmp_path / "trained"))
    assert Classifier(trained, share_table=False).predict(["rain and sun in june"]) == ["weather"]
    manifest = load_checkpoint(str(tmp_path / "base")).manifest_sha256
    assert trained.metrics["started_from"] == {"checkpoint": str(tmp_path / "base"), "manifest": manifest}


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_another_vectors_file_is_for_new_words_only(
    make_experiment: Callable[..., Experiment], tmp_path: Path, more_csv: str, messages: list[str], embedding: str
) -> None:
    """A warning says so, but not with the same file, with vectors of the texts, or with random vectors."""
    random, words = np.random.default_rng(0), ["film", "rain"]
    paths = [str(write_word2vec(tmp_path / name, words, random.normal(size=(2, 12)))) for name in ("a.bin", "b.bin")]
    settings = {"model__embedding": embedding, "vectors__path": paths[0]}
    train_checkpoint(make_experiment(**settings), tmp_path / "base")
    start = load_checkpoint(str(tmp_path / "base"))
    vectors = start.weights["vectors" if embedding in ("rand", "non-static") else "fixed_vectors"]
    settings |= {"data__train": more_csv, "train__start_from": start.path}
    for path in (*paths, None):
        messages.clear()
        experiment = make_experiment(**settings | {"vectors__path": path})
        corpus = build_corpus(experiment, dataset := load_dataset(experiment), use_pretrained=embedding != "rand")
        extended = continue_training(experiment, dataset, corpus)[1]
        known, new = (extended.vectors[2 + extended.words.index(word)] for word in words)
        assert np.array_equal(known, vectors[2 + start.words.index("film")])
        assert np.array_equal(new, corpus.vectors[2 + corpus.words.index("rain")])
        warnings = [message for message in messages if "only new words take those of" in message]
        assert len(warnings) == (path == paths[1] and embedding != "rand")
        assert all(f"(vectors.path={paths[0]} there)" in warning for warning in warnings)


def test_vectors_of_the_checkpoint_keep_their_scale(
    make_experiment: Callable[..., Experiment], tmp_path: Path, more_csv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export divides by it: the lengths are those of the first run's file, also of words that the new one lacks."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    words = ["dull", "awful", "film", "great"]
    vectors = 40 * np.random.default_rng(0).normal(size=(len(words), 12)).astype(np.float32)
    path = str(write_word2vec(tmp_path / "v.bin", words, vectors))
    other = str(write_word2vec(tmp_path / "other.bin", words[2:], vectors[2:]))
    first = train(make_experiment(model__embedding="static", vectors__path=path, train__epochs=1))
    experiment = make_experiment(
        name="more", model__embedding="static", vectors__path=other, data__train=more_csv, train__start_from=first,
        train__epochs=1,
    )  # fmt: skip
    out = tmp_path / "out.bin"
    export_vectors(train(experiment), str(out), None, merge=False)
    exported = KeyedVectors.load_word2vec_format(str(out), binary=True)
    for word, vector in zip(words, vectors, strict=True):
        np.testing.assert_allclose(exported[word], vector, rtol=1e-4)


@pytest.mark.parametrize(("embedding", "from_file"), [("rand", set()), ("non-static", {"dull", "awful", "film"})])
def test_words_that_only_the_checkpoint_has_are_of_its_file(
    make_experiment: Callable[..., Experiment], tmp_path: Path, more_csv: str, monkeypatch: pytest.MonkeyPatch,
    embedding: str, from_file: set[str],
) -> None:  # fmt: skip
    """Or have random vectors, which are no neighbours."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    vectors = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    path = str(write_word2vec(tmp_path / "v.bin", ["dull", "awful", "film"], vectors))
    settings = {"model__embedding": embedding, "vectors__path": path, "train__epochs": 1}
    first = train(make_experiment(**settings))
    path = train(make_experiment(name="more", data__train=more_csv, train__start_from=first, **settings))
    drift = load_drift(load_checkpoint(path))
    assert {word for word, pretrained in zip(drift.vocabulary, drift.from_file, strict=True) if pretrained} == from_file
    assert {*drift.vocabulary[len(drift.words) :]} == {*NEGATIVE_WORDS}


def test_validation_texts_have_the_words_that_only_the_checkpoint_knows(
    make_experiment: Callable[..., Experiment], base: str, more_csv: str, tmp_path: Path
) -> None:
    """The loop scores its validation rows as the checkpoint does, and finds words by the run's edit distance."""
    validation = tmp_path / "validation.csv"
    validation.write_text('label,text\ngood,"awful dulll broken"\nweather,"rain in may"\n')
    experiment = make_experiment(
        model__embedding="multichannel", data__train=more_csv, data__validation=str(validation), train__start_from=base,
        text__max_edit_distance=1,
    )  # fmt: skip
    loop = start_loop(experiment)
    logits = predict_logits(loop.network, loop.corpus.validation.tokens).numpy()
    expected = Classifier(load_checkpoint(base), share_table=False).predict_logits(["awful dull broken"])
    np.testing.assert_allclose(logits[:1, :2], expected, atol=1e-5)
    assert [loop.corpus.labels[index] for index in loop.corpus.validation.labels] == ["good", "weather"]


@pytest.mark.parametrize("weight", [None, 0.25])
def test_the_linear_classifier_stays_if_a_known_class_has_no_rows(
    make_experiment: Callable[..., Experiment], base: str, more_csv: str, weight: float | None
) -> None:
    """A new class has the score -1. The factor is fitted again, or that of the settings; no training is needed."""
    experiment = make_experiment(
        model__embedding="multichannel", data__train=more_csv, train__start_from=base, train__linear_weight=weight
    )
    loop, known = start_loop(experiment), load_checkpoint(base).weights
    next(loop.train_epochs())
    weights = {name: value.numpy() for name, value in loop.network.weights().items()}
    assert weights["linear.bias"].tolist() == [*known["linear.bias"].tolist(), -1]
    assert len(weights["linear.pairs"]) == len(known["linear.pairs"])
    assert (weights["linear.scale"].tolist() == [0.25] * 3) == (weight is not None)


def test_a_continued_run_resumes_bit_for_bit(
    make_experiment: Callable[..., Experiment], base: str, more_csv: str, tmp_path: Path
) -> None:
    experiment = make_experiment(
        model__embedding="multichannel", data__train=more_csv, train__start_from=base, train__epochs=2
    )
    whole, resumed = start_loop(experiment), start_loop(experiment)
    for epoch, _ in whole.train_epochs():
        if epoch.epoch == 1:
            capture(experiment, whole.corpus, whole, resumable=True)(tmp_path / "first")
    restore(resumed, load_training_state(tmp_path / "first"))
    list(resumed.train_epochs())
    weights = gather_weights(resumed)
    for name, value in gather_weights(whole).items():
        assert np.array_equal(value.numpy(), weights[name].numpy()), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model__filter_widths": [1, 2, 3]}, r"model.filter_widths=\[1, 2, 3\] \(\[1, 2\] there\)"),
        ({"model__feature_maps": 9, "text__lowercase": False}, r"feature_maps=9 \(8 there\), text.lowercase=False"),
        ({"model__linear": "none"}, r"model.linear=none \(words-and-pairs there\)"),
        ({"model__embedding": "static"}, r"model.embedding=static \(multichannel there\)"),
        ({"vectors__dimensions": 10}, r"have 12 dimensions, those of this run 10"),
    ],
)
def test_other_settings_of_the_network_are_an_error(
    make_experiment: Callable[..., Experiment], base: str, settings: dict[str, object], message: str
) -> None:
    experiment = make_experiment(**({"model__embedding": "multichannel", "train__start_from": base} | settings))
    with pytest.raises(ExperimentError, match=message):
        continue_training(experiment, *make_inputs(experiment))


def test_a_class_of_out_of_scope_texts_needs_such_texts_again(
    make_experiment: Callable[..., Experiment], base: str, tmp_path: Path
) -> None:
    """Without them no rule of abstention would exclude the class."""
    checkpoint = load_checkpoint(base)
    metrics = checkpoint.metrics | {"abstention": {"thresholds": {}, "out_of_scope": 0}}
    save_checkpoint(tmp_path / "c", replace(checkpoint, metrics=metrics))
    experiment = make_experiment(model__embedding="multichannel", train__start_from=str(tmp_path / "c"))
    with pytest.raises(ExperimentError, match=r"name their file in data.out_of_scope"):
        continue_training(experiment, *make_inputs(experiment))


def test_searches_and_folds_start_from_the_beginning(make_experiment: Callable[..., Experiment]) -> None:
    experiment = make_experiment(train__start_from="runs/base")
    with pytest.raises(ExperimentError, match="the trials of a search start from the beginning"):
        check_search(experiment)
    with pytest.raises(ExperimentError, match="the folds of a cross-validation start from the beginning"):
        check_fold_settings(experiment)


def test_train_continues_a_run_and_names_the_checkpoint_itself(
    make_experiment: Callable[..., Experiment], more_csv: str, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """A best.json may name another checkpoint later. The same command finds its finished run."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    first = train(make_experiment(train__epochs=1))
    experiment = make_experiment(name="more", data__train=more_csv, train__start_from=first, train__epochs=1)
    best = train(experiment)
    checkpoint = load_checkpoint(best)
    assert checkpoint.experiment.train.start_from == load_checkpoint(first).path
    assert checkpoint.labels == ["bad", "good", "weather"]
    assert train(experiment) == best
    assert any("this run is finished" in message for message in messages)
    assert any(message.endswith("2 known and 1 new classes") for message in messages)
    beginning = experiment.replace({"train.start_from": None})
    assert load_checkpoint(train(beginning, promote=True)).labels == ["good", "weather"]
    corpus = make_inputs(beginning)[1]
    assert continue_training(experiment, load_dataset(experiment), corpus)[1].key != corpus.key
    assert continue_training(beginning, load_dataset(experiment), corpus) == (beginning, replace(corpus))


def test_known_classes_need_no_training_rows(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation and test rows may have them; the test part is that of training, and the rows are found again."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    first = train(make_experiment(train__epochs=1))
    (tmp_path / "new.csv").write_text("label,text\n" + "".join(f"{label},{text}\n" for label, text in NEW_ROWS))
    known = tmp_path / "known.csv"
    known.write_text("label,text\n" + "good,the film was great\nbad,a dull story\nweather,rain in may\n" * 4)
    experiment = make_experiment(
        name="more", data__train=str(tmp_path / "new.csv"), data__validation=str(known), data__test=str(known),
        train__start_from=first, train__epochs=1,
    )  # fmt: skip
    best = train(experiment)
    assert load_checkpoint(best).labels == ["bad", "good", "weather"]
    evaluation = evaluate(best, [], str(tmp_path / "report"))
    assert evaluation.rows == 12
    with pytest.raises(RowsUnavailable, match="all training rows have the same label"):
        load_training_dataset(load_checkpoint(best))
    with (tmp_path / "new.csv").open("a") as stream:
        stream.write("good,a great day\n" * 20)
    two = train(experiment.replace({"data.train": str(tmp_path / "new.csv"), "name": "two"}))
    assert load_training_dataset(load_checkpoint(two)).train.distinct_labels() == {"good", "weather"}
    assert evaluate(two, [], str(tmp_path / "report")).rows == 12
    drawn = train(experiment.replace({"data.validation": None, "data.test": None}), promote=True)
    assert evaluate(drawn, [], str(tmp_path / "drawn")).rows == 4
    with pytest.raises(DataError, match="the label 'bad' does not occur in"):
        train(experiment.replace({"train.start_from": None}))


def test_several_labels_per_text_are_continued(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """Each label keeps its logits; a checkpoint with one label per text cannot be continued with several."""
    path = tmp_path / "several.csv"
    path.write_text("label,text\n" + "good|film,the film was great\nbad,a dull story\nfilm,a film\n" * 20)
    settings = {"data__train": str(path), "data__label_separator": "|", "model__linear": "none"}
    train_checkpoint(make_experiment(**settings), tmp_path / "base")
    expected = Classifier(load_checkpoint(str(tmp_path / "base")), share_table=False).predict_logits(KNOWN_TEXTS)
    path.write_text("label,text\n" + "good|warm,the film was great\nbad,a dull story\nfilm,a film\n" * 20)
    loop = start_loop(make_experiment(**settings, train__start_from=str(tmp_path / "base"), train__epochs=1))
    assert loop.corpus.labels == ["bad", "film", "good", "warm"]
    assert loop.corpus.train.labels.shape == (len(loop.corpus.train), 4)
    capture(make_experiment(**settings), loop.corpus, loop, resumable=False)(tmp_path / "started")
    started = Classifier(load_checkpoint(str(tmp_path / "started")), share_table=False)
    np.testing.assert_allclose(started.predict_logits(KNOWN_TEXTS)[:, :3], expected, atol=1e-5)
    list(loop.train_epochs())
    experiment = make_experiment(train__start_from=str(tmp_path / "base"))
    with pytest.raises(ExperimentError, match=r"data\.multi_label=False \(True there\)"):
        continue_training(experiment, *make_inputs(experiment))
