"""fastText models: gensim writes them, and its own vectors are what is read."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from gensim.models import FastText
from gensim.models.fasttext import save_facebook_model

from jobs.config.settings import VectorSettings as Settings
from jobs.embeddings import vector_files as vectors
from jobs.embeddings.vector_files import VectorsError, WordVectors

TEXTS = [["The", "cat", "sat", "on", "the", "mat"], ["the", "dog", "sat", "naïve"]] * 50


@pytest.fixture(scope="module")
def model() -> FastText:
    return FastText(TEXTS, vector_size=6, min_count=1, epochs=1, bucket=200, min_n=3, max_n=5, seed=1, workers=1)


@pytest.fixture
def path(model: FastText, tmp_path: Path) -> Path:
    save_facebook_model(model, str(tmp_path / "model.bin"))
    return tmp_path / "model.bin"


def read(path: Path, wanted: set[str], **changes: object) -> WordVectors:
    return vectors.read_vectors(Settings(path=str(path), **changes), wanted, None)


@pytest.mark.parametrize("zipped", [False, True])
def test_words_have_their_vectors_and_others_are_composed(model: FastText, path: Path, zipped: bool) -> None:
    """Known words, known ones in another case, and words that the model never saw, as gensim has them."""
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    found = read(path, {"cat", "naïve", "Dog", "catapult", "naïveté"}, extra_words=0)
    assert set(found.words) == {"cat", "naïve", "dog", "catapult", "naïveté"}
    assert found.composed == {"catapult", "naïveté"}
    for word, vector in zip(found.words, found.matrix, strict=True):
        np.testing.assert_allclose(vector, model.wv[word], atol=1e-6, err_msg=word)


def test_extra_words_are_the_most_frequent(path: Path) -> None:
    """In the model's order."""
    assert read(path, {"mat"}, extra_words=2).words == ["the", "sat", "mat"]


def test_a_model_without_ngrams_composes_nothing(tmp_path: Path) -> None:
    """A word that it lacks stays without a vector."""
    plain = FastText(TEXTS, vector_size=6, min_count=1, epochs=1, bucket=0, max_n=0, workers=1)
    save_facebook_model(plain, str(tmp_path / "m.bin"))
    found = read(tmp_path / "m.bin", {"cat", "catapult"}, extra_words=0)
    assert found.words == ["cat"]
    np.testing.assert_allclose(found.matrix[0], plain.wv["cat"], atol=1e-6)


def test_a_model_cut_off_anywhere_is_refused(path: Path) -> None:
    """Up to the end of the word matrix, the last that is read of it."""
    whole = path.read_bytes()
    read(path, {"cat"})
    for length in range(0, len(whole) // 2, 37):
        path.write_bytes(whole[:length])
        with pytest.raises(VectorsError):
            read(path, {"cat"})


@pytest.mark.parametrize(
    ("place", "layout", "value", "message"),
    [
        (4, "<i", 11, "of version 11"),
        (8, "<i", 0, "announces 0 dimensions"),
        (8, "<i", 2_000_000_000, "announces 2000000000 dimensions"),
        (40, "<i", -1, "-1 buckets"),
        (44, "<i", -1, "n-grams from -1 letters"),
        (64, "<i", 2_000_000_000, "is cut off|cannot stand there|is longer than"),
        (84, "<q", 5, r"is pruned and quantised"),
    ],
)
def test_a_header_that_cannot_be_is_refused(path: Path, place: int, layout: str, value: int, message: str) -> None:
    """Without allocating what it announces."""
    content = bytearray(path.read_bytes())
    content[place : place + struct.calcsize(layout)] = struct.pack(layout, value)
    path.write_bytes(content)
    with pytest.raises(VectorsError, match=message):
        read(path, {"cat"})


def test_words_that_are_not_utf8_are_refused_or_read(path: Path) -> None:
    """As the setting says."""
    path.write_bytes(path.read_bytes().replace("naïve".encode(), b"na\xff\xffve"))
    with pytest.raises(VectorsError, match=r"word 3: .*is not UTF-8; vectors.unicode_errors"):
        read(path, {"cat"})
    assert "na\ufffd\ufffdve" in read(path, {"cat"}, unicode_errors="replace").words


def test_nan_is_refused_where_it_is_needed(model: FastText, path: Path) -> None:
    """In a word's own row, or in a bucket of its n-grams."""
    row = model.wv.vectors_vocab[model.wv.key_to_index["cat"]].tobytes()
    assert path.read_bytes().count(row) == 1
    path.write_bytes(path.read_bytes().replace(row, np.full(6, np.nan, "<f4").tobytes()))
    assert "dog" in read(path, {"dog"}, extra_words=0).words
    with pytest.raises(VectorsError, match="holds NaN"):
        read(path, {"cat"})
