"""HTML page of a data check: findings, their rows, and the sizes of the classes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jobs.data_checks.findings import Finding, Severity
from jobs.data_checks.rows import PART_NAMES, TRAINING, Rows
from jobs.evaluation.reports.html.page import render_page

NUM_ROWS = 100  # of each finding; the csv has all
MAX_CHARACTERS = 400


@dataclass(frozen=True)
class ListedFinding:
    """A finding as the page lists it. rows: the worst ones, with the columns that have values; left_out: of them."""

    number: int
    name: str
    severity: str
    message: str
    rows: list[dict[str, str]]
    left_out: str

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the rows."""
        return list(self.rows[0])


@dataclass(frozen=True)
class ClassSizes:
    """Row of the table of classes. numbers: rows of each part, and suspicious ones; share: of the largest class."""

    label: str
    numbers: list[int]
    share: float


def render_data_check(name: str, rows: Rows, findings: Sequence[Finding], csv_name: str) -> str:
    """Return the page.

    Args:
        name: of the experiment. findings: the most serious first. csv_name: file with all rows of the findings, which
            is in the folder of the page.
    """
    number = {severity: sum(finding.severity == severity for finding in findings) for severity in Severity}
    counts = f"{number[Severity.HIGH]} of high and {number[Severity.MEDIUM]} of medium severity"
    sizes = rows.class_sizes  # (classes, parts)
    parts = [part for part in range(len(PART_NAMES)) if sizes[:, part].any()]
    return render_page(
        "data_check.html",
        f"Data check of {name}",
        subtitle=f"{len(rows):,} rows, {len(rows.classes):,} classes. Findings: {counts}.",
        findings=[_list_finding(number, finding, rows) for number, finding in enumerate(findings)],
        num_rows=NUM_ROWS,
        csv_name=csv_name,
        part_names=[PART_NAMES[part] for part in parts],
        classes=list(_list_classes(rows, findings, sizes, parts)),
    )


def _list_finding(number: int, finding: Finding, rows: Rows) -> ListedFinding:
    lines = [
        {
            "row": rows.name(row.index),
            "label": rows.labels[row.index],
            "suggested": row.suggested,
            "text": _shorten(rows.texts[row.index]),
            "note": _shorten(row.note),
        }
        for row in finding.rows[:NUM_ROWS]
    ]
    used = [column for column in (lines[0] if lines else ()) if any(line[column] for line in lines)]
    left_out = f"{len(lines):,} of {len(finding.rows):,} rows" if len(lines) < len(finding.rows) else ""
    listed = [{column: line[column] for column in used} for line in lines]
    return ListedFinding(number, finding.name, finding.severity.name.lower(), finding.message, listed, left_out)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " …"


def _list_classes(
    rows: Rows, findings: Sequence[Finding], sizes: np.ndarray, parts: Sequence[int]
) -> Iterator[ClassSizes]:
    """Yield the classes, the largest in the training part first; sizes: `(classes, parts)`."""
    suspicious = Counter(label for finding in findings for row in finding.rows for label in row.labels)
    largest = max(1, int(sizes[:, TRAINING].max()))
    for index in np.argsort(-sizes[:, TRAINING], kind="stable"):
        label = rows.classes[index]
        numbers = [*(int(sizes[index, part]) for part in parts), suspicious[label]]
        yield ClassSizes(label, numbers, int(sizes[index, TRAINING]) / largest)
