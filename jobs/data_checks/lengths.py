"""Check of the lengths of the texts: texts without words, very long texts and truncated texts."""

import numpy as np

from cluster import choose_form
from jobs.data_checks.findings import Finding, FindingRow, Severity
from jobs.data_checks.rows import Rows

LONG_FACTOR = 10  # times the 95th percentile of the lengths
MIN_LONG_TOKENS = 100


def check_lengths(rows: Rows, max_tokens: int) -> list[Finding]:
    """Return findings on the lengths of the texts; `max_tokens` is the length to which training truncates."""
    lengths = np.array([len(tokens) for tokens in rows.tokens], np.int64)
    median, high = (int(value) for value in np.quantile(lengths, [0.5, 0.95], method="higher"))
    findings = [
        Finding(
            "lengths",
            Severity.INFO,
            f"half of the texts have up to {median:,} tokens, 95% up to {high:,}, the longest {lengths.max():,}",
        )
    ]
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        verb = choose_form(len(empty), "has", "have")
        message = f"{len(empty):,} of {len(rows):,} texts {verb} no words; remove such rows, or fill in their texts"
        findings.append(
            Finding("texts without words", Severity.HIGH, message, [FindingRow(int(index)) for index in empty])
        )
    limit = max(LONG_FACTOR * high, MIN_LONG_TOKENS)
    truncated = f"truncated to text.max_tokens={max_tokens}"
    for name, severity, mask, verbs, text in (
        ("truncated texts", Severity.MEDIUM, lengths > max_tokens, ("is", "are"), truncated),
        (
            "very long texts",
            Severity.MEDIUM,
            (lengths > limit) & (lengths <= max_tokens),
            ("has", "have"),
            f"more than {limit:,} tokens, {LONG_FACTOR} times as many as 95% of the texts",
        ),
    ):
        indices = np.flatnonzero(mask)
        if len(indices):
            indices = indices[np.argsort(-lengths[indices], kind="stable")]
            subject = f"{len(indices):,} of {len(rows):,} texts {choose_form(len(indices), *verbs)}"
            message = f"{subject} {text}; the longest has {lengths[indices[0]]:,} tokens"
            finding_rows = [FindingRow(int(index), note=f"{lengths[index]:,} tokens") for index in indices]
            findings.append(Finding(name, severity, message, finding_rows))
    return findings
