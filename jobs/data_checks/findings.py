"""Findings of the data checks: what is wrong, how serious it is, and the rows concerned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from cluster.console.csv_output import create_csv_writer
from jobs.data_checks.rows import PART_NAMES, Rows

CSV_COLUMNS = ("severity", "finding", "part", "file", "line", "label", "suggested", "score", "note", "text")


class Severity(IntEnum):
    """Seriousness of a finding. HIGH: results are likely wrong; MEDIUM: worth a look; INFO: a description."""

    HIGH = 0
    MEDIUM = 1
    INFO = 2


@dataclass(frozen=True)
class FindingRow:
    """A row of a finding. suggested: label that fits better, if any; score: see the finding, None without; labels: the
    suspicious ones."""

    index: int
    note: str = ""
    suggested: str = ""
    score: float | None = None
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Finding:
    """A result of a check. name: a few words; message: a line for the user; rows: worst first."""

    name: str
    severity: Severity
    message: str
    rows: Sequence[FindingRow] = ()


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings by severity; within a severity the order stays."""
    return sorted(findings, key=lambda finding: finding.severity)


def write_csv(path: Path, findings: Sequence[Finding], rows: Rows) -> None:
    """Write every row of the findings, in their order, with its file, line, label and text."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = create_csv_writer(stream)
        writer.writerow(CSV_COLUMNS)
        writer.writerows(_iter_csv_rows(findings, rows))


def _iter_csv_rows(findings: Sequence[Finding], rows: Rows) -> Iterator[Sequence[object]]:
    for finding in findings:
        for row in finding.rows:
            file, line = rows.locate(row.index)
            yield (
                finding.severity.name.lower(),
                finding.name,
                PART_NAMES[rows.part[row.index]],
                file,
                "" if line is None else line,
                rows.labels[row.index],
                row.suggested,
                "" if row.score is None else f"{row.score:.4f}",
                row.note,
                rows.texts[row.index],
            )
