"""Words of Japanese texts by SudachiPy."""

import sys
from collections.abc import Iterator
from importlib import metadata
from types import ModuleType, SimpleNamespace

import pytest

from jobs.datasets.tokenization.installed import TokenizerError, find_package, list_tokens, load_tokenizer


@pytest.fixture(autouse=True)
def unloaded_tokenizer() -> Iterator[None]:
    """Each test loads the tokenizer again."""
    load_tokenizer.cache_clear()
    yield
    load_tokenizer.cache_clear()


def test_a_text_is_divided_into_words() -> None:
    pytest.importorskip("sudachipy", reason="the package sudachipy is not installed")
    pytest.importorskip("sudachidict_core", reason="the package sudachidict_core is not installed")
    assert list_tokens("sudachipy", "ラーメンを食べました") == ["ラーメン", "を", "食べ", "まし", "た"]
    assert find_package("sudachipy") == {"SudachiPy": metadata.version("sudachipy")}


@pytest.mark.parametrize("length", [0, 30, 100_000])
def test_long_texts_are_divided_in_parts(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SudachiPy is replaced: it fails on texts of more than 49,149 bytes."""

    def tokenize(text: str) -> list[SimpleNamespace]:
        assert 0 < len(text.encode()) <= 49_149
        return [
            SimpleNamespace(surface=lambda start=start: text[start : start + 2]) for start in range(0, len(text), 2)
        ]

    module = ModuleType("sudachipy")
    tokenizer = SimpleNamespace(tokenize=tokenize)
    monkeypatch.setattr(module, "Dictionary", lambda: SimpleNamespace(tokenizer=lambda: tokenizer), raising=False)
    monkeypatch.setitem(sys.modules, "sudachipy", module)
    assert list_tokens("sudachipy", "東京" * length) == ["東京"] * length


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sudachipy", None)
    with pytest.raises(TokenizerError, match=r"'sudachipy' cannot be imported .*; install its package"):
        list_tokens("sudachipy", "東京")
