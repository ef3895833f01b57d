"""Check of the classes: their sizes in each part, classes with few rows, and unequal sizes."""

from collections import Counter

import numpy as np

from cluster import choose_form
from jobs.data_checks.findings import Finding, FindingRow, Severity
from jobs.data_checks.rows import PART_NAMES, TRAINING, Rows
from jobs.datasets.text_checks import describe_class_sizes

FEW_ROWS = 5
NUM_NAMED_CLASSES = 3


def check_classes(rows: Rows) -> list[Finding]:
    """Return findings on the sizes of the classes in the training part."""
    sizes = rows.class_sizes[:, TRAINING]
    parts = Counter(rows.part.tolist())
    sums = ", ".join(f"{parts[number]:,} {name}" for number, name in enumerate(PART_NAMES) if parts[number])
    largest, smallest = int(sizes.argmax()), int(sizes.argmin())
    findings = [
        Finding(
            "rows and classes",
            Severity.INFO,
            f"{len(rows):,} rows ({sums}) of {len(rows.classes):,} classes with {sizes[smallest]:,} to "
            f"{sizes[largest]:,} training rows",
        )
    ]
    few = [int(index) for index in np.argsort(sizes, kind="stable") if sizes[index] < FEW_ROWS]
    if few:
        names = ", ".join(f"'{rows.classes[index]}'" for index in few[:NUM_NAMED_CLASSES])
        concerned = {rows.classes[index] for index in few}
        members = [index for index, own in enumerate(rows.label_sets()) if not concerned.isdisjoint(own)]
        findings.append(
            Finding(
                "small classes",
                Severity.MEDIUM,
                f"{len(few):,} of {len(sizes):,} classes {choose_form(len(few), 'has', 'have')} fewer than {FEW_ROWS} "
                f"training rows, such as {names}; "
                "add rows, or merge classes",
                [FindingRow(index) for index in members if rows.part[index] == TRAINING],
            )
        )
    advice = describe_class_sizes(rows.splits[TRAINING])
    findings += [Finding("unequal classes", Severity.MEDIUM, text) for text in advice]
    return findings
