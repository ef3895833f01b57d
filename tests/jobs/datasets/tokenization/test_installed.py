"""Tokenizers of installed packages: their tokens, bounds and errors."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.config.settings import TextSettings
from jobs.datasets.tokenization import installed
from jobs.datasets.tokenization.installed import (
    MAX_GAP,
    TokenizerError,
    check_tokenizer,
    list_tokens,
    load_tokenizer,
    locate_tokens,
)
from jobs.datasets.tokenizer import tokenize, tokenize_with_offsets
from tests.support.installed_tokenizer import NAME, install_tokenizer

Register = Callable[[Callable[[str], object]], None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Function that makes another one the tokenizer of every name."""
    return lambda split: monkeypatch.setattr(installed, "load_tokenizer", lambda name: split)


def test_tokens_of_any_iterable_are_composed_and_not_empty(register: Register) -> None:
    """Also those that a tokenizer decomposes; zero-width spaces divide words, as in the built-in tokenizers."""

    def split(text: str) -> Iterator[str]:
        yield from ("", " ", "cafe\u0301", "a b\n", "ก\u200bข", "\u200b", "\u3000")

    register(split)
    assert list_tokens("any", "text") == ["caf\u00e9", "a", "b", "ก", "ข"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("a b", r"'any' must return a list of str, but returns 'a b'"),
        (["a", 7], r"must return a list of str, but returns a list with 7"),
        ([b"a"], r"but returns a list with b'a'"),
        (None, r"must return a list of str, but returns None"),
    ],
)
def test_tokens_that_are_no_list_of_texts_are_an_error(returned: object, message: str, register: Register) -> None:
    """A text is one: its characters would become tokens."""
    register(lambda text: returned)
    with pytest.raises(TokenizerError, match=message):
        list_tokens("any", "a b")


def test_failure_of_a_tokenizer_names_it_and_the_text(register: Register) -> None:
    def split(text: str) -> Iterator[str]:
        yield "a"
        raise ValueError("too long\nby 3 bytes")

    register(split)
    with pytest.raises(
        TokenizerError, match=r"'any' fails on a text of 600 characters, 'x+ \.\.\. x+', with ValueError: too long by"
    ):
        list_tokens("any", "x" * 600)


def test_a_tokenizer_receives_only_valid_unicode(register: Register) -> None:
    """Packages in C or Rust fail on other texts, which a csv file or a request may have."""
    register(lambda text: [text.encode().decode()])
    settings = TextSettings(tokenizer="any")
    assert tokenize("a\ud800b", settings) == ["a\ufffdb"]
    assert tokenize_with_offsets(" a\ud800b ", settings) == [("a\ufffdb", 1, 4)]


def test_threads_call_a_tokenizer_one_after_the_other(register: Register) -> None:
    """SudachiPy, for example, fails in the second of two threads."""
    busy = threading.Lock()

    def split(text: str) -> Iterator[str]:
        assert busy.acquire(blocking=False), "in use"
        time.sleep(0.001)
        yield text
        busy.release()

    register(split)
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda number: list_tokens("any", f"a{number}"), range(40))] == [[f"a{n}"] for n in range(40)]


def test_tokenizer_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "without_dictionary.py").write_text("open('no-such-dictionary')\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = {"absent": "json:absent", "constant": "sys:maxsize", "dictionary": "without_dictionary:split"}
    for name, value in points.items():
        monkeypatch.setitem(installed.KNOWN_PACKAGES, name, value)
    check_tokenizer("unicode")
    with pytest.raises(TokenizerError, match=r"'absent' cannot be imported \(module 'json' has no attribute"):
        check_tokenizer("absent")
    with pytest.raises(TokenizerError, match=r"'constant', sys:maxsize, is not a function"):
        check_tokenizer("constant")
    with pytest.raises(
        TokenizerError, match=r"import of the tokenizer 'dictionary' fails with FileNotFoundError: .*no-such"
    ):
        check_tokenizer("dictionary")


def test_two_packages_with_the_same_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine the other one could be first."""
    monkeypatch.syspath_prepend(install_tokenizer(tmp_path))
    info = tmp_path / "other_tokens-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-tokens\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{installed.GROUP}]\n{NAME} = other_tokens:split\n")
    with pytest.raises(TokenizerError, match="'bars': other_tokens:split, sample_tokens:split; uninstall all but one"):
        load_tokenizer.__wrapped__(NAME)


@pytest.mark.parametrize(
    ("text", "tokens", "phrases"),
    [
        ("a b a  b", "a b a b", [(0, 1), (2, 3), (4, 5), (7, 8)]),
        ("清华大学好", "清华 华大 大学 清华大学 好", [(0, 2), (1, 3), (2, 4), (0, 4), (4, 5)]),  # jieba.lcut_for_search
        ("哈哈哈哈哈", "哈哈 哈哈 哈", [(0, 2), (2, 4), (4, 5)]),
        ("附属の引越し！", "付属 の 引っ越し ！", [(0, 2), (2, 3), (3, 6), (6, 7)]),  # normalized forms of Sudachi
        ("he was running home", "he be run home", [(0, 2), (3, 6), (7, 10), (15, 19)]),
        ("the cats", "the cat <end>", [(0, 3), (4, 7), (7, 8)]),
        ("went  out ", "go out", [(0, 4), (6, 9)]),
        ("plan, an idea", "plan an idea", [(0, 4), (6, 8), (9, 13)]),
        ("the, he", "the he", [(0, 3), (5, 7)]),
        ("ok! k", "ok k", [(0, 2), (4, 5)]),
        ("is this to be", "be this to be", [(0, 2), (3, 7), (8, 10), (11, 13)]),
        ("a" + " " * 9 + "x" * MAX_GAP + "b", "a b", [(0, 1), (MAX_GAP + 10, MAX_GAP + 11)]),
        ("ab", "x y z", [(0, 2)] * 3),
    ],
)  # fmt: skip
def test_tokens_are_located_in_their_text(text: str, tokens: str, phrases: list[tuple[int, int]]) -> None:
    """Also tokens that overlap; one that the tokenizer has changed has what is between the tokens next to it."""
    assert locate_tokens(tokens.split(), text) == [
        (token, *bounds) for token, bounds in zip(tokens.split(), phrases, strict=True)
    ]


def test_a_token_of_the_empty_text_has_empty_bounds(register: Register) -> None:
    register(lambda text: [*text.split(), "<end>"])
    settings = TextSettings(tokenizer="any")
    assert tokenize_with_offsets("\u200e", settings) == [("<end>", 0, 0)]
    assert tokenize_with_offsets("A ", settings) == [("a", 0, 1), ("<end>", 1, 2)]
