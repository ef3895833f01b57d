"""Pretraining: the vectors are those that gensim trains, and progress is reported."""

import itertools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec

from cluster import input_files
from cluster.storage import StorageError
from jobs.config.experiment import Experiment
from jobs.config.settings import VectorSettings
from jobs.embeddings import pretraining
from jobs.embeddings.pretraining import (
    TokenizedCorpus,
    load_or_train,
    train_word2vec,
    train_word2vec_on_files,
    write_tokenized_corpus,
)
from jobs.embeddings.word2vec import VectorsError
from jobs.embeddings.word_vectors import WordVectors

LINES = ["the cat sat on the mat", "the dog sat on the log"] * 200


def write_texts(folder: Path) -> TokenizedCorpus:
    return write_tokenized_corpus(folder, (line.split() for line in LINES))


def load(path: Path) -> KeyedVectors:
    return KeyedVectors.load_word2vec_format(str(path), binary=True)


@pytest.mark.parametrize("negative", [5, 0])
@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_vectors_are_those_that_gensim_trains(tmp_path: Path, algorithm: str, negative: int) -> None:
    """Both have the same settings and seed; without negative words both use hierarchical softmax."""
    settings = VectorSettings(
        dimensions=8, algorithm=algorithm, min_count=1, epochs=2, window=3, negative=negative, sample=0.01
    )
    train_word2vec(
        write_texts(tmp_path), tmp_path / "out.bin", settings, seed=3, threads=1, progress=lambda done, total: None
    )
    expected = Word2Vec(
        corpus_file=str(tmp_path / "0.txt"), vector_size=8, sg=int(algorithm == "skip-gram"), min_count=1, epochs=2,
        window=3, negative=negative, hs=int(negative == 0), sample=0.01, seed=3, workers=1,
    ).wv  # fmt: skip
    np.testing.assert_allclose(load(tmp_path / "out.bin")["cat"], expected["cat"], rtol=1e-5)


def test_shards_are_trained_as_one_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is reported after each shard, and the learning rate decreases over all of them."""
    monkeypatch.setattr(pretraining, "SHARD_WORDS", 1000)
    corpus = write_texts(tmp_path)
    assert [shard.num_words for shard in corpus.shards] == [1002, 1002, 396]
    assert corpus.num_words == 2400 == sum(corpus.word_counts.values())
    assert "".join(shard.path.read_text() for shard in corpus.shards) == "\n".join(LINES) + "\n"
    rates: list[tuple[float, float]] = []
    train = Word2Vec.train

    def record(model: Word2Vec, **arguments: Any) -> None:
        rates.append((arguments["start_alpha"], arguments["end_alpha"]))
        train(model, **arguments)

    monkeypatch.setattr(Word2Vec, "train", record)
    progress: list[tuple[int, int]] = []
    settings = VectorSettings(dimensions=8, min_count=1, epochs=2)
    train_word2vec(
        corpus, tmp_path / "out.bin", settings, seed=0, threads=2, progress=lambda *done: progress.append(done)
    )
    assert progress == [(0, 4800), (1002, 4800), (2004, 4800), (2400, 4800), (3402, 4800), (4404, 4800), (4800, 4800)]
    assert rates[0][0] == 0.025
    assert rates[-1][1] == pytest.approx(0.0001)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(rates))


def test_too_few_texts_to_train_on_are_an_error(tmp_path: Path) -> None:
    """The message names the setting to change."""
    few = write_tokenized_corpus(tmp_path, [["a", "b", "c"]])
    with pytest.raises(VectorsError, match=r"no word occurs 3 times; lower vectors.min_count"):
        train_word2vec(few, tmp_path / "out.bin", VectorSettings(), seed=0, threads=1, progress=print)
    assert not (tmp_path / "out.bin").exists()


def test_trained_vectors_are_cached_and_a_damaged_file_is_trained_again(tmp_path: Path, messages: list[str]) -> None:
    """Whatever was cut off or overwritten; each time with a warning that names the file."""
    texts, settings = write_texts(tmp_path), VectorSettings(dimensions=8, min_count=1, epochs=1)
    path, words, trainings = tmp_path / "cache" / "vectors.bin", {"cat", "dog", "log"}, 0

    def load_vectors() -> WordVectors:
        def train(part: Path) -> None:
            nonlocal trainings
            trainings += 1
            train_word2vec(texts, part, settings, seed=0, threads=1, progress=lambda done, total: None)

        return load_or_train(str(path), settings, words, train)

    expected, content = load_vectors().digest(), path.read_bytes()
    assert (load_vectors().digest(), trainings) == (expected, 1)
    nan = content[:-4] + np.float32("nan").tobytes()
    damaged_contents = [b"", content[:3], content[:40], content[:-1], nan, content + content]
    for number, damaged in enumerate(damaged_contents, start=2):
        path.write_bytes(damaged)
        assert (load_vectors().digest(), trainings) == (expected, number)
        assert path.read_bytes() == content
    warnings = [line for line in messages if line.endswith("; training the vectors again")]
    assert len(warnings) == len(damaged_contents)
    assert warnings[3].startswith(f"{path}: ends after 6 of the 7 words")


def test_vectors_are_not_trained_again_where_that_would_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other words have no vector in the complete file; a storage may respond later."""
    texts, settings = write_texts(tmp_path), VectorSettings(dimensions=8, min_count=1, epochs=1, extra_words=0)
    path = tmp_path / "vectors.bin"
    train_word2vec(texts, path, settings, seed=0, threads=1, progress=lambda done, total: None)
    content = path.read_bytes()
    with pytest.raises(VectorsError, match="contains none of the words"):
        load_or_train(str(path), settings, {"unknown"}, Path.touch)

    def fail(path: str, on_read: object = None) -> Any:
        raise StorageError(f"{path}: cannot be read: the storage does not respond")

    for module, name in ((input_files, "open_decompressed"), (pretraining, "open_stream")):
        monkeypatch.setattr(module, name, fail)
    with pytest.raises(VectorsError, match="does not respond"):
        load_or_train(str(path), settings, {"cat"}, Path.touch)
    assert path.read_bytes() == content


def test_threads_are_those_of_the_cpu_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the machine, of which a container may use a few."""
    (tmp_path / "texts.txt").write_text("\n".join(LINES))
    threads: list[int] = []
    monkeypatch.setattr(pretraining, "count_cpus", lambda: 3)
    monkeypatch.setattr(pretraining, "train_word2vec", lambda *arguments: threads.append(arguments[4]))
    monkeypatch.setattr(pretraining, "atomic_write", nullcontext)
    train_word2vec_on_files([str(tmp_path / "texts.txt")], str(tmp_path / "out.bin"), Experiment(), None)
    assert threads == [3]
