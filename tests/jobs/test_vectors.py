"""Initial vectors: every format read, every broken file refused, Kim's rule for the rest."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec

from jobs.experiment import Vectors as Settings
from jobs.vectors import VectorsError, initial, read, train
from tests.conftest import write_word2vec

WORDS = ["the", "New", "new", "film", "naïve", "rest"]
MATRIX = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def written(folder: Path, kind: str) -> Path:
    """Return a file that gensim wrote (GloVe text is word2vec text without its first line)."""
    path = folder / f"vectors.{kind}"
    write_word2vec(path, WORDS, MATRIX)
    if kind != "binary":
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=True)
        vectors.save_word2vec_format(str(path), binary=False)
    if kind == "glove":
        path.write_text(path.read_text().split("\n", 1)[1])
    return path


def settings(path: Path, **changes: object) -> Settings:
    return Settings(path=str(path), **changes)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["binary", "text", "glove"])
def test_every_format_gives_the_same_vectors(tmp_path: Path, kind: str, zipped: bool) -> None:
    """Found out by looking, plain or gzipped, and the file stays byte for byte as it was."""
    path = written(tmp_path, kind)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    before = hashlib.sha256(path.read_bytes()).digest()
    found = read(settings(path, extra_words=0), {"film", "naïve", "absent"})
    assert found.words == ["film", "naïve"]
    np.testing.assert_allclose(found.matrix, MATRIX[[3, 4]], atol=1e-6)
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_format_may_be_said(tmp_path: Path) -> None:
    """And is then not guessed."""
    assert read(settings(written(tmp_path, "binary"), format="word2vec-binary"), {"film"}).words
    assert read(settings(written(tmp_path, "text"), format="word2vec-text"), {"film"}).words
    assert read(settings(written(tmp_path, "glove"), format="glove"), {"film"}).words
    with pytest.raises(VectorsError, match="does not begin with the two numbers"):
        read(settings(written(tmp_path, "glove"), format="word2vec-text"), {"film"})
    with pytest.raises(VectorsError, match="begins with two numbers"):
        read(settings(written(tmp_path, "text"), format="glove"), {"film"})


def test_other_words_are_kept_for_later_texts(tmp_path: Path) -> None:
    """The first ones of the file, which are its most frequent."""
    assert read(settings(written(tmp_path, "binary"), extra_words=2), {"film"}).words == ["the", "New", "film"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is neither word2vec"),
        (b"label,text\ngood,fine\n", "is neither word2vec"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "is neither word2vec"),
        (b"3 2\na 1 2\nb 1\n", "line 3: is not a word and 2 numbers"),
        (b"3 2\na 1 2\nb 1 2\n", "ends after 2 of the 3 words"),
        (b"1 2\na 12345678901\n", "goes on after the 1 words of 2 dimensions"),
        (b"1 2\na 1 nan\n", "line 2: the vector holds NaN"),
        (b"a 1 2\nb 1 2 3\n", "line 2: is not a word and 2 numbers"),
        (b"1 999999999\na ", "announces 999999999 dimensions"),
        (b"99999999999 3\n" + b"a " + bytes(12), "ends after 1 of the 99,999,999,999 words"),
        (b"2 3\n" + bytes(9000), "is longer than 4096 bytes"),
        (b"1 2\n\xff\xfe " + bytes(8), r"word 1: the word b'\\xff\\xfe' is not UTF-8"),
        (b"1 2\na " + np.array([1, np.inf], "<f4").tobytes(), "word 1: the vector holds NaN or infinite"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    """No traceback, no silent zeros, no giant allocation."""
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(VectorsError, match=message):
        read(settings(path), {"a"})


@pytest.mark.parametrize("kind", ["binary", "text", "glove"])
def test_a_file_cut_off_anywhere_is_refused_or_read_right(tmp_path: Path, kind: str) -> None:
    """Each length: an error, or rows that gensim wrote."""
    path = written(tmp_path, kind)
    whole = path.read_bytes()
    # What is left of a lone first line of GloVe text is a shorter vector, and nothing tells.
    for length in range(whole.index(b"\n") + 1 if kind == "glove" else 0, len(whole)):
        path.write_bytes(whole[:length])
        try:
            found = read(settings(path), set(WORDS))
        except VectorsError:
            continue
        rows = [WORDS.index(word) for word in found.words]
        if kind == "binary":
            np.testing.assert_allclose(found.matrix, MATRIX[rows], atol=1e-6)
        else:  # a text that is cut inside its last number is a shorter number
            np.testing.assert_allclose(found.matrix[:-1], MATRIX[rows[:-1]], atol=1e-6)


def test_a_missing_file_a_cut_gzip_and_none_of_the_words(tmp_path: Path) -> None:
    """Each has its own message."""
    with pytest.raises(VectorsError, match="no such vectors file"):
        read(settings(tmp_path / "none"), {"a"})
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(written(tmp_path, "binary").read_bytes())[:-9])
    with pytest.raises(VectorsError, match="cannot be read"):
        read(settings(path), {"film"})
    whole = bytearray(gzip.compress(written(tmp_path, "binary").read_bytes()))
    whole[10:12] = b"\xff\xff"  # no block of deflate begins so
    path.write_bytes(whole)
    with pytest.raises(VectorsError, match="cannot be read"):
        read(settings(path), {"film"})
    with pytest.raises(VectorsError, match="none of the words"):
        read(settings(written(tmp_path, "binary"), extra_words=0), {"xyz"})


def test_words_without_a_vector_have_the_variance_of_the_rest(tmp_path: Path) -> None:
    """Kim 2014: U(-a, a); padding and the unknown word are zero; case is a second chance."""
    found = read(settings(written(tmp_path, "binary")), {"film", "naïve", "rest", "the", "new"})
    words = ["film", "THE", *(f"absent{number}" for number in range(5000))]
    table, known, respelled = initial(words, found, 99, seed=0)
    assert table.shape == (5004, 5)
    assert table.dtype == np.float32
    assert not table[:2].any()
    assert known.tolist()[:5] == [False, False, True, True, False]
    assert respelled == 1
    np.testing.assert_allclose(table[2], MATRIX[3], atol=1e-6)
    assert table[4:].var() == pytest.approx(found.matrix.var(), rel=0.05)
    assert (initial(words, found, 99, seed=0)[0] == table).all()


def test_random_vectors_are_kims() -> None:
    """U(-0.25, 0.25) of the dimensions asked for."""
    table, known, _ = initial(["a"] * 0 + [f"w{number}" for number in range(1000)], None, 7, seed=1)
    assert table.shape == (1002, 7)
    assert not known.any()
    assert 0.24 < np.abs(table).max() <= 0.25


@pytest.mark.parametrize("algorithm", ["skip-gram", "cbow"])
def test_vectors_are_trained_by_gensim_and_open_in_it(tmp_path: Path, algorithm: str) -> None:
    """One text a line in, word2vec binary out, progress told."""
    texts = tmp_path / "texts.txt"
    texts.write_text("the cat sat on the mat\nthe dog sat on the log\n" * 200)
    told: list[str] = []
    chosen = Settings(dimensions=8, algorithm=algorithm, min_count=1, epochs=2)
    train(texts, tmp_path / "out.bin", chosen, seed=0, workers=1, progress=told.append)
    opened = KeyedVectors.load_word2vec_format(str(tmp_path / "out.bin"), binary=True)
    assert opened["cat"].shape == (8,)
    assert told == ["word2vec: epoch 1 of 2", "word2vec: epoch 2 of 2"]
    assert read(settings(tmp_path / "out.bin"), {"cat"}).words


def test_the_algorithm_is_the_one_asked_for(tmp_path: Path) -> None:
    """The file is the one that gensim writes for it."""
    (tmp_path / "texts.txt").write_text("the cat sat on the mat\nthe dog sat on the log\n" * 200)
    for algorithm, skip_gram in (("skip-gram", 1), ("cbow", 0)):
        chosen = Settings(dimensions=8, algorithm=algorithm, min_count=1, epochs=2, window=3, negative=4, sample=0.01)
        train(tmp_path / "texts.txt", tmp_path / "out.bin", chosen, seed=3, workers=1, progress=print)
        expected = Word2Vec(
            corpus_file=str(tmp_path / "texts.txt"), vector_size=8, sg=skip_gram, min_count=1, epochs=2, window=3,
            negative=4, sample=0.01, seed=3, workers=1,
        ).wv  # fmt: skip
        opened = KeyedVectors.load_word2vec_format(str(tmp_path / "out.bin"), binary=True)
        np.testing.assert_array_equal(opened["cat"], expected["cat"])


@pytest.mark.parametrize("zipped", [False, True])
def test_long_rows_of_text_are_told_from_binary(tmp_path: Path, zipped: bool) -> None:
    """A row of a thousand numbers is longer than what gzip hands out at once."""
    matrix = np.random.default_rng(0).normal(size=(2, 1000))
    rows = "".join(f"{word} {' '.join(map(repr, map(float, row)))}\n" for word, row in zip("ab", matrix, strict=True))
    content = f"2 1000\n{rows}".encode()
    path = tmp_path / "vectors"
    path.write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_allclose(read(settings(path), {"a", "b"}).matrix, matrix, rtol=1e-6)


def test_numbers_may_stand_further_apart(tmp_path: Path) -> None:
    """As some tools write them, in columns."""
    (tmp_path / "v.txt").write_text("2 2\na   1  2.5\nb  -1   2 \n")
    found = read(settings(tmp_path / "v.txt"), {"a", "b"})
    assert found.words == ["a", "b"]
    assert found.matrix.tolist() == [[1, 2.5], [-1, 2]]


def test_a_text_file_is_not_read_as_binary(tmp_path: Path) -> None:
    """Though the setting says that it is."""
    path = written(tmp_path, "text")
    with pytest.raises(VectorsError):
        read(settings(path, format="word2vec-binary"), {"film"})


def test_too_few_texts_to_train_on_is_an_error(tmp_path: Path) -> None:
    """It says which settings would help."""
    texts = tmp_path / "texts.txt"
    texts.write_text("a b c\n")
    with pytest.raises(VectorsError, match=r"lower vectors.min_count \(3\)"):
        train(texts, tmp_path / "out.bin", Settings(), seed=0, workers=1, progress=print)
    assert not (tmp_path / "out.bin").exists()
