"""The page of a data check: its rows, escaping, and what it leaves out. tests/jobs/test_report_pages.py opens it in a
browser."""

import re

from jobs.data_checks.check import find_all
from jobs.data_checks.findings import Finding, FindingRow, Severity, sort_findings
from jobs.data_checks.page import NUM_ROWS, render_data_check
from tests.support.data_checks import make_rows

EVIL = "<script>alert('a text')</script>"


def test_texts_labels_and_names_are_escaped() -> None:
    rows = make_rows([(EVIL, "<b>x</b>"), ("ok", "y")])
    findings = [Finding("a <i>name", Severity.HIGH, "a & b", [FindingRow(0, note=EVIL, suggested="<b>y</b>")])]
    page = render_data_check("<u>name", rows, findings, "data-check-rows.csv")
    assert page.count("<script") == 1
    for text in ("<b>", "<i>", "<u>"):
        assert text not in page
    assert page.count("&lt;script&gt;") == 2


def test_at_most_some_rows_of_a_finding_are_shown() -> None:
    rows = make_rows([(f"text number {number}", "xy"[number % 2]) for number in range(NUM_ROWS + 20)])
    finding = Finding("a finding", Severity.MEDIUM, "message", [FindingRow(index) for index in range(len(rows))])
    page = render_data_check("x", rows, [finding], "data-check-rows.csv")
    assert page.count("text number") == NUM_ROWS
    assert f"{NUM_ROWS} of {NUM_ROWS + 20} rows" in page
    assert 'href="data-check-rows.csv"' in page
    assert '<th scope="col">note</th>' not in page  # no row has one


def test_every_finding_and_class_is_listed_and_a_finding_with_rows_is_linked() -> None:
    rows = make_rows([*((f"text {number}", "large") for number in range(9)), ("the same", "large"), ("the same", "b")])
    findings = sort_findings(find_all(rows, 1000, seed=0))
    page = render_data_check("x", rows, findings, "data-check-rows.csv")
    for number, finding in enumerate(findings):
        assert (f'href="#finding-{number}"' in page) == (f'id="finding-{number}"' in page) == bool(finding.rows)
        assert finding.name in page
    sizes = re.findall(r'<bdi>(\w+)</bdi></td><td class="number">(\d+)</td>', page)
    assert sizes == [("large", "10"), ("b", "1")]
    assert "No rows to look at." in render_data_check("x", rows, [], "data-check-rows.csv")
