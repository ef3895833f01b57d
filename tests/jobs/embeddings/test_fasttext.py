"""fastText models that gensim writes are read with gensim's vectors."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from gensim.models import FastText
from gensim.models.fasttext import save_facebook_model

from jobs.config.settings import VectorSettings
from jobs.embeddings.vector_files import read_vectors
from jobs.embeddings.word2vec import VectorsError
from jobs.embeddings.word_vectors import WordVectors

TEXTS = [["The", "cat", "sat", "on", "the", "mat"], ["the", "dog", "sat", "naïve"]] * 50


@pytest.fixture(scope="module")
def model() -> FastText:
    return FastText(TEXTS, vector_size=6, min_count=1, epochs=1, bucket=200, min_n=3, max_n=5, seed=1, workers=1)


@pytest.fixture
def path(model: FastText, tmp_path: Path) -> Path:
    save_facebook_model(model, str(tmp_path / "model.bin"))
    return tmp_path / "model.bin"


def read(path: Path, target_words: set[str], **changes: object) -> WordVectors:
    return read_vectors(VectorSettings(path=str(path), **changes), target_words, None)


@pytest.mark.parametrize("zipped", [False, True])
def test_vectors_are_those_of_gensim(model: FastText, path: Path, zipped: bool) -> None:
    """Words are known, known in another letter case, or unknown; vectors of unknown words are sums of n-grams."""
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    vectors = read(path, {"cat", "naïve", "Dog", "catapult", "naïveté"}, extra_words=0)
    assert set(vectors.words) == {"cat", "naïve", "dog", "catapult", "naïveté"}
    assert vectors.from_ngrams == {"catapult", "naïveté"}
    for word, vector in zip(vectors.words, vectors.matrix, strict=True):
        np.testing.assert_allclose(vector, model.wv[word], atol=1e-6, err_msg=word)


def test_extra_words_are_the_most_frequent(path: Path) -> None:
    assert read(path, {"mat"}, extra_words=2).words == ["the", "sat", "mat"]


def test_a_model_without_ngrams_has_no_vectors_of_unknown_words(tmp_path: Path) -> None:
    model = FastText(TEXTS, vector_size=6, min_count=1, epochs=1, bucket=0, max_n=0, workers=1)
    save_facebook_model(model, str(tmp_path / "m.bin"))
    vectors = read(tmp_path / "m.bin", {"cat", "catapult"}, extra_words=0)
    assert vectors.words == ["cat"]
    np.testing.assert_allclose(vectors.matrix[0], model.wv["cat"], atol=1e-6)


def test_a_truncated_model_is_an_error(path: Path) -> None:
    whole = path.read_bytes()
    read(path, {"cat"})
    for length in range(0, len(whole) // 2, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(VectorsError):
            read(path, {"cat"})


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (4, "<i", 11, "of version 11"),
        (8, "<i", 0, "header is invalid: 0 dimensions"),
        (8, "<i", 2_000_000_000, "header is invalid: 2000000000 dimensions"),
        (40, "<i", -1, "-1 buckets"),
        (44, "<i", -1, "n-grams of at least -1 letters"),
        (64, "<i", 2_000_000_000, "is truncated|is not possible here|is longer than"),
        (84, "<q", 5, r"is pruned and quantized"),
    ],
)
def test_an_invalid_header_is_an_error(path: Path, offset: int, layout: str, value: int, message: str) -> None:
    """No memory is allocated for the sizes in an invalid header."""
    content = bytearray(path.read_bytes())
    content[offset : offset + struct.calcsize(layout)] = struct.pack(layout, value)
    path.write_bytes(content)
    with pytest.raises(VectorsError, match=message):
        read(path, {"cat"})


def test_words_that_are_not_utf8_are_handled_as_set(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace("naïve".encode(), b"na\xff\xffve"))
    with pytest.raises(VectorsError, match=r"word 3: .*is not UTF-8; set vectors.unicode_errors"):
        read(path, {"cat"})
    assert "na\ufffd\ufffdve" in read(path, {"cat"}, unicode_errors="replace").words


def test_nan_is_an_error_only_in_rows_that_are_used(model: FastText, path: Path) -> None:
    row = model.wv.vectors_vocab[model.wv.key_to_index["cat"]].tobytes()
    assert path.read_bytes().count(row) == 1
    path.write_bytes(path.read_bytes().replace(row, np.full(6, np.nan, "<f4").tobytes()))
    assert "dog" in read(path, {"dog"}, extra_words=0).words
    with pytest.raises(VectorsError, match="contains NaN"):
        read(path, {"cat"})
