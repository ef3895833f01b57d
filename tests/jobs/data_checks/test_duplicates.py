"""Identical texts: copies, different labels, overlap of the parts."""

from jobs.data_checks.duplicates import check_duplicates
from jobs.data_checks.findings import Finding, Severity
from jobs.data_checks.rows import Rows
from jobs.datasets.text_checks import find_first_copies
from tests.support.data_checks import make_rows


def check(rows: Rows) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_duplicates(rows, find_first_copies(rows.tokens))}


def test_texts_with_the_same_tokens_are_copies_and_empty_texts_are_none() -> None:
    assert find_first_copies([["a"], ["b", "c"], [], ["b", "c"], [], ["a"]]).tolist() == [0, 1, 2, 1, 4, 0]


def test_copies_name_their_original() -> None:
    findings = check(make_rows([("one text", "x"), ("another", "y"), ("One  TEXT", "x"), ("one text", "x")]))
    assert list(findings) == ["copies"]
    assert [(row.index, row.note) for row in findings["copies"].rows] == [
        (2, "as training, line 2"),
        (3, "as training, line 2"),
    ]


def test_the_verb_of_a_single_copy_is_singular() -> None:
    findings = check(make_rows([("one text", "x"), ("one text", "x")], [("one text", "x"), ("other", "x")], []))
    assert findings["copies"].message == "1 of 2 training texts is a copy of an earlier one"
    overlap = findings["validation texts in the training part"].message
    assert overlap.startswith("1 of 2 validation texts (50.0%) is also in the training part: results on it are")


def test_different_labels_list_all_rows_of_the_text_in_all_parts() -> None:
    rows = make_rows([("a b", "x"), ("c", "y"), ("a b", "x")], [("c", "y")], [("A b", "y")])
    finding = check(rows)["different labels"]
    assert finding.severity == Severity.HIGH
    assert [row.index for row in finding.rows] == [0, 2, 4]
    assert {row.note for row in finding.rows} == {"labels of this text: x, y"}
    assert finding.message.startswith("1 text has different labels in different rows (3 rows)")


def test_overlap_is_found_for_each_pair_of_parts() -> None:
    """Also where the first copy is in a third part."""
    rows = make_rows(
        [("in all", "x"), ("only here", "y"), ("in two", "x")],
        [("in all", "x"), ("other", "x")],
        [("in all", "x"), ("in two", "x"), ("other", "x")],
    )
    findings = check(rows)
    indices = {name: [row.index for row in finding.rows] for name, finding in findings.items()}
    assert indices == {
        "test texts in the training part": [5, 6],
        "test texts in the validation part": [5, 7],
        "validation texts in the training part": [3],
    }
    assert findings["test texts in the validation part"].rows[0].note == "as validation, line 2"
    assert "2 of 3 test texts (66.7%)" in findings["test texts in the training part"].message


def test_texts_without_a_copy_are_no_finding() -> None:
    assert check(make_rows([("a", "x"), ("b", "y"), ("", "x"), ("", "y")], [("c", "x")], [("d", "y"), ("", "x")])) == {}
