"""Check of texts with the same tokens, which the network cannot tell apart: copies, different labels, overlap of
parts."""

from typing import Any

import numpy as np

from cluster import choose_form
from jobs.data_checks.findings import Finding, FindingRow, Severity
from jobs.data_checks.rows import PART_NAMES, TEST, TRAINING, VALIDATION, Rows


def check_duplicates(rows: Rows, first: np.ndarray) -> list[Finding]:
    """Return findings on identical texts; `first` as of `find_first_copies`."""
    findings = [_find_conflicts(rows, first), _find_copies(rows, first)]
    for earlier, later in ((TRAINING, TEST), (VALIDATION, TEST), (TRAINING, VALIDATION)):
        findings.append(_find_overlap(rows, first, earlier, later))
    return [finding for finding in findings if finding is not None]


def _find_conflicts(rows: Rows, first: np.ndarray) -> Finding | None:
    labels = rows.label_indices()
    conflicting = np.unique(first[labels != labels[first]])
    if not len(conflicting):
        return None
    members = np.flatnonzero(np.isin(first, conflicting))
    members = members[np.argsort(first[members], kind="stable")]
    groups: dict[int, set[str]] = {}
    for index in members:
        groups.setdefault(int(first[index]), set()).add(rows.labels[index])
    conflicts = [
        FindingRow(int(index), note=f"labels of this text: {', '.join(sorted(groups[int(first[index])]))}")
        for index in members
    ]
    texts = f"{len(conflicting):,} {choose_form(len(conflicting), 'text has', 'texts have')}"
    message = f"{texts} different labels in different rows ({len(conflicts):,} rows); correct the labels"
    return Finding("different labels", Severity.HIGH, message, conflicts)


def _find_copies(rows: Rows, first: np.ndarray) -> Finding | None:
    members = np.flatnonzero((rows.part == TRAINING) & (first != np.arange(len(rows))))
    if not len(members):
        return None
    verb = choose_form(len(members), "is a copy", "are copies")
    message = f"{len(members):,} of {(rows.part == TRAINING).sum():,} training texts {verb} of an earlier one"
    return Finding("copies", Severity.MEDIUM, message, [_copy(rows, index, first[index]) for index in members])


def _find_overlap(rows: Rows, first: np.ndarray, earlier: int, later: int) -> Finding | None:
    originals = dict(zip(first[rows.part == earlier], np.flatnonzero(rows.part == earlier), strict=True))
    members = [index for index in np.flatnonzero(rows.part == later) if first[index] in originals]
    if not members:
        return None
    total = int((rows.part == later).sum())
    them = choose_form(len(members), "it", "them")
    message = (
        f"{len(members):,} of {total:,} {PART_NAMES[later]} texts ({len(members) / total:.1%}) "
        f"{choose_form(len(members), 'is', 'are')} also in the {PART_NAMES[earlier]} part: results on "
        f"{them} are too good; remove {them} from one part"
    )
    copies = [_copy(rows, index, originals[first[index]]) for index in members]
    severity = Severity.HIGH if later == TEST else Severity.MEDIUM
    return Finding(f"{PART_NAMES[later]} texts in the {PART_NAMES[earlier]} part", severity, message, copies)


def _copy(rows: Rows, index: "np.integer[Any]", original: "np.integer[Any]") -> FindingRow:
    return FindingRow(int(index), note=f"as {rows.name(int(original))}")
