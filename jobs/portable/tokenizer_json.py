r"""Tokenizer of a checkpoint as a tokenizer.json, which the libraries `tokenizers` and `transformers` read.

It expresses the tokenizers `unicode` and `words`; pairs of characters overlap, which no pre-tokenizer of the library
can do, and installed tokenizers are Python code. The token ids are those of `jobs.datasets.tokenizer`, except in texts
with

* a capital sigma (Σ) in lower case, next to an apostrophe, a full stop, a mark or another character that is no letter:
  whether it ends a word then depends on letters beyond these;
* İ in lower case with further combining marks;
* code points that only one of the Unicode versions of Python and of the library knows.

`build_tokenizer` compares both on the words of the vocabulary, on texts of these words, and on texts of many scripts.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.config.settings import TextSettings
from jobs.datasets.tokenization import characters
from jobs.datasets.tokenization.patterns import HEBREW_LETTERS, MAX_PUNCTUATION_RUN
from jobs.datasets.tokenizer import PADDING, UNKNOWN, Vocabulary, tokenize
from jobs.model.checkpoint import Checkpoint, CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PADDING_TOKEN, UNKNOWN_TOKEN = "[PAD]", "[UNK]"
MAX_MESSAGE_CHARACTERS = 80

# Own examples, with everything that the tokenizer treats differently.
_PROBES = (
    "Don't stop!!!!! It's O'Reilly's, isn't it?? I'LL we've n't 'tis ’tis 'LL'S won't've",
    "e\u0301te\u0301 cafe\u0301 Ünïcödé İstanbul ISTANBUL ıI ß ﬁ Ǆ ΟΔΥΣΣΕΥΣ Σ ΣΑΣ",
    "नमस्ते दुनिया क्‍ष न्\u200d वणक்கம் வணக்கம் ก็ดีครับ မြန်မာ ខ្មែរ ລາວ",
    "مُحَمَّد السلام عليكم א\u05b8בג שָׁלוֹם ܫܠܡܐ привет мир საქართველო հայերեն አማርኛ",
    "東京タワーへ行く。 中文分词很难，对吧？ 한국어 \u1112\u1161\u11ab 〇 々 ｶﾞ ﾊﾝ",
    "12½ ²³ ٣٤ Ⅷ a_b __ x.y....--- $$$$5 %% a\u200db \u0301\u0301\u0301\u0301 ❤️❤️ 👩‍👩‍👧 🇩🇪",
    "tab\tline\nfile\x1cnext\x85nbsp\u00a0thin\u2009ideographic\u3000separator\u2028end \u200b \ufeff \u00ad soft",
    "",
)


@dataclass(frozen=True)
class CharacterClasses:
    """Contents of character classes of Oniguruma, whose own \\w and \\s have other characters than Python's.

    cluster: what starts a token that is one character of a script without spaces, with its marks; empty for `words`.
    inside: pattern of what a word may contain between its letters.
    """

    word: str
    cluster: str
    mark: str
    space: str
    inside: str


def build_classes(tokenizer: str) -> CharacterClasses:
    """Return the classes of a built-in tokenizer as `characters.classify` has them."""
    joiners, mark, space = f"[{_escape(characters.JOINERS)}]+", r"\p{M}", r"\s\x{1C}-\x{1F}"
    if tokenizer == characters.WORDS:
        return CharacterClasses(r"\p{L}\p{N}_", "", mark, space, joiners)
    bounds = characters.UNDIVIDED
    undivided = "".join(
        f"{_escape(chr(start))}-{_escape(chr(end - 1))}" for start, end in zip(bounds[::2], bounds[1::2], strict=True)
    )
    extenders = _escape(characters.EXTENDERS)
    letters = rf"[[\p{{L}}\p{{N}}]&&[^{undivided}]]"
    word = rf"{letters}\p{{Nd}}\p{{Pc}}{_escape(characters.LETTER_PUNCTUATION)}"
    cluster = rf"[[\p{{L}}\p{{N}}]&&[{undivided}]&&[^\p{{Nd}}{extenders}]]"
    mark += extenders
    beyond_ascii = rf"[{word}]&&[^\x00-\x7F]"
    hebrew = rf"[{word}]&&[{_escape(chr(HEBREW_LETTERS.start))}-{_escape(chr(HEBREW_LETTERS.stop - 1))}]"
    middles = _escape(characters.MIDDLES.replace('"', "").replace("\u00b7", ""))
    inside = [
        joiners,
        rf"(?<=[[{beyond_ascii}]{mark}])[{middles}](?=[{beyond_ascii}])",
        rf'(?<=[{hebrew}])"(?=[{hebrew}])',
        r"(?<=[lL])\x{B7}(?=[lL])",
    ]
    return CharacterClasses(word, cluster, mark, space + _escape(characters.ZERO_WIDTH_SPACE), "|".join(inside))


def _escape(letters: str) -> str:
    """Return letters as the content of a character class."""
    return "".join(f"\\x{{{ord(letter):X}}}" for letter in letters)


def build_tokenizer(checkpoint: Checkpoint) -> "Tokenizer":
    """Return the tokenizer of a checkpoint, which truncates texts and pads batches as the network expects.

    Raises:
        CheckpointError: its token ids differ from the project's own.
    """
    from tokenizers import Tokenizer

    text, words = checkpoint.experiment.text, checkpoint.words
    try:
        "".join(words).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{checkpoint.path}: vocabulary.json: a word is no Unicode text, which a tokenizer.json "
                              f"cannot contain: {error}") from error  # fmt: skip
    if text.tokenizer not in (characters.UNICODE, characters.WORDS):
        raise CheckpointError(
            f"{checkpoint.path}: a tokenizer.json cannot express text.tokenizer={text.tokenizer}; export it without one"
        )
    if text.max_edit_distance:
        raise CheckpointError(
            f"{checkpoint.path}: a tokenizer.json cannot express text.max_edit_distance={text.max_edit_distance}; "
            "export it without one"
        )
    tokenizer = Tokenizer.from_str(json.dumps(_build_specification(words, text)))
    vocabulary = Vocabulary(words)
    for probe in _list_probes(words):
        expected = vocabulary.encode(tokenize(probe, text))
        actual = tokenizer.encode(probe, add_special_tokens=False).ids
        if actual != expected:
            raise CheckpointError(
                f"{checkpoint.path}: a tokenizer.json cannot express its tokenizer: the token ids of "
                f"{probe[:MAX_MESSAGE_CHARACTERS]!r} differ; export it without one"
            )
    tokenizer.enable_truncation(text.max_tokens)
    tokenizer.enable_padding(pad_id=PADDING, pad_token=PADDING_TOKEN)
    return tokenizer


def _list_probes(words: list[str]) -> Iterator[str]:
    """Yield the texts that both tokenizers are compared on."""
    yield from _PROBES
    yield from words
    for first in range(0, len(words), 32):
        group = words[first : first + 32]
        yield " ".join(group)
        yield "'".join(group)
        if "Σ" not in (upper := "".join(group).upper()):
            yield upper


def _build_specification(words: list[str], text: TextSettings) -> dict[str, object]:
    """Return the value of a tokenizer.json without truncation and padding."""
    # A word of a vectors file may be spelled as these two; no text has such a token, so its id is not needed.
    vocabulary = {word: index for index, word in enumerate(words, start=UNKNOWN + 1)}
    vocabulary |= {PADDING_TOKEN: PADDING, UNKNOWN_TOKEN: UNKNOWN}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": _build_normalizers(text)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _build_pre_tokenizers(build_classes(text.tokenizer))},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": UNKNOWN_TOKEN},
    }


def _build_normalizers(text: TextSettings) -> list[dict[str, object]]:
    """Return the steps of `jobs.datasets.tokenizer.normalize`, after the removal of what is not visible."""
    formats = {"type": "Replace", "pattern": {"Regex": characters.FORMATS.pattern}, "content": ""}
    apostrophe: dict[str, object] = {"type": "Replace", "pattern": {"String": "’"}, "content": "'"}
    start = [apostrophe] if text.tokenizer == characters.WORDS else [formats, apostrophe]
    composition: dict[str, object] = {"type": "NFC"}
    if not text.lowercase:
        return [*start, composition]
    # The library converts single characters, and so does not know where a word ends.
    sigma: dict[str, object] = {"type": "Replace", "pattern": {"Regex": r"(?<=\p{L})Σ(?!\p{L})"}, "content": "ς"}
    dotted_i: dict[str, object] = {"type": "Replace", "pattern": {"Regex": "i\u0307+"}, "content": "i"}
    return [*start, sigma, {"type": "Lowercase"}, composition, dotted_i, composition]


def _build_pre_tokenizers(classes: CharacterClasses) -> list[dict[str, object]]:
    """Return the division into tokens: white space is removed, and all but the first characters of a run."""
    other = f"{classes.word}{classes.cluster}{classes.space}"
    run = rf"(?<=\A[^{other}]{{{MAX_PUNCTUATION_RUN}}})[^{other}]+"
    steps = ((build_token_pattern(classes), "Isolated"), (f"[{classes.space}]+", "Removed"), (run, "Removed"))
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
        for pattern, behavior in steps
    ]


def build_token_pattern(classes: CharacterClasses) -> str:
    """Return the pattern of `jobs.datasets.tokenization.patterns` for texts beyond ASCII, for Oniguruma."""
    letter, mark = f"[{classes.word}{classes.mark}]", f"[{classes.mark}]"
    joiner = f"[{_escape(characters.JOINERS)}]"
    clitics = rf"[nN]'[tT](?!{letter})|'(?:[sSmMdD]|[rR][eE]|[vV][eE]|[lL][lL])(?!{letter})"
    word = rf"[{classes.word}]{letter}*(?:(?:{classes.inside}){letter}+)*(?:(?<={mark}){joiner}+)?"
    patterns = [rf"{word}(?=[nN]'[tT](?!{letter}))", clitics, word]
    if classes.cluster:
        extended = f"{classes.cluster}[{classes.mark}{_escape(characters.JOINERS)}]*"
        patterns.append(f"{extended}(?:(?<=[{_escape(characters.LINKERS)}]){extended})*")
    other = f"{classes.word}{classes.cluster}{classes.mark}{classes.space}"
    return "|".join([*patterns, f"{mark}+", rf"([^{other}])\1*"])
