"""Coverage of a corpus by word vectors."""

import pytest

from jobs.config.settings import VectorSettings
from jobs.embeddings.word_vectors import Coverage, has_letter


@pytest.mark.parametrize(("word_tokens", "covered", "is_low"), [(1000, 699, True), (1000, 700, False), (0, 0, False)])
def test_coverage_is_low_if_many_words_have_no_vector(word_tokens: int, covered: int, is_low: bool) -> None:
    """Numbers and punctuation do not count: German texts with English vectors have 57 % of all tokens."""
    coverage = Coverage(
        words=90, covered_words=20, tokens=2000, covered_tokens=covered, word_tokens=word_tokens,
        covered_word_tokens=covered, case_insensitive_matches=0, frequent_missing_words=["und", "nicht"],
    )  # fmt: skip
    warning = coverage.describe_low_share(VectorSettings(path="english.bin"))
    assert (warning is not None) == is_low
    if warning:
        assert warning.startswith(
            "only 69.9% of the training texts' words have a pretrained vector, not 'und', 'nicht'"
        )
        assert "likely english.bin is of another language" in warning


@pytest.mark.parametrize(
    ("word", "expected"), [("naïve", True), ("w2", True), ("बहुत", True), ("42", False), ("?!", False)]
)
def test_words_have_a_letter(word: str, expected: bool) -> None:
    assert has_letter(word) == expected
