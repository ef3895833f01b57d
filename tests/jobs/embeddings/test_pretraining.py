"""Training word vectors: what gensim learns, from files of any kind, with progress."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec

from jobs.config.settings import VectorSettings as Settings
from jobs.embeddings import pretraining
from jobs.embeddings.pretraining import TokenizedCorpus, train_word2vec, write_tokenized_corpus
from jobs.embeddings.word2vec import VectorsError

LINES = ["the cat sat on the mat", "the dog sat on the log"] * 200


def texts(folder: Path) -> TokenizedCorpus:
    return write_tokenized_corpus(folder, (line.split() for line in LINES))


def opened(path: Path) -> KeyedVectors:
    return KeyedVectors.load_word2vec_format(str(path), binary=True)


@pytest.mark.parametrize("negative", [5, 0])
@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_vectors_are_those_that_gensim_trains(tmp_path: Path, algorithm: str, negative: int) -> None:
    """The same settings and seed give gensim's own vectors; no negative words mean hierarchical softmax."""
    chosen = Settings(
        dimensions=8, algorithm=algorithm, min_count=1, epochs=2, window=3, negative=negative, sample=0.01
    )
    train_word2vec(texts(tmp_path), tmp_path / "out.bin", chosen, seed=3, threads=1, progress=lambda done, total: None)
    expected = Word2Vec(
        corpus_file=str(tmp_path / "0.txt"), vector_size=8, sg=int(algorithm == "skip-gram"), min_count=1, epochs=2,
        window=3, negative=negative, hs=int(negative == 0), sample=0.01, seed=3, workers=1,
    ).wv  # fmt: skip
    np.testing.assert_allclose(opened(tmp_path / "out.bin")["cat"], expected["cat"], rtol=1e-5)


def test_pieces_make_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is told after each, the rate falls over all of them, and every piece is learned from."""
    monkeypatch.setattr(pretraining, "SHARD_WORDS", 1000)
    written = texts(tmp_path)
    assert [piece.num_words for piece in written.shards] == [1002, 1002, 396]
    assert written.num_words == 2400 == sum(written.word_counts.values())
    assert "".join(piece.path.read_text() for piece in written.shards) == "\n".join(LINES) + "\n"
    rates: list[tuple[float, float]] = []
    real = Word2Vec.train
    monkeypatch.setattr(
        Word2Vec, "train",
        lambda self, **given: (rates.append((given["start_alpha"], given["end_alpha"])), real(self, **given)),
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    chosen = Settings(dimensions=8, min_count=1, epochs=2)
    train_word2vec(written, tmp_path / "out.bin", chosen, seed=0, threads=2, progress=lambda *both: told.append(both))
    assert told == [(0, 4800), (1002, 4800), (2004, 4800), (2400, 4800), (3402, 4800), (4404, 4800), (4800, 4800)]
    assert rates[0][0] == 0.025
    assert rates[-1][1] == pytest.approx(0.0001)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(rates))


def test_too_few_texts_to_train_on_is_an_error(tmp_path: Path) -> None:
    """It says which settings would help."""
    few = write_tokenized_corpus(tmp_path, [["a", "b", "c"]])
    with pytest.raises(VectorsError, match=r"no word occurs 3 times; lower vectors.min_count"):
        train_word2vec(few, tmp_path / "out.bin", Settings(), seed=0, threads=1, progress=print)
    assert not (tmp_path / "out.bin").exists()
