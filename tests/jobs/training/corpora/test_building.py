"""Corpus of a run: vocabulary, initial vectors, keys, and the cache of a search's corpora."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset, load_folds
from jobs.datasets.readers import Split
from jobs.datasets.tokenization.installed import TokenizerError
from jobs.datasets.tokenizer import UNKNOWN
from jobs.training.corpora import sharing
from jobs.training.corpora.building import build_corpus, load_text_vectors, load_texts
from jobs.training.corpora.corpus import Corpus
from jobs.training.corpora.sharing import CorpusCache, corpus_key, use_absolute_paths
from tests.support.toy_data import write_word2vec


@pytest.fixture
def with_vectors(make_experiment: Callable[..., Experiment], tmp_path: Path) -> Callable[..., Experiment]:
    """Make an experiment with a vectors file of the words film, Great, Unseen (in no text) and music."""
    matrix = np.arange(16, dtype=np.float32).reshape(4, 4)
    path = write_word2vec(tmp_path / "v.bin", ["film", "Great", "Unseen", "music"], matrix)
    file_settings = {"vectors__path": str(path), "vectors__dimensions": 4, "model__embedding": "static"}
    return lambda **settings: make_experiment(**file_settings | settings)


def build(experiment: Experiment, *, pretrained: bool = True) -> Corpus:
    return build_corpus(experiment, load_dataset(experiment), use_pretrained=pretrained)


def test_the_vocabulary_has_training_words_then_other_words_of_the_file(
    with_vectors: Callable[..., Experiment],
) -> None:
    """Every word of the file has its vector, in its own or in lower case."""
    corpus = build(with_vectors(vectors__norm=None))
    assert corpus.vectors.shape == (len(corpus.words) + 2, 4)
    assert corpus.words[-1] == "unseen"
    vectors = {word: corpus.vectors[number] for number, word in enumerate(corpus.words, start=2)}
    assert vectors["film"].tolist() == [0, 1, 2, 3]
    assert vectors["great"].tolist() == [4, 5, 6, 7]
    assert vectors["unseen"].tolist() == [8, 9, 10, 11]
    assert corpus.coverage is not None
    assert (corpus.coverage.covered_words, corpus.coverage.case_insensitive_matches) == (3, 1)  # Unseen is in no text
    assert 0 < corpus.coverage.covered_tokens < corpus.coverage.tokens
    assert "another case" in str(corpus.coverage)
    assert (corpus.scale == 1).all()


def test_vectors_are_scaled_to_the_configured_norm(with_vectors: Callable[..., Experiment]) -> None:
    """Vectors of the file and of missing words are scaled; padding stays zero, random tables are not scaled."""
    unscaled, corpus = build(with_vectors(vectors__norm=None)), build(with_vectors(vectors__norm=2.0))
    np.testing.assert_allclose(np.linalg.norm(corpus.vectors[2:], axis=1), 2, rtol=1e-6)
    assert not corpus.vectors[:2].any()
    np.testing.assert_allclose(corpus.vectors, unscaled.vectors * corpus.scale[:, None], rtol=1e-6)
    random = build(with_vectors(vectors__norm=2.0), pretrained=False)
    assert np.abs(random.vectors).max() <= 0.25
    assert (random.scale == 1).all()


def test_rare_words_are_unknown_unless_they_have_a_vector(with_vectors: Callable[..., Experiment]) -> None:
    """`min_count` drops only words without a vector."""
    corpus = build(with_vectors(text__min_count=1000))
    assert sorted(corpus.words[:3]) == ["film", "great", "music"]
    assert corpus.words[3:] == ["unseen"]
    assert build(with_vectors(text__min_count=1000), pretrained=False).words == []


def test_words_with_a_typing_error_are_known_in_the_corpus(make_experiment: Callable[..., Experiment]) -> None:
    """With `text.max_edit_distance`, in the validation part too."""
    dataset = load_dataset(make_experiment())
    dataset = replace(dataset, validation=Split(["a fiml that is great"], ["good"]))
    unknown = []
    for distance in (0, 1):
        experiment = make_experiment(text__max_edit_distance=distance)
        corpus = build_corpus(experiment, dataset, use_pretrained=False)
        unknown.append(int((corpus.validation.tokens.ids == UNKNOWN).sum()))
    assert unknown[1] == unknown[0] - 1


def test_random_vectors_are_for_training_words_only(with_vectors: Callable[..., Experiment]) -> None:
    """The vector of another word would be noise; texts and dimensions are those of the pretrained corpus."""
    experiment = with_vectors()
    corpus = build(experiment)
    random = build(experiment, pretrained=False)
    assert random.words == [word for word in corpus.words if word != "unseen"]
    assert random.vectors.shape == (len(random.words) + 2, 4)
    assert random.coverage is None
    assert (random.train.tokens.ids == corpus.train.tokens.ids).all()
    assert random.held_out == corpus.held_out
    assert random.key != corpus.key


def test_words_unknown_to_training_are_unknown_in_validation(make_experiment: Callable[..., Experiment]) -> None:
    """The vocabulary comes from the training part only."""
    corpus = build(make_experiment(text__min_count=30), pretrained=False)
    assert (corpus.validation.tokens.ids == UNKNOWN).any()


def test_vectors_are_trained_once_and_cached(make_experiment: Callable[..., Experiment], messages: list[str]) -> None:
    """Without a file gensim trains them on the training texts; the next run reads the cached file."""
    experiment = make_experiment(model__embedding="static", vectors__epochs=2)
    first, second = build(experiment), build(experiment)
    assert sum("training 12-dimensional word2vec" in line for line in messages) == 1
    np.testing.assert_array_equal(first.vectors, second.vectors)
    assert second.vectors.shape[1] == 12
    assert second.coverage is not None
    assert second.coverage.covered_words == second.coverage.words


def test_trained_vectors_are_in_the_storage(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node finds them there, also at a URI. If they are lost, the key of the run is the same."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    experiment = make_experiment(model__embedding="static", storage=f"file://{tmp_path}/remote")
    first = build(experiment)
    [cached] = (tmp_path / "remote" / "cache").iterdir()
    assert not (tmp_path / "home").exists()
    matrix = first.vectors.copy()
    cached.unlink()
    again = build(experiment)
    np.testing.assert_array_equal(again.vectors, matrix)  # so few texts are trained by one thread
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]
    write_word2vec(cached, first.words, np.ones((len(first.words), 12), np.float32))
    other = build(experiment)
    assert (other.vectors != matrix).any()
    assert other.key == again.key == first.key
    for change in ({"vectors.epochs": 1}, {"vectors.norm": 1.0}, {"seed": 1}):
        assert build(experiment.replace(change)).key != first.key


def test_the_first_of_two_commands_decides_the_trained_vectors(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both use the same, whichever ends first."""
    experiment = make_experiment(model__embedding="static", storage=str(tmp_path))
    first = build(experiment)
    [cached] = (tmp_path / "cache").iterdir()
    cached.unlink()

    def train_slowly(texts: Any, part: Path, *_: Any) -> None:
        for path, value in ((part, -1), (cached, 1)):  # the other command ends while this one trains
            write_word2vec(path, first.words, np.full((len(first.words), 12), value, np.float32))

    monkeypatch.setattr("jobs.training.corpora.building.train_word2vec", train_slowly)
    assert (build(experiment).vectors[2:] > 0).all()
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]


def test_vectors_read_for_more_texts_add_no_words(with_vectors: Callable[..., Experiment]) -> None:
    """A corpus knows only what reading the file for its own training texts would have shown."""
    for extra_words in (0, 1, 100):
        experiment = with_vectors(vectors__extra_words=extra_words)
        fold = load_folds(experiment, 3)[0]
        train = fold.train.select(index for index, text in enumerate(fold.train.texts) if "music" not in text)
        dataset = replace(fold, train=train)
        vectors = load_text_vectors(experiment, [*fold.train.texts, *fold.validation.texts, *fold.test.texts])
        assert "music" in vectors.words
        own = build_corpus(experiment, dataset, use_pretrained=True)
        shared = build_corpus(experiment, dataset, use_pretrained=True, word_vectors=vectors)
        assert shared.words == own.words
        assert ("music" in shared.words) == (extra_words == 100)
        np.testing.assert_array_equal(shared.vectors, own.vectors)


def test_low_coverage_is_a_warning_with_its_cause(
    with_vectors: Callable[..., Experiment], make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    build(with_vectors())
    [warning] = [message for message in messages if message.startswith("only ")]
    assert re.match(
        r"only \d+\.\d% of the training texts' words have a pretrained vector, not 'the', '\w+', '\w+'; likely .* is "
        "of another language or subject, spells words otherwise, or has few words",
        warning,
    )
    messages.clear()
    build(make_experiment(model__embedding="static", vectors__min_count=45))
    assert any("have a pretrained vector" in line and "lower vectors.min_count=45" in line for line in messages)
    messages.clear()
    build(make_experiment(model__embedding="static"))
    assert not any("have a pretrained vector" in message for message in messages)


@pytest.mark.parametrize("name", ["mr/all.tsv", "sst2/train.tsv", "trec/train.tsv"])
def test_texts_of_the_vectors_language_have_no_warning(
    shared_data: Path, make_experiment: Callable[..., Experiment], name: str, messages: list[str]
) -> None:
    """Even if the file has 8,000 words, and neither the most frequent ones nor punctuation."""
    vectors = str(shared_data / "vectors/gnews300_8k.bin")
    settings = {"data__train": str(shared_data / name), "model__embedding": "static", "vectors__dimensions": 300}
    build(make_experiment(vectors__path=vectors, **settings))
    assert not any(message.startswith("only ") for message in messages)


def test_unusual_texts_are_logged(make_experiment: Callable[..., Experiment], messages: list[str]) -> None:
    """Before training: texts without words, truncated texts, and texts without spaces between words."""
    experiment = make_experiment(text__max_tokens=4, text__tokenizer="words")
    path = Path(str(experiment.data.train))
    path.write_text(path.read_text() + "good, \n" * 40 + "bad,我昨天在你们网站上买的手机还没有收到\n" * 90)
    build(experiment, pretrained=False)
    assert any(
        re.match(r"\d+ of \d+ training texts have no words, such as that in .*toy.csv, line", m) for m in messages
    )
    assert any(re.match(r"\d+ of \d+ validation texts are truncated to text.max_tokens=4", m) for m in messages)
    assert any("are Chinese or Japanese, which has no spaces" in message for message in messages)


def test_the_key_depends_on_the_texts(make_experiment: Callable[..., Experiment]) -> None:
    """A changed file of the same name is another corpus."""
    experiment = make_experiment()
    key = build(experiment, pretrained=False).key
    assert build(experiment, pretrained=False).key == key
    path = Path(str(experiment.data.train))
    path.write_text(path.read_text().replace("film", "movie"))
    assert build(experiment, pretrained=False).key != key


def test_the_key_depends_on_the_weights_of_the_rows(make_experiment: Callable[..., Experiment]) -> None:
    """Rows without weights have the key that earlier versions gave them."""
    corpora = []
    for weight in (None, 1, 2):
        experiment = make_experiment()
        path = Path(str(experiment.data.train))
        header, *rows = path.read_text().splitlines()
        lines = [f"{header},weight" if weight else header, *(f"{row},{weight}" if weight else row for row in rows)]
        path.with_name(f"{weight}.csv").write_text("\n".join(lines))
        column = "weight" if weight else None
        experiment = make_experiment(data__train=str(path.with_name(f"{weight}.csv")), data__weight_column=column)
        corpora.append(build(experiment, pretrained=False))
    assert corpora[0].train.weights is None
    assert corpora[2].train.weights is not None
    assert corpora[2].train.weights.tolist() == [2.0] * len(corpora[2].train)
    assert len({corpus.key for corpus in corpora}) == 3


def test_the_cache_builds_one_corpus_for_each_text_setting(make_experiment: Callable[..., Experiment]) -> None:
    """Settings that do not change how texts are read share a corpus."""
    experiment = make_experiment()
    stored: list[Any] = []

    def put(corpus: Corpus) -> int:
        stored.append(corpus)
        return len(stored) - 1

    cache = CorpusCache(experiment, load_dataset(experiment), put, lambda kind, value: None)
    short = experiment.replace({"text.max_tokens": 3})
    wide = short.replace({"model.filter_widths": [2, 3], "train.epochs": 1, "seed": 4})
    assert [cache.get(chosen) for chosen in (short, wide, experiment, short)] == [[0], [0], [1], [0]]
    assert stored[0].train.tokens.lengths.max() == 3
    assert stored[1].train.tokens.lengths.max() > 3
    assert corpus_key(short) == corpus_key(wide) != corpus_key(experiment)
    assert corpus_key(experiment) != corpus_key(experiment.replace({"model.embedding": "static"}))


def test_the_cache_keeps_the_corpora_that_were_used_last(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MAX_STORED_CORPORA", 2)
    experiment = make_experiment()
    built: list[int] = []
    cache = CorpusCache(
        experiment, load_dataset(experiment), lambda corpus: built.append(0) or len(built), lambda *_: None
    )
    lengths = (3, 4, 3, 5, 3, 4)  # 5 replaces 4
    assert [cache.get(experiment.replace({"text.max_tokens": length})) for length in lengths] == [
        [1], [2], [1], [3], [1], [4],
    ]  # fmt: skip


def test_an_actor_has_absolute_paths(make_experiment: Callable[..., Experiment]) -> None:
    """Its working folder is another one. URIs and models of gensim's downloader stay."""
    for path, expected in (
        ("own.bin", str(Path("own.bin").absolute())),
        ("gensim:glove-twitter-25", None),
        ("s3://bucket/own.bin", None),
        (None, None),
    ):
        resolved = use_absolute_paths(make_experiment(vectors__path=path, storage="runs"))
        assert resolved.vectors.path == (expected or path)
        assert resolved.storage == str(Path("runs").absolute())


def test_a_missing_tokenizer_is_reported_before_texts_are_read(make_experiment: Callable[..., Experiment]) -> None:
    with pytest.raises(TokenizerError, match="'nothing' is neither unicode"):
        load_texts(make_experiment(text__tokenizer="nothing", data__train="missing.csv"))
