"""Digests of texts: equal words in equal order, and nothing else, have equal digests."""

import numpy as np
import pytest

from jobs.datasets.tokenizer import UNKNOWN, Tokens
from jobs.evaluation import seen_texts
from jobs.evaluation.seen_texts import digest_texts, digest_training_texts, find_seen_texts


def make_tokens(*texts: list[int]) -> Tokens:
    ids = [number for text in texts for number in text]
    return Tokens(np.array(ids, np.int32), np.cumsum([0, *map(len, texts)]))


def test_digests_depend_on_the_words_and_their_order_only() -> None:
    """They do not depend on the other texts."""
    digests = digest_texts(make_tokens([2, 3], [3, 2], [], [2, 3], [2], [2, 2], [2, 3, 0], [])).tolist()
    assert digests[0] == digests[3]
    assert digests[2] == digests[7]
    assert len(set(digests)) == 6
    assert digest_texts(make_tokens([2, 3])).tolist() == digests[:1]


def test_many_texts_have_different_digests() -> None:
    """The digests of 40,000 short texts over a small vocabulary are all different."""
    texts = [[a, b] for a in range(200) for b in range(200)]
    assert len(set(digest_texts(make_tokens(*texts)).tolist())) == len(texts)


def test_texts_of_the_training_part_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without words is never one; too many digests are not stored."""
    digests = digest_training_texts([make_tokens([5, 6], [7]), make_tokens([], [5, 6])])
    assert digests is not None
    assert len(digests) == 3
    assert find_seen_texts(make_tokens([7], [6, 5], [5, 6], []), digests).tolist() == [True, False, True, False]
    monkeypatch.setattr(seen_texts, "MAX_STORED_DIGESTS", 2)
    assert digest_training_texts([make_tokens([5, 6], [7], [])]) is None


def test_a_text_with_an_unknown_word_is_not_taken_for_a_training_text() -> None:
    """Another unknown word has the same id, so the digests of the two texts are equal."""
    digests = digest_training_texts([make_tokens([UNKNOWN], [2, UNKNOWN], [2, 3])])
    assert digests is not None
    tokens = make_tokens([UNKNOWN], [], [2, 3], [2, UNKNOWN], [2, 3])
    assert find_seen_texts(tokens, digests).tolist() == [False, False, True, False, True]
