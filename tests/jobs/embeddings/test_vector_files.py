"""Vectors files: all formats, broken files, the cache, URIs and gensim's downloader."""

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

from cluster.input_files import CHUNK_BYTES
from jobs.config.experiment import Experiment
from jobs.config.settings import VectorSettings
from jobs.embeddings import vector_files
from jobs.embeddings.vector_files import check_vectors_file, read_vectors, restrict_vectors
from jobs.embeddings.word2vec import VectorsError
from jobs.embeddings.word_vectors import WordVectors
from tests.support.toy_data import write_word2vec

WORDS = ["the", "New", "new", "film", "naïve", "rest"]
MATRIX = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


def write_vectors(folder: Path, kind: str) -> Path:
    """Return the path of a file that gensim wrote (GloVe text is word2vec text without its first line)."""
    path = folder / f"vectors.{kind}"
    write_word2vec(path, WORDS, MATRIX)
    if kind != "binary":
        loaded = KeyedVectors.load_word2vec_format(str(path), binary=True)
        loaded.save_word2vec_format(str(path), binary=False)
    if kind == "glove":
        path.write_text(path.read_text().split("\n", 1)[1])
    return path


def make_settings(path: Path | str, **changes: object) -> VectorSettings:
    return VectorSettings(path=str(path), **changes)


def read(settings: VectorSettings, target_words: set[str], cache: Path | None = None) -> WordVectors:
    return read_vectors(settings, target_words, str(cache) if cache else None)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["binary", "text", "glove"])
def test_all_formats_are_detected_and_read(tmp_path: Path, kind: str, zipped: bool) -> None:
    """Plain and gzipped; the file does not change."""
    path = write_vectors(tmp_path, kind)
    if zipped:
        path.write_bytes(gzip.compress(path.read_bytes()))
    before = hashlib.sha256(path.read_bytes()).digest()
    vectors = read(make_settings(path, extra_words=0), {"film", "naïve", "absent"})
    assert vectors.words == ["film", "naïve"]
    np.testing.assert_allclose(vectors.matrix, MATRIX[[3, 4]], atol=1e-6)
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_a_format_that_is_set_is_not_detected(tmp_path: Path) -> None:
    assert read(make_settings(write_vectors(tmp_path, "binary"), format="word2vec-binary"), {"film"}).words
    assert read(make_settings(write_vectors(tmp_path, "text"), format="word2vec-text"), {"film"}).words
    assert read(make_settings(write_vectors(tmp_path, "glove"), format="glove"), {"film"}).words
    with pytest.raises(VectorsError, match="first line is not that of a word2vec file"):
        read(make_settings(write_vectors(tmp_path, "glove"), format="word2vec-text"), {"film"})
    with pytest.raises(VectorsError, match="first line has two numbers"):
        read(make_settings(write_vectors(tmp_path, "text"), format="glove"), {"film"})


def test_extra_words_are_the_first_of_the_file(tmp_path: Path) -> None:
    assert read(make_settings(write_vectors(tmp_path, "binary"), extra_words=2), {"film"}).words == [
        "the",
        "New",
        "film",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is neither word2vec"),
        (b"label,text\ngood,fine\n", "is neither word2vec"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "is neither word2vec"),
        (b"3 2\na 1 2\nb 1\n", "line 3: is not a word and 2 numbers"),
        (b"3 2\na 1 2\nb 1 2\n", "ends after 2 of the 3 words that its first line announces"),
        (b"1 2\na \x0145678901\n", "holds more than the 1 words of 2 dimensions"),
        (b"1 2\na 1 nan\n", "line 2: the vector contains NaN"),
        (b"a 1 2\nb 1 2 3\n", "line 2: is not a word and 2 numbers"),
        (b"1 999999999\na ", "the first line says 999999999 dimensions"),
        (b"99999999999 3\n" + b"a " + bytes(12), "ends after 1 of the 99,999,999,999 words"),
        (b"2 3\n" + bytes(9000), "is longer than 4096 bytes"),
        (b"1 2\n\xff\xfe " + bytes(8), r"word 1: the word b'\\xff\\xfe' is not UTF-8"),
        (b"1 2\na " + np.array([1, np.inf], "<f4").tobytes(), "word 1: the vector contains NaN, or numbers beyond"),
        (b"1 2\na " + np.array([1, -1e25], "<f4").tobytes(), "word 1: the vector contains NaN, or numbers beyond"),
        (b"2 3\na 1 2\nb 1 2 3\n", "line 2: is not a word and 3 numbers"),
        (b"2 3\na 1 2 x\nb 1 2 3\n", "line 2: is not a word and 3 numbers"),
        (b"1 2\na 0 0\n", "contains only zeros"),
        (b"1 2\na 1 2\nb 3 4\nc 5 6\n", "holds more than the 1 words that its first line announces"),
    ],
)
def test_a_broken_file_is_an_error_with_its_position(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vectors"
    path.write_bytes(content)
    with pytest.raises(VectorsError, match=message):
        read(make_settings(path), {"a"})


@pytest.mark.parametrize("kind", ["binary", "text", "glove"])
def test_a_truncated_file_is_an_error_or_read_correctly(tmp_path: Path, kind: str) -> None:
    """Text that ends inside the last number of a row is a shorter number, which cannot be detected."""
    path = write_vectors(tmp_path, kind)
    whole = path.read_bytes()
    # Within its first line, GloVe text is a row of a file with fewer dimensions.
    start = whole.index(b"\n") + 1 if kind == "glove" else 0
    readable = []
    for length in range(start, len(whole) + 1):
        path.write_bytes(whole[:length])
        try:
            vectors = read(make_settings(path), set(WORDS))
        except VectorsError:
            continue
        readable.append(length)
        complete = len(vectors.words) if length == len(whole) else len(vectors.words) - 1
        rows = [WORDS.index(word) for word in vectors.words]
        np.testing.assert_allclose(vectors.matrix[:complete], MATRIX[rows[:complete]], atol=1e-6)
    assert readable[-1] == len(whole)
    if kind == "binary":
        assert readable == [len(whole)]
    elif kind == "text":  # the first line says how many rows there are
        assert readable == list(range(whole.rindex(b" ") + 2, len(whole) + 1))
    else:
        assert all(whole[:length].count(b" ") % 5 == 0 for length in readable)


def test_a_missing_file_a_broken_gzip_and_no_known_word_are_errors(tmp_path: Path) -> None:
    with pytest.raises(VectorsError, match="no such vectors file"):
        read(make_settings(tmp_path / "none"), {"a"})
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(write_vectors(tmp_path, "binary").read_bytes())[:-9])
    with pytest.raises(VectorsError, match="cannot be read"):
        read(make_settings(path), {"film"})
    whole = bytearray(gzip.compress(write_vectors(tmp_path, "binary").read_bytes()))
    whole[10:12] = b"\xff\xff"  # not a valid block of deflate
    path.write_bytes(whole)
    with pytest.raises(VectorsError, match="cannot be read"):
        read(make_settings(path), {"film"})
    with pytest.raises(VectorsError, match="none of the words"):
        read(make_settings(write_vectors(tmp_path, "binary"), extra_words=0), {"xyz"})


@pytest.mark.parametrize("zipped", [False, True])
def test_text_with_long_rows_is_detected(tmp_path: Path, zipped: bool) -> None:
    """A row of a thousand numbers is longer than a chunk of the gzip reader."""
    matrix = np.random.default_rng(0).normal(size=(2, 1000))
    rows = "".join(f"{word} {' '.join(map(repr, map(float, row)))}\n" for word, row in zip("ab", matrix, strict=True))
    content = f"2 1000\n{rows}".encode()
    path = tmp_path / "vectors"
    path.write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_allclose(read(make_settings(path), {"a", "b"}).matrix, matrix, rtol=1e-6)


def test_numbers_may_be_separated_by_several_spaces(tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("2 2\na   1  2.5\nb  -1   2 \n")
    vectors = read(make_settings(tmp_path / "v.txt"), {"a", "b"})
    assert vectors.words == ["a", "b"]
    assert vectors.matrix.tolist() == [[1, 2.5], [-1, 2]]


def test_text_read_as_binary_is_an_error(tmp_path: Path) -> None:
    path = write_vectors(tmp_path, "text")
    with pytest.raises(VectorsError):
        read(make_settings(path, format="word2vec-binary"), {"film"})


def test_text_of_fasttext_is_word2vec_text(tmp_path: Path) -> None:
    """The rows of a .vec file end in a space."""
    (tmp_path / "a.vec").write_text("2 3\nthe 1 2 3 \n</s> 4 5 6 \n")
    assert read(make_settings(tmp_path / "a.vec"), {"the"}).matrix[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("large", [False, True])
def test_keyed_vectors_need_allow_pickle(tmp_path: Path, large: bool) -> None:
    """KeyedVectors are in one file or, when large, in two."""
    keyed = KeyedVectors(5)
    keyed.add_vectors(WORDS, MATRIX)
    path = tmp_path / "vectors.kv"
    keyed.save(str(path), **({"sep_limit": 1} if large else {}))
    assert len(list(tmp_path.iterdir())) == (2 if large else 1)
    with pytest.raises(VectorsError, match=r"runs the code that it contains; set vectors.allow_pickle=true"):
        read(make_settings(path), {"film"})
    vectors = read(make_settings(path, allow_pickle=True, extra_words=1), {"film"})
    assert vectors.words == ["the", "film"]
    np.testing.assert_array_equal(vectors.matrix, MATRIX[[0, 3]])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VectorsError, match="gensim cannot load it as KeyedVectors"):
        read(make_settings(path, allow_pickle=True), {"film"})


def test_a_whole_gensim_model_is_read(tmp_path: Path) -> None:
    """Another pickle is an error."""
    model = Word2Vec([["a", "b"]] * 5, vector_size=4, min_count=1)
    model.save(str(tmp_path / "model"))
    vectors = read(make_settings(tmp_path / "model", allow_pickle=True), {"b"})
    np.testing.assert_array_equal(vectors.matrix[vectors.words.index("b")], model.wv["b"])
    (tmp_path / "list").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(VectorsError, match="gensim cannot load it as KeyedVectors"):
        read(make_settings(tmp_path / "list", allow_pickle=True), {"b"})


def test_words_that_are_not_utf8_are_handled_as_set(tmp_path: Path) -> None:
    """By default they are an error that names the word and the setting."""
    path = tmp_path / "v"
    path.write_bytes(b"2 2\nna\xefve 1 2\nfilm 3 4\n")
    with pytest.raises(VectorsError, match=r"line 2: the word b'na\\xefve' is not UTF-8; set vectors.unicode_errors"):
        read(make_settings(path), {"film"})
    assert read(make_settings(path, unicode_errors="replace"), {"film"}).words == ["na\ufffdve", "film"]
    assert read(make_settings(path, unicode_errors="ignore"), {"film"}).words == ["nave", "film"]


def test_words_with_white_space_are_ignored(tmp_path: Path) -> None:
    """GloVe files contain some, but tokens have no white space."""
    (tmp_path / "g").write_text("the 1 2\n. . . 1 2\nat name 3 4\nfilm 5 6\n")
    assert read(make_settings(tmp_path / "g"), {"film", "."}).words == ["the", "film"]


def test_vectors_are_cached_for_the_same_file_words_and_settings(
    tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small local file is read again instead: that is as fast, and the vectors are on the disk once less."""
    path = write_vectors(tmp_path, "binary")
    cache = tmp_path / "cache"
    read(make_settings(path), {"film", "naïve"}, cache)
    assert not cache.exists()
    monkeypatch.setattr(vector_files, "UNCACHED_BYTES", 0)
    first = read(make_settings(path), {"film", "naïve"}, cache)
    [cached] = cache.iterdir()
    before = path.stat()
    middle = path.read_bytes()[: -5 * 4]
    again = read(make_settings(path), {"naïve", "film"}, cache)
    assert (again.words, again.from_ngrams) == (first.words, first.from_ngrams)
    np.testing.assert_array_equal(again.matrix, first.matrix)
    messages.clear()
    read_vectors(make_settings(path), {"naïve", "film"}, str(cache))
    assert messages == [f"reading vectors of {path} from the cache: {cached}"]
    read(make_settings(path), {"film"}, cache)
    assert len(list(cache.iterdir())) == 2
    for other in ({"extra_words": 1}, {"unicode_errors": "ignore"}, {"format": "word2vec-binary"}):
        num_files = len(list(cache.iterdir()))
        read(make_settings(path, **other), {"film", "naïve"}, cache)
        assert len(list(cache.iterdir())) == num_files + 1
    path.write_bytes(middle + np.full(5, 7, "<f4").tobytes())
    assert path.stat().st_size == before.st_size
    assert (read(make_settings(path), {"film", "naïve"}, cache).matrix[-1] == 7).all()
    cached.write_bytes(cached.read_bytes()[:50])  # truncated: read again
    path.write_bytes(middle + MATRIX[-1].tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(make_settings(path), {"film", "naïve"}, cache).words == first.words
    assert cached.stat().st_size > 50


@pytest.mark.parametrize("name", ["file://{}/vectors.binary", "memory://vectors"])
def test_uris_of_pyarrow_and_fsspec_are_read(tmp_path: Path, name: str) -> None:
    """The cache is in the storage, which may be a URI too."""
    path = write_vectors(tmp_path, "binary")
    fsspec.filesystem("memory").pipe("/vectors", gzip.compress(path.read_bytes()))
    uri = name.format(tmp_path)
    cache = f"file://{tmp_path}/cache"
    for _ in range(2):
        vectors = read_vectors(make_settings(uri, extra_words=0), {"film"}, cache)
        assert vectors.words == ["film"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    with pytest.raises(VectorsError, match=r"none: .*\(vectors.path\)"):
        read(make_settings(uri + "none"), {"film"})
    with pytest.raises(VectorsError, match="nothing here reads 'nonsense://'"):
        read(make_settings("nonsense://x"), {"film"})


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """URL and folder of a web server on loopback."""
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


def test_vectors_are_read_from_the_web(web: tuple[str, Path], tmp_path: Path) -> None:
    """A missing page is an error."""
    url, folder = web
    (folder / "v.bin.gz").write_bytes(gzip.compress(write_vectors(tmp_path, "binary").read_bytes()))
    cache = tmp_path / "cache"
    assert read(make_settings(f"{url}/v.bin.gz", extra_words=0), {"film"}, cache).words == ["film"]
    assert len(list(cache.iterdir())) == 1
    with pytest.raises(VectorsError, match=r"none.bin: cannot be read"):
        read(make_settings(f"{url}/none.bin"), {"film"})


def test_a_model_of_gensims_downloader_is_downloaded_once(
    web: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of the downloaded model is not run."""
    import gensim.downloader

    url, folder = web
    content = gzip.compress(write_vectors(tmp_path, "text").read_bytes())
    (folder / "tiny-5").mkdir()
    (folder / "tiny-5" / "tiny-5.gz").write_bytes(content)
    (folder / "tiny-5" / "__init__.py").write_text("raise SystemExit('run')")
    model = {"parts": 1, "file_name": "tiny-5.gz", "checksum": hashlib.md5(content).hexdigest()}
    (folder / "list.json").write_text(json.dumps({"corpora": {}, "models": {"tiny-5": model}}))
    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path / "gensim-data"))
    monkeypatch.setattr(gensim.downloader, "DOWNLOAD_BASE_URL", url)
    monkeypatch.setattr(gensim.downloader, "_load_info", partial(gensim.downloader._load_info, url=f"{url}/list.json"))
    assert read(make_settings("gensim:tiny-5", extra_words=0), {"film"}).words == ["film"]
    (folder / "tiny-5" / "tiny-5.gz").unlink()
    assert read(make_settings("gensim:tiny-5", extra_words=0), {"film"}).words == ["film"]
    with pytest.raises(VectorsError, match=r"gensim:tiny: unknown to gensim's downloader, which has tiny-5"):
        read(make_settings("gensim:tiny"), {"film"})
    with pytest.raises(VectorsError, match=r"write gensim:tiny-5"):
        read(make_settings("tiny-5"), {"film"})


def test_a_failed_download_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is that of gensim."""
    import gensim.downloader

    monkeypatch.setattr(gensim.downloader, "BASE_DIR", str(tmp_path))
    monkeypatch.setattr(
        gensim.downloader, "_load_info", partial(gensim.downloader._load_info, url="http://127.0.0.1:9/list.json")
    )
    with pytest.raises(VectorsError, match="gensim's downloader failed: unable to read local cache"):
        read(make_settings("gensim:tiny-5"), {"film"})


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    """The mark may be before the counts or before the first word."""
    for content in (b"2 2\na 1 2\nb 3 4\n", b"a 1 2\nb 3 4\n"):
        (tmp_path / "v").write_bytes(b"\xef\xbb\xbf" + content)
        assert read(make_settings(tmp_path / "v"), {"a"}).words == ["a", "b"]


def test_a_word_with_a_zero_vector_counts_as_missing(tmp_path: Path, messages: list[str]) -> None:
    """The number of such words is logged."""
    (tmp_path / "v").write_text("a 0 0\nb 3 4\n")
    assert read_vectors(make_settings(tmp_path / "v"), {"a", "b"}, None).words == ["b"]
    assert messages[-1].startswith("1 words have a vector of zeros")


def test_other_dimensions_than_those_set_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dimensions of a file and of its cached vectors are checked."""
    monkeypatch.setattr(vector_files, "UNCACHED_BYTES", 0)
    path = write_vectors(tmp_path, "binary")
    assert read(make_settings(path, dimensions=5), {"film"}).words
    for cache in (None, tmp_path / "cache"):
        read(make_settings(path), {"film"}, cache)  # fills the cache
        with pytest.raises(VectorsError, match=r"has 5 dimensions, but vectors.dimensions is 300"):
            read(make_settings(path, dimensions=300), {"film"}, cache)


def test_the_default_dimensions_count_as_unset(tmp_path: Path) -> None:
    """The experiment.yaml of a run has them, whether they were set or not."""
    path = write_vectors(tmp_path, "binary")
    experiment = Experiment().replace({"vectors.path": str(path)})
    assert "dimensions" in experiment.vectors.model_fields_set
    assert read(experiment.vectors, {"film"}).matrix.shape[1] == 5


def test_vectors_without_a_file_that_have_no_word_of_the_texts_are_an_error() -> None:
    """Such as those of an earlier fit of an estimator."""
    vectors = WordVectors(["film"], np.ones((1, 5), np.float32))
    with pytest.raises(VectorsError, match=r"^vectors of the earlier fit: contains none of the words of the texts"):
        restrict_vectors(vectors, VectorSettings(extra_words=0), {"sonata"})


@pytest.mark.parametrize("extra_words", [0, 100])
@pytest.mark.parametrize(
    "content",
    [b"3 2\na 1 2\n 3 4\nb 5 6\n", b"a 1 2\n\t3 4\nb 5 6\n", b"3 2\n" + b"".join(
        word + b" " + np.array([1, 2], "<f4").tobytes() for word in (b"a", b"", b"b")
    )],
)  # fmt: skip
def test_rows_without_a_word_are_skipped(tmp_path: Path, messages: list[str], content: bytes, extra_words: int) -> None:
    """Their number is logged; they count as words of the first line."""
    path = tmp_path / "v"
    path.write_bytes(content)
    assert read(make_settings(path, extra_words=extra_words), {"a", "b"}).words == ["a", "b"]
    assert f"{path}: skipped 1 rows without a word" in messages


def test_composed_and_decomposed_words_are_the_same(tmp_path: Path) -> None:
    """A word is found in every Unicode spelling; Turkish letters in every case."""
    (tmp_path / "v").write_text("cafe\u0301 1 2\nna\u00efve 3 4\n\u0130zmir 5 6\n\u0131rmak 7 8\nother 9 9\n")
    vectors = read(make_settings(tmp_path / "v", extra_words=0), {"caf\u00e9", "na\u00efve", "izmir", "irmak"})
    assert vectors.words == ["cafe\u0301", "na\u00efve", "\u0130zmir", "\u0131rmak"]


@pytest.mark.parametrize("extra_words", [0, 2, 100])
@pytest.mark.parametrize("target_words", [{"film"}, {"new", "rest"}, set(WORDS), {"absent", "the"}])
def test_restricted_vectors_are_those_of_a_file_read_for_fewer_words(
    tmp_path: Path, target_words: set[str], extra_words: int
) -> None:
    settings = make_settings(write_vectors(tmp_path, "binary"), extra_words=extra_words)
    expected = read(settings, target_words)
    restricted = restrict_vectors(read(settings, {*WORDS, "absent"}), settings, target_words)
    assert restricted.words == expected.words
    np.testing.assert_array_equal(restricted.matrix, expected.matrix)


def test_the_start_of_a_file_is_checked_without_reading_it_all(tmp_path: Path, whole_files: dict[str, bytes]) -> None:
    """Later rows may be broken."""
    for kind, content in whole_files.items():
        path = tmp_path / kind
        path.write_bytes(content[: len(content) // 2])
        check_vectors_file(make_settings(path, dimensions=5))
        with pytest.raises(VectorsError, match=r"has 5 dimensions, but vectors.dimensions is 300"):
            check_vectors_file(make_settings(path, dimensions=300))
    with pytest.raises(VectorsError, match="no such vectors file"):
        check_vectors_file(make_settings(tmp_path / "none.txt"))
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(VectorsError, match="is neither word2vec"):
        check_vectors_file(make_settings(tmp_path / "rows.csv"))
    check_vectors_file(make_settings("gensim:not-downloaded"))


def test_a_zip_archive_is_an_error(tmp_path: Path) -> None:
    """GloVe is distributed as one."""
    with zipfile.ZipFile(tmp_path / "glove.zip", "w") as archive:
        archive.writestr("glove.txt", "a 1 2\n")
    with pytest.raises(VectorsError, match="is a zip archive; unpack it"):
        read(make_settings(tmp_path / "glove.zip"), {"film"})


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Content of a file of each format, plain and gzipped."""
    folder = tmp_path_factory.mktemp("whole")
    files = {kind: write_vectors(folder, kind).read_bytes() for kind in ("binary", "text", "glove")}
    model = FastText([WORDS] * 5, vector_size=5, min_count=1, epochs=1, bucket=50, workers=1)
    save_facebook_model(model, str(folder / "model.bin"))
    files["fasttext"] = (folder / "model.bin").read_bytes()
    return files | {f"{kind}.gz": gzip.compress(content) for kind, content in files.items()}


@hypothesis.settings(
    max_examples=400, deadline=None, derandomize=True, database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_a_corrupted_file_is_an_error_or_vectors(
    data: st.DataObject, whole_files: dict[str, bytes], tmp_path: Path
) -> None:
    """Bytes are changed, inserted, removed or repeated: no other exception, no endless loop, little memory."""
    content = bytearray(whole_files[data.draw(st.sampled_from(sorted(whole_files)))])
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, max(0, len(content) - 1)))
        change = data.draw(st.sampled_from(["set", "insert", "cut", "repeat", "digits"]))
        if change == "set":
            content[index : index + 1] = data.draw(st.binary(min_size=1, max_size=8))
        elif change == "insert":
            content[index:index] = data.draw(st.binary(min_size=1, max_size=40))
        elif change == "cut":
            del content[index : index + data.draw(st.integers(1, len(content) + 1))]
        elif change == "repeat":
            content[index:index] = content[index : index + 50] * data.draw(st.integers(1, 20))
        else:
            content[: data.draw(st.integers(0, 12))] = b"9" * data.draw(st.integers(0, 30))
    path = tmp_path / "corrupted"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        vectors = read(make_settings(path), {"film", "the", "nowhere"})
        assert vectors.matrix.shape[0] == len(vectors.words) == len(set(vectors.words))
        assert np.isfinite(vectors.matrix).all()
    except VectorsError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The readers have buffers of a fixed size. The time limit is generous: it detects an endless loop.
    assert peak < 16 * len(content) + 8 * CHUNK_BYTES
    assert time.perf_counter() - start < 30


def test_a_gzip_bomb_is_read_in_chunks(tmp_path: Path) -> None:
    """100 MB of one letter are 0.1 MB when compressed."""
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(b"a" * 100_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(VectorsError):
            read(make_settings(path), {"film"})
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
