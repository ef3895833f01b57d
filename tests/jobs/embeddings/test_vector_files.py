"""Initial vectors: every format read, every broken file refused, Kim's rule for the rest."""

import gzip
import hashlib
import json
import os
import pickle
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import hypothesis
import numpy as np
import pytest
from gensim.models import FastText, KeyedVectors, Word2Vec
from gensim.models.fasttext import save_facebook_model
from hypothesis import strategies as st

from cluster import input_files as source
from jobs.config.settings import VectorSettings as Settings
from jobs.embeddings import vector_files as vectors
from jobs.embeddings.vector_files import VectorsError, WordVectors
from tests.conftest import write_word2vec

WORDS = ["the", "New", "new", "film", "naïve", "rest"]
MATRIX = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def written(folder: Path, kind: str) -> Path:
    """Return a file that gensim wrote (GloVe text is word2vec text without its first line)."""
    path = folder / f"vectors.{kind}"
    write_word2vec(path, WORDS, MATRIX)
    if kind != "binary":
        loaded = KeyedVectors.load_word2vec_format(str(path), binary=True)
        loaded.save_word2vec_format(str(path), binary=False)
    if kind == "glove":
        path.write_text(path.read_text().split("\n", 1)[1])
    return path


def settings(path: Path | str, **changes: object) -> Settings:
    return Settings(path=str(path), **changes)


def read(chosen: Settings, wanted: set[str], cache: Path | None = None) -> WordVectors:
    return vectors.read_vectors(chosen, wanted, str(cache) if cache else None)


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
        (b"1 2\na \x0145678901\n", "goes on after the 1 words of 2 dimensions"),
        (b"1 2\na 1 nan\n", "line 2: the vector holds NaN"),
        (b"a 1 2\nb 1 2 3\n", "line 2: is not a word and 2 numbers"),
        (b"1 999999999\na ", "announces 999999999 dimensions"),
        (b"99999999999 3\n" + b"a " + bytes(12), "ends after 1 of the 99,999,999,999 words"),
        (b"2 3\n" + bytes(9000), "is longer than 4096 bytes"),
        (b"1 2\n\xff\xfe " + bytes(8), r"word 1: the word b'\\xff\\xfe' is not UTF-8"),
        (b"1 2\na " + np.array([1, np.inf], "<f4").tobytes(), "word 1: the vector holds NaN, or numbers beyond"),
        (b"1 2\na " + np.array([1, -1e25], "<f4").tobytes(), "word 1: the vector holds NaN, or numbers beyond"),
        (b"2 3\na 1 2\nb 1 2 3\n", "line 2: is not a word and 3 numbers"),
        (b"2 3\na 1 2 x\nb 1 2 3\n", "line 2: is not a word and 3 numbers"),
        (b"1 2\na 0 0\n", "holds nothing but zeros"),
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


def test_fasttext_text_is_word2vec_text(tmp_path: Path) -> None:
    """A .vec file, whose rows end in a space."""
    (tmp_path / "a.vec").write_text("2 3\nthe 1 2 3 \n</s> 4 5 6 \n")
    assert read(settings(tmp_path / "a.vec"), {"the"}).matrix[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("large", [False, True])
def test_gensims_own_files_are_pickles_and_need_to_be_trusted(tmp_path: Path, large: bool) -> None:
    """KeyedVectors in one file or, when large, with a file beside it; and a whole model."""
    keyed = KeyedVectors(5)
    keyed.add_vectors(WORDS, MATRIX)
    path = tmp_path / "vectors.kv"
    keyed.save(str(path), **({"sep_limit": 1} if large else {}))
    assert len(list(tmp_path.iterdir())) == (2 if large else 1)
    with pytest.raises(VectorsError, match=r"runs whatever code it holds; vectors.allow_pickle=true"):
        read(settings(path), {"film"})
    found = read(settings(path, allow_pickle=True, extra_words=1), {"film"})
    assert found.words == ["the", "film"]
    np.testing.assert_array_equal(found.matrix, MATRIX[[0, 3]])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VectorsError, match="gensim cannot load it as KeyedVectors"):
        read(settings(path, allow_pickle=True), {"film"})


def test_a_whole_model_has_vectors_too(tmp_path: Path) -> None:
    """As Word2Vec.save writes it; another pickle is none."""
    model = Word2Vec([["a", "b"]] * 5, vector_size=4, min_count=1)
    model.save(str(tmp_path / "model"))
    found = read(settings(tmp_path / "model", allow_pickle=True), {"b"})
    np.testing.assert_array_equal(found.matrix[found.words.index("b")], model.wv["b"])
    (tmp_path / "list").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(VectorsError, match="gensim cannot load it as KeyedVectors"):
        read(settings(tmp_path / "list", allow_pickle=True), {"b"})


def test_words_that_are_not_utf8(tmp_path: Path) -> None:
    """An error that names them and the setting, or read as the setting says."""
    path = tmp_path / "v"
    path.write_bytes(b"2 2\nna\xefve 1 2\nfilm 3 4\n")
    with pytest.raises(VectorsError, match=r"line 2: the word b'na\\xefve' is not UTF-8; vectors.unicode_errors"):
        read(settings(path), {"film"})
    assert read(settings(path, unicode_errors="replace"), {"film"}).words == ["na\ufffdve", "film"]
    assert read(settings(path, unicode_errors="ignore"), {"film"}).words == ["nave", "film"]


def test_words_with_white_space_are_passed_over(tmp_path: Path) -> None:
    """GloVe has some; no token is like that."""
    (tmp_path / "g").write_text("the 1 2\n. . . 1 2\nat name 3 4\nfilm 5 6\n")
    assert read(settings(tmp_path / "g"), {"film", "."}).words == ["the", "film"]


def test_what_was_read_is_kept_for_the_same_words(tmp_path: Path, messages: list[str]) -> None:
    """The second time the file's rows are not read; other words, or a changed file, are."""
    path = written(tmp_path, "binary")
    cache = tmp_path / "cache"
    first = read(settings(path), {"film", "naïve"}, cache)
    [kept] = cache.iterdir()
    before = path.stat()
    middle = path.read_bytes()[: -5 * 4]
    again = read(settings(path), {"naïve", "film"}, cache)
    assert (again.words, again.composed) == (first.words, first.composed)
    np.testing.assert_array_equal(again.matrix, first.matrix)
    messages.clear()
    vectors.read_vectors(settings(path), {"naïve", "film"}, str(cache))
    assert messages == [f"vectors of {path}, as read before: {kept}"]
    read(settings(path), {"film"}, cache)
    assert len(list(cache.iterdir())) == 2
    for other in ({"extra_words": 1}, {"unicode_errors": "ignore"}, {"format": "word2vec-binary"}):
        kept_before = len(list(cache.iterdir()))
        read(settings(path, **other), {"film", "naïve"}, cache)
        assert len(list(cache.iterdir())) == kept_before + 1
    path.write_bytes(middle + np.full(5, 7, "<f4").tobytes())
    assert path.stat().st_size == before.st_size
    assert (read(settings(path), {"film", "naïve"}, cache).matrix[-1] == 7).all()
    kept.write_bytes(kept.read_bytes()[:50])  # cut off: read again
    path.write_bytes(middle + MATRIX[-1].tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(settings(path), {"film", "naïve"}, cache).words == first.words
    assert kept.stat().st_size > 50


@pytest.mark.parametrize("name", ["file://{}/vectors.binary", "memory://vectors"])
def test_a_uri_is_read_like_a_path(tmp_path: Path, name: str) -> None:
    """By pyarrow where it knows the scheme, by fsspec otherwise; kept under the storage's URI."""
    path = written(tmp_path, "binary")
    fsspec.filesystem("memory").pipe("/vectors", gzip.compress(path.read_bytes()))
    uri = name.format(tmp_path)
    cache = f"file://{tmp_path}/cache"
    for _ in range(2):
        found = vectors.read_vectors(settings(uri, extra_words=0), {"film"}, cache)
        assert found.words == ["film"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(VectorsError, match=r"none: .*\(vectors.path\)"):
        read(settings(uri + "none"), {"film"})
    with pytest.raises(VectorsError, match="nothing here reads 'nonsense://'"):
        read(settings("nonsense://x"), {"film"})


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on loopback, and its folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_vectors_come_from_the_web(web: tuple[str, Path], tmp_path: Path) -> None:
    """Gzipped or not; a page that is not there is an error."""
    url, folder = web
    (folder / "v.bin.gz").write_bytes(gzip.compress(written(tmp_path, "binary").read_bytes()))
    cache = tmp_path / "cache"
    assert read(settings(f"{url}/v.bin.gz", extra_words=0), {"film"}, cache).words == ["film"]
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(VectorsError, match=r"none.bin: cannot be read"):
        read(settings(f"{url}/none.bin"), {"film"})


def test_a_model_of_gensims_downloader(web: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gensim fetches it, once, with its checksum; what it fetches is not run."""
    import gensim.downloader

    url, folder = web
    content = gzip.compress(written(tmp_path, "text").read_bytes())
    (folder / "tiny-5").mkdir()
    (folder / "tiny-5" / "tiny-5.gz").write_bytes(content)
    (folder / "tiny-5" / "__init__.py").write_text("raise SystemExit('run')")
    model = {"parts": 1, "file_name": "tiny-5.gz", "checksum": hashlib.md5(content).hexdigest()}
    (folder / "list.json").write_text(json.dumps({"corpora": {}, "models": {"tiny-5": model}}))
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "gensim-data"))
    monkeypatch.setattr(gensim.downloader, "DOWNLOAD_BASE_URL", url)
    monkeypatch.setattr(gensim.downloader, "_load_info", partial(gensim.downloader._load_info, url=f"{url}/list.json"))
    assert read(settings("gensim:tiny-5", extra_words=0), {"film"}).words == ["film"]
    (folder / "tiny-5" / "tiny-5.gz").unlink()
    assert read(settings("gensim:tiny-5", extra_words=0), {"film"}).words == ["film"]
    with pytest.raises(VectorsError, match=r"gensim:tiny: gensim's downloader knows no such model; it has tiny-5"):
        read(settings("gensim:tiny"), {"film"})
    with pytest.raises(VectorsError, match=r"write gensim:tiny-5"):
        read(settings("tiny-5"), {"film"})


def test_a_model_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No list, no file: what gensim says, without a traceback."""
    import gensim.downloader

    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path))
    monkeypatch.setattr(
        gensim.downloader, "_load_info", partial(gensim.downloader._load_info, url="http://127.0.0.1:9/list.json")
    )
    with pytest.raises(VectorsError, match="gensim's downloader failed: unable to read local cache"):
        read(settings("gensim:tiny-5"), {"film"})


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    """Before the counts, or before the first word."""
    for content in (b"2 2\na 1 2\nb 3 4\n", b"a 1 2\nb 3 4\n"):
        (tmp_path / "v").write_bytes(b"\xef\xbb\xbf" + content)
        assert read(settings(tmp_path / "v"), {"a"}).words == ["a", "b"]


def test_a_vector_of_zeros_is_none(tmp_path: Path, messages: list[str]) -> None:
    """Its word counts as one that the file lacks, and that is said."""
    (tmp_path / "v").write_text("a 0 0\nb 3 4\n")
    assert vectors.read_vectors(settings(tmp_path / "v"), {"a", "b"}, None).words == ["b"]
    assert messages[-1].startswith("1 words have a vector of zeros")


def test_other_dimensions_than_those_asked_for_are_an_error(tmp_path: Path) -> None:
    """Where vectors.dimensions was set."""
    path = written(tmp_path, "binary")
    assert read(settings(path, dimensions=5), {"film"}).words
    for cache in (None, tmp_path / "cache"):
        read(settings(path), {"film"}, cache)  # kept from here on, and checked all the same
        with pytest.raises(VectorsError, match=r"has 5 dimensions, where vectors.dimensions says 300"):
            read(settings(path, dimensions=300), {"film"}, cache)


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    """As GloVe comes."""
    with zipfile.ZipFile(tmp_path / "glove.zip", "w") as archive:
        archive.writestr("glove.txt", "a 1 2\n")
    with pytest.raises(VectorsError, match="is a zip archive; unpack it"):
        read(settings(tmp_path / "glove.zip"), {"film"})


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A file of each format, as gensim writes it."""
    folder = tmp_path_factory.mktemp("whole")
    files = {kind: written(folder, kind).read_bytes() for kind in ("binary", "text", "glove")}
    model = FastText([WORDS] * 5, vector_size=5, min_count=1, epochs=1, bucket=50, workers=1)
    save_facebook_model(model, str(folder / "model.bin"))
    files["fasttext"] = (folder / "model.bin").read_bytes()
    return files | {f"{kind}.gz": gzip.compress(content) for kind, content in files.items()}


@hypothesis.settings(
    max_examples=400, deadline=None, derandomize=True, database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_a_mutilated_file_is_an_error_or_vectors(
    data: st.DataObject, whole_files: dict[str, bytes], tmp_path: Path
) -> None:
    """Cut, with bytes changed, put in or repeated: no other exception, no long wait, little memory."""
    content = bytearray(whole_files[data.draw(st.sampled_from(sorted(whole_files)))])
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, max(0, len(content) - 1)))
        change = data.draw(st.sampled_from(["set", "insert", "cut", "repeat", "digits"]))
        if change == "set":
            content[where : where + 1] = data.draw(st.binary(min_size=1, max_size=8))
        elif change == "insert":
            content[where:where] = data.draw(st.binary(min_size=1, max_size=40))
        elif change == "cut":
            del content[where : where + data.draw(st.integers(1, len(content) + 1))]
        elif change == "repeat":
            content[where:where] = content[where : where + 50] * data.draw(st.integers(1, 20))
        else:
            content[: data.draw(st.integers(0, 12))] = b"9" * data.draw(st.integers(0, 30))
    path = tmp_path / "mutilated"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        found = read(settings(path), {"film", "the", "nowhere"})
        assert found.matrix.shape[0] == len(found.words) == len(set(found.words))
        assert np.isfinite(found.matrix).all()
    except VectorsError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # Buffers of a fixed size are what the readers hold besides; the hang looked for is without end.
    assert peak < 16 * len(content) + 8 * source.CHUNK_BYTES
    assert time.perf_counter() - start < 30


def test_a_gzip_bomb_is_read_piece_by_piece(tmp_path: Path) -> None:
    """A hundred megabytes of one letter, in a file of a tenth of one."""
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(b"a" * 100_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(VectorsError):
            read(settings(path), {"film"})
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
