"""Tokens of many texts: those of the tokenizer of a single text."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import settings as configure
from hypothesis import strategies as st

from jobs.config.settings import TextSettings
from jobs.datasets.tokenization import code_points, text_tokens
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenization.text_tokens import find_words, tokenize_texts
from jobs.datasets.tokenizer import tokenize

TEXTS = [
    "It isn't",
    "",
    "CAFÉ cafe\u0301 “naïve”!!!!",
    "ΟΔΟΣ",
    " ",
    "\ud800 a_b",
    "isn't it",
    "日本語 \U00020000",
    "a\u200db",
]


@pytest.fixture(autouse=True, scope="module")
def compiled_tokenizer() -> Iterator[None]:
    """Tokenize few texts in compiled code too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tokens, "MIN_CHARACTERS", 0)
        yield


@configure(deadline=None)  # the first call compiles
@given(
    texts=st.lists(st.sampled_from(TEXTS) | st.text(max_size=20), max_size=8),
    tokenizer=st.sampled_from(BUILT_IN),
    lowercase=st.booleans(),
)
def test_tokens_are_those_of_the_single_text(texts: list[str], tokenizer: str, lowercase: bool) -> None:
    """Of any script; some texts are empty, or normalized in Python."""
    settings = TextSettings(tokenizer=tokenizer, lowercase=lowercase)
    expected = [tokenize(text, settings) for text in texts]
    assert tokenize_texts(texts, settings) == expected
    assert find_words(texts, settings) == {token for tokens in expected for token in tokens}


def test_texts_are_tokenized_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text may be longer than a chunk; the order stays."""
    texts = [" ".join(f"w{number}" for number in range(count % 7)) for count in range(100)]
    monkeypatch.setattr(text_tokens, "CHUNK_BYTES", 16)
    assert tokenize_texts(texts) == [tokenize(text) for text in texts]


def test_tokens_whose_hashes_collide_are_distinguished() -> None:
    """Every letter is another token, so that the hash table is as full as it can be."""
    text = " ".join(chr(code) for code in range(0x4E00, 0x6000))
    assert tokenize_texts([text, text]) == 2 * [tokenize(text)]


def test_few_texts_are_tokenized_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of the compiled tokenizer would take longer."""
    monkeypatch.setattr(text_tokens, "MIN_CHARACTERS", 4)
    monkeypatch.setattr(code_points, "make_tables", None)
    assert tokenize_texts(["a b"]) == [["a", "b"]]
    assert find_words(["a b"]) == {"a", "b"}
    with pytest.raises(TypeError):
        tokenize_texts(["a b", "c"])
