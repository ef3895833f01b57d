"""Checks of tokenized texts: no words, too many tokens, copies, class sizes, no spaces between words."""

from collections import Counter

import pytest

from jobs.config.settings import TextSettings
from jobs.datasets.readers import Split
from jobs.datasets.text_checks import describe_texts, describe_undivided_texts
from jobs.datasets.tokenizer import tokenize

EARLIER = TextSettings(tokenizer="words")


def describe(*texts: str) -> str | None:
    return describe_undivided_texts(Counter(token for text in texts for token in tokenize(text, EARLIER)).items())


def test_texts_without_words_and_truncated_texts_are_counted() -> None:
    """With the position of the first, and the length of the longest."""
    split = Split(["a b", "", "a b c d", "a b c", " "], ["x"] * 5, "a.csv", [2, 3, 4, 5, 6])
    tokenized = [text.split() for text in split.texts]
    assert describe_texts("training", split, tokenized, 2) == [
        "2 of 5 training texts have no words, such as that in a.csv, line 3",
        "2 of 5 training texts are truncated to text.max_tokens=2; the longest has 4 tokens",
    ]
    assert describe_texts("training", split.select([0]), tokenized[:1], 2) == []


def test_copies_in_the_training_part_are_counted() -> None:
    """The same tokens, whatever the white space; a text without tokens is no copy."""
    split = Split(["a b", "a  b", "", "", "b a", "a b"], ["x"] * 6, "a.csv", [2, 3, 4, 5, 6, 7])
    tokenized = [text.split() for text in split.texts]
    [note] = [note for note in describe_texts("training", split, tokenized, 9) if "copies" in note]
    assert note.startswith("2 of 6 training texts are copies of an earlier one, such as that in a.csv, line 3; ")
    assert not any("copies" in note for note in describe_texts("validation", split, tokenized, 9))


def test_the_verb_of_a_single_text_is_singular() -> None:
    split = Split(["a b", "a  b", "", "c"], ["x"] * 4, "a.csv", [2, 3, 4, 5])
    notes = describe_texts("training", split, [["a", "b"], ["a", "b"], [], ["c", "d", "e"]], 2)
    assert [note.partition(",")[0].partition(";")[0] for note in notes] == [
        "1 of 4 training texts has no words",
        "1 of 4 training texts is truncated to text.max_tokens=2",
        "1 of 4 training texts is a copy of an earlier one",
    ]


def test_classes_of_very_different_sizes_are_described() -> None:
    """From more than ten times as many rows."""
    for rows, expected in ((21, 1), (20, 0)):
        split = Split([str(number) for number in range(rows + 2)], ["much"] * rows + ["little"] * 2)
        notes = describe_texts("training", split, [[text] for text in split.texts], 9)
        assert len(notes) == expected
        assert all(f"'much' has {rows} training rows, 'little' 2;" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("我昨天在你们网站上买的手机还没有收到", "Chinese or Japanese"),
        ("昨日注文した商品がまだ届いていません", "Chinese or Japanese"),
        ("ฉันยังไม่ได้รับสินค้าที่สั่งซื้อเมื่อวานนี้", "Thai"),
    ],
)
def test_texts_without_spaces_between_words_are_described(text: str, script: str) -> None:
    message = describe(text, "an order of a phone")
    clusters = Counter([*tokenize(text), *tokenize("an order of a phone")])
    assert describe_undivided_texts(clusters.items()) is None
    assert message is not None
    assert f"texts are {script}, which has no spaces between words" in message


def test_texts_with_spaces_between_words_are_not_described() -> None:
    """Also if their script has none: someone has divided them."""
    assert describe("我 昨天 在 你们 网站 上 买 的 手机 还 没有 收到") is None
    assert describe("ฉัน ยัง ไม่ ได้ รับ สินค้า ที่ สั่งซื้อ เมื่อวาน นี้") is None
    assert describe("मेरा पार्सल अभी तक नहीं आया") is None
    assert describe("a word of 東京都千代田区丸の内 " + "in a long English text about a trip " * 5) is None
    assert describe("") is None
