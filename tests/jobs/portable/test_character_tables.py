"""The tokenizer in JavaScript, in Chromium: the tokens of the project's own, for every script of Unicode."""

import itertools
import json
import random
import sys
import unicodedata
from dataclasses import asdict

import pytest

from jobs.config.settings import TextSettings
from jobs.datasets.tokenization.characters import BUILT_IN
from jobs.datasets.tokenizer import tokenize
from jobs.model.checkpoint import save_checkpoint
from jobs.portable.browser_export import export_browser
from jobs.portable.character_tables import UNASSIGNED, build_tables
from tests.support.checkpoints import checkpoint_of
from tests.support.static_site import StaticSite

pytestmark = pytest.mark.slow

# Everything that the tokenizers treat differently.
SPECIAL = (
    "aAbnN'tTsSmMrReEvVlLdD’ .!?-_\u0301\u0300\u200d\u200cİIiékिक\u094d1\n\x1c漢\u1112\u1161\u11ab각א\u05b8\"·ก\u0e33က"
    "\u1039\u200bｶ\uff9e\u200eΣσςΑ\u00ad\u0307\u0345ʰ𝒜𠀀𑀓𑁆\U0001d165\U0001f600\U0001f3fd\ufe0f\ud83d\ude00\u0130\u017f"
    "ßﬁǅ\u2126\u0378\U000105d2\u0897\u0323\U00010d50\U000e0100\U0010ffff\u066b\u2027\u055f\u05f3\u05f4"
)
TEXTS = [
    *["", " ", "Don't stop!!!!! It's O'Reilly's, isn't it?? I'LL we've n't 'tis ’tis 'LL'S", "“curly” ‘quotes’ — it’s"],
    *["été cafe\u0301 İstanbul ISTANBUL ıI ß ﬁ Ǆ ΟΔΥΣΣΕΥΣ Σ ΣΑΣ ΑΣ'Α ΑΣ:Α", "привет м'яч საქართველო l·l հայերեն"],
    *["नमस्ते दुनिया क्\u200dष வணக்கம்", "ก็ดีครับ မြန်မာ ខ្មែរ ລາວ", "مُحَمَّد السلام عليكم", 'שָׁלוֹם צה"ל ܫܠܡܐ'],
    *[
        "東京タワーへ行く。",
        "中文分词很难，对吧？",
        "한국어 \u1112\u1161\u11ab 〇 々 ｶﾞ ﾊﾝ",
        "12½ ²³ ٣٤ Ⅷ a_b __ x.y....--- $$$$5",
    ],
    *["❤️❤️ 👩\u200d👩\u200d👧 🇩🇪 👍🏽👍🏽 😀😀😀😀😀", "tab\tline\nfile\x1cnext\x85nbsp\u00a0sep\u2028end \ufeff"],
    *["\ud83d\u200e\ude00 \ud83d \ude00\ud83d", "word " * 30 + "x" * 5000 + "!" * 5000],
]


def list_texts(part: int, parts: int) -> list[str]:
    """Return texts with each kind of character, as JSON has them: two surrogates in a row are one character."""
    generator = random.Random(part)
    mixed = ["".join(generator.choices(SPECIAL, k=generator.randrange(1, 13))) for _ in range(1000)]
    random_texts = ["".join(chr(generator.randrange(sys.maxunicode + 1)) for _ in range(8)) for _ in range(100)]
    codes = [*range(0x80), *(first + first // 16 % 16 for first in range(0x80, 0x20000, 16))]
    codes = [*codes, *range(0x20000, 0x110000, 997)][part::parts]
    neighbours = [f"a{chr(code)}b {chr(code)}{chr(code)}é{chr(code)}É Σ{chr(code)}Σ ΑΣ{chr(code)}Α" for code in codes]
    texts: list[str] = json.loads(json.dumps(TEXTS + mixed + random_texts + neighbours))
    return texts


SETTINGS = list(itertools.product(BUILT_IN, (True, False)))


@pytest.mark.parametrize(("tokenizer", "lowercase"), SETTINGS)
def test_tokens_in_a_browser_are_those_of_python(site: StaticSite, tokenizer: str, lowercase: bool) -> None:
    """Of texts of each script, of random characters, and of characters that only the browser's Unicode knows."""
    texts = list_texts(SETTINGS.index((tokenizer, lowercase)), len(SETTINGS))
    if not (site.folder / "tokens").exists():
        save_checkpoint(site.folder / "c", checkpoint_of("rand"))
        export_browser(str(site.folder / "c"), str(site.folder / "tokens"))
    text_settings = TextSettings(tokenizer=tokenizer, lowercase=lowercase, max_tokens=50)
    settings = text_settings.model_dump() | asdict(build_tables(tokenizer, lowercase))
    body = """
        const { Tokenizer } = await load("tokenizer.mjs");
        const tokenizer = new Tokenizer(args[1]);
        return args[0].map((text) => tokenizer.tokenize(text));
    """
    tokens = site.run("tokens", body, texts, settings)
    for text, actual in zip(texts, tokens, strict=True):
        assert actual == tokenize(text, text_settings)[:50], ascii(text)


def test_the_tables_have_every_character_of_unicode() -> None:
    """The last run ends after the last character; what follows is unassigned or private."""
    classes = build_tables("unicode", lowercase=False).character_classes
    for code in range(sum(classes[::2]), sys.maxunicode + 1):
        assert unicodedata.category(chr(code)) in ("Cn", "Co")
    values = [value for number, value in zip(classes[::2], classes[1::2], strict=True) for _ in range(number)]
    assert {unicodedata.category(chr(code)) for code in range(0x40000, 0xE0000)} == {"Cn"}
    assert set(values[0x40000:0xE0000]) == {UNASSIGNED}
