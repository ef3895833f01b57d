"""Near duplicates: which texts are similar, and that none are missed."""

import numpy as np
import pytest

from jobs.data_checks.near_duplicates import (
    check_near_duplicates,
    compute_signatures,
    find_similar_pairs,
    hash_shingles,
)
from jobs.datasets.text_checks import find_first_copies
from tests.support.data_checks import make_rows


def similar(*texts: str) -> list[tuple[int, int, float]]:
    pairs = find_similar_pairs([text.split() for text in texts])
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True))


LONG = " ".join(f"word{number}" for number in range(30))


def test_case_and_punctuation_make_no_difference() -> None:
    assert similar("Where is it ?", "something else", "where is it", "Where , is IT !") != []
    assert all(pair[2] == 1 for pair in similar("Where is it ?", "where is it"))


def test_the_similarity_is_that_of_the_sets_of_words_and_pairs() -> None:
    """One of 30 words differs at the end: 29 words and 28 pairs of 61 in total are common."""
    [(first, second, value)] = similar(LONG, LONG.replace("word29", "other"))
    assert (first, second) == (0, 1)
    assert value == pytest.approx((29 + 28) / (30 + 29 + 2))


def test_texts_that_differ_in_a_word_of_few_are_not_similar() -> None:
    assert similar("what is the capital of France", "what is the capital of Spain") == []
    assert similar("a b c d e f g h", "h g f e d c b a") == []  # the same words in another order


def test_texts_without_tokens_are_in_no_pair_and_punctuation_is_compared_if_there_is_nothing_else() -> None:
    assert similar("", "", "a b c") == []
    assert similar("! ? !", "a b", "! ? !") == [(0, 2, 1.0)]
    assert similar() == similar("") == []


def test_each_of_many_copies_is_in_a_pair() -> None:
    pairs = similar(*[LONG] * 50, "another text of five words")
    assert {index for pair in pairs for index in pair[:2]} == set(range(50))
    assert len(pairs) < 100  # not each with each


def test_planted_near_copies_are_found_among_random_texts() -> None:
    generator = np.random.default_rng(0)
    texts = [[f"w{number}" for number in generator.integers(0, 5000, 40)] for _ in range(2000)]
    copies = [[*text[:20], "changed", *text[21:]] for text in texts[:300]]
    pairs = find_similar_pairs([*texts, *copies])
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {
        (index, 2000 + index) for index in range(300)
    }


def test_signatures_estimate_the_similarity() -> None:
    """And do not depend on the chunk that a text is in."""
    shingles, offsets = hash_shingles([LONG.split(), LONG.replace("word15", "other").split()] * 3000)
    signatures = compute_signatures(shingles, offsets)
    assert (signatures[::2] == signatures[0]).all()
    assert (signatures[0] == signatures[1]).mean() == pytest.approx(56 / 62, abs=0.15)


def test_pairs_are_divided_by_label_and_part() -> None:
    texts = [f"{LONG} a{number}" for number in range(4)]
    rows = make_rows([(texts[0], "x"), (texts[1], "y")], [("something else", "x")], [(texts[2], "x")])
    findings = check_near_duplicates(rows, find_first_copies(rows.tokens))
    assert {finding.name: [row.index for row in finding.rows] for finding in findings} in (
        {"near duplicates, other label": [1], "near duplicates, other part": [3]},
        {"near duplicates, other label": [1, 3]},
        {"near duplicates, other label": [1, 3], "near duplicates, other part": [3]},
    )
    assert "training, line 2" in findings[0].rows[0].note
