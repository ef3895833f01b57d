"""Compiled tokenizer: it tokenizes texts exactly as training does."""

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.config.settings import TextSettings
from jobs.datasets import tokenizer
from jobs.datasets.tokenization import characters, code_points, nearest_words, patterns, tokenizer_kernel
from jobs.datasets.tokenization.characters import UNICODE as DEFAULT
from jobs.datasets.tokenizer import Vocabulary
from jobs.inference import scoring_kernel

WORDS = ["do", "n't", "'s", "'ll", "'re", "'d", "it", "n", "t", "'", "!!!", "..", "a_b", "x1", "can", "ca", "''"]
ASCII = st.text(string.printable + "\x00\x1c\x1f\x7f", max_size=40) | st.lists(
    st.sampled_from([*WORDS, "DON'T", "N'T", "can't", "cann't", "'LL", "'ves", "I'm", "$", "____", " ", "\n"])
).map("".join)
# Letters whose case, composition or class needs care; Σ has two lower-case forms, ᾳ and ñ are composed in two ways.
LETTERS = "aIi\u0130\u0131\u0307\u0301\u0323\u0331nN'tTsS\u2019 \u0915\u093f\u094d\u200d\u200c\u1100\u1161\u11a8"
LETTERS += "“…ⱥȺЖ中é\ud800\U0001f600\U00020000"
LETTERS += '"\u05d0\u05b0\u05f4\u00b7lL\u0e19\u0e33\u0e40\u1780\u17d2\u200b\u200f\u304b\u3099\u30ac\u0661\u066b\u203f'
LETTERS += "\u09c7\u09be-\u2764\ufe0f\u03a3\u03c3\u0391H\u212b!.\u1fb3\u00f1\u00ad\u0345\u1e9e"
UNICODE = st.text(st.sampled_from(LETTERS), max_size=12) | st.text(
    st.sampled_from(LETTERS) | st.characters(), max_size=12
)

NO_TABLE = np.empty(0, np.int16)


def index(words: list[str]) -> tuple[np.ndarray, ...]:
    """Return the kernel's vocabulary of a few words."""
    encoded = [word.encode("utf-8", "surrogatepass") for word in words]
    word_offsets = np.cumsum([0, *map(len, encoded)])
    slots = np.full(64, -1, np.int64)
    word_bytes = np.frombuffer(b"".join(encoded), np.uint8)
    tokenizer_kernel.build_hash_table(word_bytes, word_offsets, slots)
    return word_bytes, word_offsets, slots, np.empty(0, np.int32), np.empty(0, np.int64)


def normalize(text: str, lowercase: bool, name: str = DEFAULT) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the normalized form of a text and its classes; None if Python must normalize it."""
    encoded = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    normalized, classes = np.empty((2, 2 * len(encoded)), np.uint8)
    tables = code_points.make_tables(lowercase, name)
    end = code_points.normalize_text(encoded, 0, len(encoded), *tables, normalized, classes, 0)
    return None if end < 0 else (normalized[:end], classes[:end])


def split(text: str, lowercase: bool = True, length: int = 1000, words: list[str] = WORDS) -> list[int]:
    """Return the kernel's word ids of a text in ASCII."""
    ids = np.empty(length, np.int64)
    normalized, classes = np.empty((2, len(text)), np.uint8)
    encoded = np.frombuffer(text.encode(), np.uint8)
    end = tokenizer_kernel.normalize_ascii(encoded, 0, len(text), lowercase, normalized, classes)
    return ids[: tokenizer_kernel.tokenize(normalized, classes, 0, end, *index(words), ids, NO_TABLE, 0)].tolist()


@pytest.mark.parametrize("lowercase", [True, False])
@settings(deadline=None)  # the first call compiles
@given(text=ASCII)
def test_tokens_in_ascii_are_those_of_training(lowercase: bool, text: str) -> None:
    """With clitics, runs of punctuation marks and control characters; both normalizations are the same."""
    assert split(text, lowercase) == Vocabulary(WORDS).encode(
        tokenizer.tokenize(text, TextSettings(lowercase=lowercase))
    )
    result = normalize(text, lowercase)
    assert result is not None
    assert result[0].tobytes() == (text.lower() if lowercase else text).encode()


@settings(deadline=None, max_examples=1000)
@given(text=UNICODE, lowercase=st.booleans(), name=st.sampled_from(characters.BUILT_IN))
def test_tokens_of_any_script_are_those_of_training(text: str, lowercase: bool, name: str) -> None:
    """A text is normalized as in training or left to Python; each of its tokens has its own id."""
    result = normalize(text, lowercase, name)
    if result is None:
        return
    normalized, classes = result
    visible = text if name == characters.WORDS else characters.FORMATS.sub("", text)
    assert normalized.tobytes().decode() == tokenizer.normalize(visible, lowercase)
    tokens = tokenizer.tokenize(text, TextSettings(tokenizer=name, lowercase=lowercase))
    words = list(dict.fromkeys(tokens))
    ids = np.empty(100, np.int64)
    count = tokenizer_kernel.tokenize(normalized, classes, 0, len(normalized), *index(words), ids, NO_TABLE, 0)
    assert ids[:count].tolist() == Vocabulary(words).encode(tokens)


@pytest.mark.parametrize(
    "text",
    [
        "Straße naïve façade “quoted” it’s — 😀", "ΟΔΟΣ ΟΔΟΣ.ΑΒ Σ", "İstanbul'da", "हिन्दी लड़का", "தமிழ்", "বাংলা",
        "日本語", "한국어", "العربية", "Việt Nam", "ภาษาไทยน้ำ", "ខ្មែរ", "မြန်မာ", "שָׁלוֹם\u200f", "カタカナ", "м'яч",
    ],
)  # fmt: skip
def test_usual_texts_of_many_languages_are_not_left_to_python(text: str) -> None:
    assert normalize(text, True) is not None


@pytest.mark.parametrize(
    "text", ["e\u0301", "I\u0307", "\u0130\u0301", "\u1100\u1161", "\u212b", "\u00f1\u0323", "\U00020000"]
)
def test_texts_that_are_not_composed_are_left_to_python(text: str) -> None:
    """Also code points beyond the table."""
    assert normalize(f"a {text} b", lowercase=False) is None or normalize(f"a {text} b", lowercase=True) is None


@pytest.mark.parametrize(
    "text", [b"\xe9", b"a\xc3", b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xff", b"\xc3a", b"\x80"]
)
def test_bytes_that_are_not_utf8_are_left_to_python(text: bytes) -> None:
    """Nothing beyond the text is read: a sequence may be cut off at its end."""
    encoded, (normalized, classes) = np.frombuffer(text + b"\xa9\xa9", np.uint8), np.empty((2, 20), np.uint8)
    tables = code_points.make_tables(True)
    assert code_points.normalize_text(encoded, 0, len(text), *tables, normalized, classes, 0) == -1


def test_tokens_beyond_the_length_of_the_output_are_dropped() -> None:
    """As many tokens as fit into the output are written."""
    assert split("do it " * 5, length=3) == [2, 8, 2]


def test_words_whose_hashes_collide_are_distinguished() -> None:
    """The hash table is half full, so that words share slots."""
    words = [f"w{number}" for number in range(31)]
    assert [split(word, words=words) for word in words] == [[number + 2] for number in range(31)]


def test_words_with_equal_parts_of_their_hashes_are_distinguished() -> None:
    """The first slot of a word has another one with the same part of the hash, and the same length or another one."""
    for other in ("ab", "abc"):
        content = np.frombuffer(f"{other}cd".encode(), np.uint8)
        offsets = np.array([0, len(other), len(content)])
        key = tokenizer_kernel.hash_bytes(content, len(other), len(content))
        slots = np.full(4, -1, np.int64)
        first = int(key & np.uint64(3))
        slots[first] = tokenizer_kernel.make_entry(0, key)
        arguments = content, len(other), len(content), key, content, offsets, slots
        assert tokenizer_kernel.find_slot(*arguments) == (first + 1) % 4, "free"
        slots[(first + 1) % 4] = tokenizer_kernel.make_entry(1, key)
        assert tokenizer_kernel.get_word(slots[tokenizer_kernel.find_slot(*arguments)]) == 1


def test_compiled_constants_are_those_of_other_files() -> None:
    """numba would not notice a change of these constants in another file."""
    for name in ("PUNCTUATION", "SPACE", "JOINER", "MIDDLE", "SINGLE", "PAIRED", "WORD", "MARK", "LINKER"):
        assert getattr(tokenizer_kernel, name) == getattr(characters, name)
    assert (tokenizer_kernel.FIRST_WORD - 1, tokenizer_kernel.MAX_PUNCTUATION_RUN) == (
        tokenizer.UNKNOWN, patterns.MAX_PUNCTUATION_RUN,
    )  # fmt: skip
    assert nearest_words.UNKNOWN == tokenizer.UNKNOWN
    assert (scoring_kernel.PADDING, scoring_kernel.UNKNOWN) == (tokenizer.PADDING, tokenizer.UNKNOWN)
