"""Scripts of texts."""

import pytest

from jobs.config.settings import TextSettings
from jobs.data_checks.findings import Severity
from jobs.data_checks.scripts import check_scripts, find_script
from tests.support.data_checks import make_rows


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("an order", "Latin"),
        ("Ünïcödé ß", "Latin"),
        ("Привет, мир", "Cyrillic"),
        ("καλημέρα", "Greek"),
        ("我昨天买的手机", "Han"),
        ("昨日注文した商品", "Japanese"),
        ("カタカナ", "Japanese"),
        ("안녕하세요", "Korean"),
        ("मेरा पार्सल", "Devanagari"),
        ("ฉันยังไม่ได้", "Thai"),
        ("مرحبا", "Arabic"),
        ("שלום", "Hebrew"),
        ("ＦＵＬＬ width", "Latin"),
        ("𝐛𝐨𝐥𝐝 𝑖𝑡𝑎𝑙𝑖𝑐", "Latin"),
        ("𝔣𝔯𝔞𝔨𝔱𝔲𝔯 𝚖𝚘𝚗𝚘 𝗌𝖺𝗇𝗌", "Latin"),
        ("𝛼𝛽 µ", "Greek"),
        ("ʼʼʼ", ""),
        ("ﾊﾝｶｸ", "Japanese"),
        ("ok Привет мир", "Cyrillic"),
        ("12 + 30 = 42 ª º ℃ 😀", ""),
        ("", ""),
    ],
)
def test_the_script_is_that_of_most_letters(text: str, script: str) -> None:
    assert find_script(text) == script


def test_texts_in_unusual_scripts_are_listed() -> None:
    rows = make_rows([("an English text", "x")] * 30 + [("12 !", "y"), ("Привет", "y")])
    shares, unusual = check_scripts(rows)
    assert shares.message == "scripts of the texts: Latin 96.8%, Cyrillic 3.2%"
    assert [(row.index, row.note) for row in unusual.rows] == [(31, "Cyrillic")]
    assert "1 of 32 texts" in unusual.message
    assert len(check_scripts(make_rows([("one", "x"), ("Привет", "y")]))) == 1  # half of the texts are not unusual
    assert check_scripts(make_rows([("12", "x"), ("", "y")])) == []


def test_texts_without_spaces_between_words_are_serious() -> None:
    """Unless the tokenizer divides them."""
    rows = [("我昨天在你们网站上买的手机还没有收到", "x"), ("我昨天买的", "y")]
    findings = check_scripts(make_rows(rows, settings=TextSettings(tokenizer="words")))
    assert [finding.severity for finding in findings] == [Severity.INFO, Severity.HIGH]
    assert [finding.severity for finding in check_scripts(make_rows(rows))] == [Severity.INFO]
