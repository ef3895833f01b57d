"""Lengths of the texts."""

from jobs.data_checks.lengths import check_lengths
from tests.support.data_checks import make_rows


def test_empty_long_and_truncated_texts_are_found() -> None:
    """The longest first; a truncated text is not long too."""
    train = [("one two three", "x")] * 80 + [("", "y"), ("w " * 150, "y"), ("w " * 250, "y"), ("w " * 180, "y")]
    findings = {finding.name: finding for finding in check_lengths(make_rows(train), max_tokens=200)}
    assert {name: [row.index for row in finding.rows] for name, finding in findings.items()} == {
        "lengths": [],
        "texts without words": [80],
        "truncated texts": [82],
        "very long texts": [83, 81],
    }
    assert findings["very long texts"].rows[0].note == "180 tokens"
    assert "text.max_tokens=200; the longest has 250 tokens" in findings["truncated texts"].message


def test_usual_lengths_are_no_finding() -> None:
    train = [("a b " * number, "xy"[number % 2]) for number in range(1, 40)]
    [finding] = check_lengths(make_rows(train), max_tokens=1000)
    assert finding.message == "half of the texts have up to 40 tokens, 95% up to 76, the longest 78"
