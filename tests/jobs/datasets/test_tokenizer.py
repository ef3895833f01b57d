"""Tokenizer and vocabulary."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from jobs.config.settings import TextSettings
from jobs.datasets.tokenization import text_tokens
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenization.installed import TokenizerError
from jobs.datasets.tokenizer import (
    UNKNOWN,
    DefaultSettings,
    Tokens,
    Vocabulary,
    count_words,
    encode,
    tokenize,
    tokenize_with_offsets,
)
from tests.support.installed_tokenizer import NAME, install_tokenizer


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        (" \n\t", []),
        ("It's GREAT, isn't it?", ["it", "'s", "great", ",", "is", "n't", "it", "?"]),
        ("They’ll go!!!!!", ["they", "'ll", "go", "!!!"]),
        ("naïve café 東京", ["naïve", "café", "東", "京"]),
        ("a-b 3.5", ["a", "-", "b", "3", ".", "5"]),
        ("cafe\u0301, na\u0131\u0308ve", ["caf\u00e9", ",", "na\u0131\u0308ve"]),
        ("हिन्दी भाषा में", ["हिन्दी", "भाषा", "में"]),
        ("क्\u200dष می\u200cخواهم അവന്\u200d", ["क्\u200dष", "می\u200cخواهم", "അവന്\u200d"]),
        ("\U00011083\U000110b0", ["\U00011083\U000110b0"]),  # Kaithi, beyond the basic plane
        ("İSTANBUL I\u0307zmir", ["istanbul", "izmir"]),
        ("J\u030cn't", ["\u01f0", "n't"]),  # composed only in lower case
        ("❤\ufe0fgood \u0301x 👨\u200d👩", ["❤", "\ufe0f", "good", "\u0301", "x", "👨", "\u200d", "👩"]),
        ("தமிழ் מַיִם كِتَابٌ", ["தமிழ்", "מַיִם", "كِتَابٌ"]),
        ("カタカナ ひらがな ﾊﾟ", [*"カタカナひらがな", "ﾊﾟ"]),
        ("は\u3099か ２０個 a日b", ["ば", "か", "２０", "個", "a", "日", "b"]),
        ("น้ำเย็น ๑๒๓", ["น้ำ", "เ", "ย็", "น", "๑๒๓"]),
        ("ຄຳ ພາສາລາວ", ["ຄຳ", "ພ", "າ", "ສ", "າ", "ລ", "າ", "ວ"]),
        ("ខ្មែរ\u200bក", ["ខ្មែ", "រ", "ក"]),
        ("မြန်မာ သတ္တိ", ["မြ", "န်", "မာ", "သ", "တ္တိ"]),
        ("м’яч don’t l’été 'été'", ["м'яч", "do", "n't", "l", "'", "été", "'", "été", "'"]),
        ('צה"ל "שלום" ג׳ז', ['צה"ל', '"', "שלום", '"', "ג׳ז"]),
        ("col·lecció a·b α·β ٣٫٥ 3.5", ["col·lecció", "a", "·", "b", "α", "·", "β", "٣٫٥", "3", ".", "5"]),
        ("שלום\u200f! \ufeffa", ["שלום", "!", "a"]),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    """Words, clitics, punctuation and the clusters of scripts without spaces are separate tokens."""
    assert tokenize(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("日本語 a日本 中。", ["日本", "本語", "a", "日本", "中", "。"]),
        ("น้ำเย", ["น้ำเ", "เย"]),
        ("don't naïve", ["do", "n't", "naïve"]),
    ],
)
def test_pairs_overlap(text: str, tokens: list[str]) -> None:
    """A cluster alone is a token."""
    assert tokenize(text, TextSettings(tokenizer="unicode-pairs")) == tokens


def test_earlier_tokenizer_has_runs_of_letters_as_words() -> None:
    text = "東京 ภาษา м'яч col·lecció a\ufeffb"
    tokens = ["東京", "ภาษา", "м", "'", "яч", "col", "·", "lecció", "a", "\ufeff", "b"]
    assert tokenize(text, TextSettings(tokenizer="words")) == tokens


WORD_LETTERS = "aZé\u0301\u0323ЖйΣ\u0915\u093f\u094d\u0ba4\u0bae\u05d0\u05b7\u0643\u064e\u0661x1_한 "
CLUSTERS = [*"日本かガนเກកម", "か\u3099", "น้", "น้ำ", "ກຳ", "ខ្មែ", "ក្ក្ក", "មា", "မြ", "န်", "တ္တိ", "မ္မ", " "]


@given(text=st.text(st.sampled_from(WORD_LETTERS), max_size=15))
def test_words_are_those_of_the_unicode_standard(text: str) -> None:
    """As `regex` finds them by the default word boundaries of UAX #29."""
    text = unicodedata.normalize("NFC", "a" + text)  # marks follow a letter
    words = [word for word in regex.split(r"\b", text, flags=regex.WORD | regex.V1) if word.strip()]
    words = [word.strip() for word in words]
    if not any(unicodedata.category(word[0])[0] == "M" for word in words):
        assert tokenize(text, TextSettings(lowercase=False)) == words


@given(clusters=st.lists(st.sampled_from(CLUSTERS), max_size=15))
def test_clusters_are_those_of_the_unicode_standard(clusters: list[str]) -> None:
    """As `regex` finds extended grapheme clusters, in Thai, Lao, Khmer, Burmese, Chinese and Japanese."""
    text = unicodedata.normalize("NFC", "".join(clusters))
    assert tokenize(text) == [cluster for cluster in regex.findall(r"\X", text) if cluster.strip()]


def test_installed_tokenizer_divides_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens have no white space; offsets are those of the text, which it receives in NFC and lower case."""
    monkeypatch.syspath_prepend(install_tokenizer(tmp_path))
    settings = TextSettings(tokenizer=NAME)
    assert tokenize("Cafe\u0301|New York/x", settings) == ["café", "new", "york/", "x"]
    offsets = tokenize_with_offsets("\u200eCafe\u0301|New/x", settings)
    assert offsets == [("café", 1, 6), ("new/", 7, 11), ("x", 11, 12)]
    monkeypatch.setattr(text_tokens, "MIN_CHARACTERS", 0)
    assert text_tokens.tokenize_texts(["A|b", ""], settings) == [["a", "b"], []]


def test_tokenizer_that_is_not_installed_is_named() -> None:
    with pytest.raises(TokenizerError, match=r"'nothing' is neither unicode, .* install the package"):
        tokenize("a", TextSettings(tokenizer="nothing"))
    with pytest.raises(TokenizerError, match=r"'pythainlp' cannot be imported .* install its package"):
        tokenize("a", TextSettings(tokenizer="pythainlp"))


@pytest.mark.parametrize("path", ["trec/train.tsv", "mr/all.tsv", "sst2/train.tsv", "debtags/train.jsonl"])
def test_english_tokens_are_those_of_the_earlier_tokenizer(path: str, shared_data: Path) -> None:
    lines = [line for line in Path(shared_data, path).read_text(encoding="utf-8").splitlines() if not line.isascii()]
    assert lines
    earlier = TextSettings(tokenizer="words")
    assert [tokenize(line) for line in lines] == [tokenize(line, earlier) for line in lines]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("They’ll go!!!!!", [("they", 0, 4), ("'ll", 4, 7), ("go", 8, 10), ("!!!", 10, 15)]),
        ("İ is!", [("i", 0, 1), ("is", 2, 4), ("!", 4, 5)]),  # in lower case, İ has two characters
        ("e\u0301te\u0301 e\u0301", [("\u00e9t\u00e9", 0, 5), ("\u00e9", 6, 8)]),
        ("\u1112\u1161\u11ab x", [("\ud55c", 0, 3), ("x", 4, 5)]),  # letters of one Korean syllable
    ],
)
def test_offsets_are_those_of_the_text(text: str, tokens: list[tuple[str, int, int]]) -> None:
    offsets = tokenize_with_offsets(text)
    assert [token for token, _, _ in offsets] == tokenize(text)
    assert offsets == tokens


LETTERS = "aIi\u0130\u0131\u0307\u0301\u0323nN'tT\u2019 \u0915\u093f\u094d\u200d\u200c\u1100\u1161\u11a8"
LETTERS += '\u09c7\u09be-\u2764\ufe0f\u03a3H\u0331\u212b!"\u05d0\u00b7l\u0e19\u0e33\u200f\u65e5\u304b\u3099'
SETTINGS = st.builds(TextSettings, tokenizer=st.sampled_from(BUILT_IN), lowercase=st.booleans())


@given(text=st.text(st.sampled_from(LETTERS), max_size=12) | st.text(max_size=12), settings=SETTINGS)
def test_all_spellings_of_a_text_have_the_same_tokens(text: str, settings: TextSettings) -> None:
    """Composed or not, and with offsets; offsets are inside the text."""
    tokens = tokenize(text, settings)
    for form in ("NFC", "NFD"):
        assert tokenize(unicodedata.normalize(form, text), settings) == tokens
    offsets = tokenize_with_offsets(text, settings)
    assert [token for token, _, _ in offsets] == tokens
    assert all(0 <= start < end <= len(text) for _, start, end in offsets)


def test_ids_of_known_and_unknown_words() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert len(vocabulary) == 4
    assert vocabulary.encode(["b", "x", "a"]) == [3, UNKNOWN, 2]
    with pytest.raises(ValueError, match="once"):
        Vocabulary(["a", "a"])


def test_texts_are_encoded_as_flat_arrays() -> None:
    """Long texts are truncated, empty ones have an offset too."""
    tokens = encode([["a", "b", "a"], [], ["b"]], Vocabulary(["a", "b"]), max_tokens=2)
    assert tokens.ids.tolist() == [2, 3, 3]
    assert tokens.lengths.tolist() == [2, 0, 1]
    assert tokens.offsets.tolist() == [0, 2, 2, 3]


def test_texts_are_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a slice, which maps the same ids, and by numbers in any order, of more texts than are copied at once."""
    monkeypatch.setattr("jobs.datasets.tokenizer.SELECT_ROWS", 2)
    texts = [[2, 3], [], [4], [5, 6, 7], [8]]
    offsets = np.cumsum([0, *map(len, texts)])
    tokens = Tokens(np.array([number for text in texts for number in text], np.int32), offsets)
    for rows in (slice(None), slice(1, 4), slice(0), slice(3, 99), [4, 1, 3, 0, 2], [1], []):
        is_slice = isinstance(rows, slice)
        selected = tokens.select(rows if is_slice else np.array(rows, np.int64))
        expected = texts[rows] if is_slice else [texts[row] for row in rows]
        assert [list(part) for part in np.split(selected.ids, selected.offsets[1:-1])][: len(selected)] == expected
        assert np.shares_memory(selected.ids, tokens.ids) == (is_slice and bool(expected))
        assert selected.ids.dtype == np.int32


@pytest.mark.parametrize("texts", [[["b", "a"], ["c", "b"]], [["c", "b"], ["b", "a"]], [["b", "c", "a", "b"]]])
def test_the_order_of_the_rows_does_not_change_the_vocabulary(texts: list[list[str]]) -> None:
    """The most frequent words come first, equally frequent ones in alphabetical order."""
    assert count_words(texts, 2) == [("b", 2), ("a", 1)]


def test_the_default_settings_are_those_of_an_experiment() -> None:
    """They are written twice, so that the tokenizer can be imported without pydantic."""
    assert DefaultSettings()._asdict() == TextSettings().model_dump(include={"tokenizer", "lowercase"})
