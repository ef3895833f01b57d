"""A dataset as numbers: the vocabulary, its vectors, and what rand does without."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.datasets.tokenizer import UNKNOWN
from jobs.training.corpus import Corpus, build_corpus
from tests.conftest import write_word2vec


def vectors_file(folder: Path) -> Path:
    words = ["film", "Great", "Unseen", "music"]
    return write_word2vec(folder / "v.bin", words, np.arange(16, dtype=np.float32).reshape(4, 4))


def prepared(experiment: Experiment, *, pretrained: bool = True) -> Corpus:
    return build_corpus(experiment, load_dataset(experiment), use_pretrained=pretrained)


def test_the_vocabulary_is_the_training_words_and_then_the_files(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A later text's word that only the file has keeps its vector; case is a second chance."""
    settings = {"vectors__path": str(vectors_file(tmp_path)), "vectors__dimensions": 4, "model__embedding": "static"}
    corpus = prepared(make_experiment(**settings, vectors__norm=None))
    assert corpus.vectors.shape == (len(corpus.words) + 2, 4)
    assert corpus.words[-1] == "unseen"
    row = {word: corpus.vectors[number] for number, word in enumerate(corpus.words, start=2)}
    assert row["film"].tolist() == [0, 1, 2, 3]
    assert row["great"].tolist() == [4, 5, 6, 7]
    assert row["unseen"].tolist() == [8, 9, 10, 11]
    assert corpus.coverage is not None
    assert (corpus.coverage.covered_words, corpus.coverage.respelled) == (3, 1)  # Unseen is in no text
    assert 0 < corpus.coverage.covered_tokens < corpus.coverage.tokens
    assert "were found in another case" in str(corpus.coverage)
    assert (corpus.scale == 1).all()


def test_vectors_have_the_norm_that_is_set(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """Those of the file and those drawn for words that it lacks; padding stays zero, random tables as they are."""
    settings = {"vectors__path": str(vectors_file(tmp_path)), "vectors__dimensions": 4, "model__embedding": "static"}
    plain, corpus = (
        prepared(make_experiment(**settings, vectors__norm=None)),
        prepared(make_experiment(**settings, vectors__norm=2.0)),
    )
    np.testing.assert_allclose(np.linalg.norm(corpus.vectors[2:], axis=1), 2, rtol=1e-6)
    assert not corpus.vectors[:2].any()
    np.testing.assert_allclose(corpus.vectors, plain.vectors * corpus.scale[:, None], rtol=1e-6)
    random = prepared(make_experiment(**settings, vectors__norm=2.0), pretrained=False)
    assert np.abs(random.vectors).max() <= 0.25
    assert (random.scale == 1).all()


def test_rare_words_are_unknown_unless_they_have_a_vector(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """min_count drops what nothing is known of."""
    settings = {"text__min_count": 1000, "vectors__path": str(vectors_file(tmp_path)), "vectors__dimensions": 4}
    assert prepared(make_experiment(**settings)).words == ["film", "music", "great", "unseen"] or set(
        prepared(make_experiment(**settings)).words
    ) == {"film", "music", "great", "unseen"}
    assert prepared(make_experiment(text__min_count=1000), pretrained=False).words == []


def test_rand_knows_no_word_that_training_never_saw(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """Its vector would be noise; the texts are otherwise the same, the dimensions those asked for."""
    experiment = make_experiment(vectors__path=str(vectors_file(tmp_path)), vectors__dimensions=4)
    corpus = prepared(experiment)
    random = prepared(experiment, pretrained=False)
    assert random.words == [word for word in corpus.words if word != "unseen"]
    assert random.vectors.shape == (len(random.words) + 2, 4)
    assert random.coverage is None
    assert (random.train.tokens.ids == corpus.train.tokens.ids).all()
    assert random.held_out == corpus.held_out
    assert random.key != corpus.key


def test_words_unknown_to_training_are_unknown_in_validation(make_experiment: Callable[..., Experiment]) -> None:
    """The vocabulary is made of the training part alone."""
    corpus = prepared(make_experiment(text__min_count=30), pretrained=False)
    assert (corpus.validation.tokens.ids == UNKNOWN).any()


def test_vectors_are_trained_once_and_kept(make_experiment: Callable[..., Experiment], messages: list[str]) -> None:
    """Without a file, gensim trains them on the training texts; the next run reads what was written."""
    experiment = make_experiment(model__embedding="static", vectors__epochs=2)
    for _ in range(2):
        corpus = build_corpus(experiment, load_dataset(experiment), use_pretrained=True)
        assert corpus.coverage is not None
        assert corpus.coverage.covered_words == corpus.coverage.words
        assert corpus.vectors.shape[1] == 12
    assert sum("training 12-dimensional word2vec" in line for line in messages) == 1


def test_the_key_follows_texts_and_vectors(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """A changed file is another corpus, though its name is the same."""
    experiment = make_experiment()
    key = prepared(experiment, pretrained=False).key
    assert prepared(experiment, pretrained=False).key == key
    path = Path(str(experiment.data.train))
    path.write_text(path.read_text().replace("film", "movie"))
    assert prepared(experiment, pretrained=False).key != key
