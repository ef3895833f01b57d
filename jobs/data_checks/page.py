"""HTML page of a data check: self-contained, without scripts, readable on narrow screens and in dark mode."""

from collections import Counter
from collections.abc import Sequence
from html import escape

import numpy as np

from jobs.data_checks.classes import count_classes
from jobs.data_checks.findings import Finding, Severity
from jobs.data_checks.label_errors import LABELS
from jobs.data_checks.rows import PART_NAMES, TRAINING, Rows

NUM_ROWS = 100  # of each finding; the csv has all
MAX_CHARACTERS = 400
# Text on a background of the same hue, with a contrast of 4.5 or more; the words say the same.
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --bar: #2b6cb0; --soft: #8882;
  --high: #a4262c; --medium: #7a5200; --info: #2b5a8c; }
@media (prefers-color-scheme: dark) { :root { --bar: #6aa5e0; --high: #ff9a93; --medium: #f0c060; --info: #9cc4f0; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 1.75rem 0 .4rem; }
p { margin: .3rem 0 .8rem; overflow-wrap: anywhere; }
a { color: LinkText; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: anywhere; }
th { font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.severity { white-space: nowrap; font-weight: 600; }
.high { color: var(--high); } .medium { color: var(--medium); } .info { color: var(--info); }
details { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
summary:focus-visible, a:focus-visible { outline: 3px solid var(--bar); outline-offset: 2px; }
.hint { opacity: .8; font-size: .875rem; }
.text { white-space: pre-wrap; min-width: 14rem; }
td.bar { width: 30%; }
.bar span { display: block; height: .7rem; margin-top: .35rem; min-width: 1px; background: var(--bar);
  border-radius: .1rem; }
@media (max-width: 50rem) {
  table, tbody, tr, td { display: block; }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
  td { border: 0; padding: .1rem 0; }
  td:empty { display: none; }
  td:not(.severity, .name, .message, .bar, .text)::before { content: attr(data-name) ": "; opacity: .8; }
  .text { min-width: 0; font-weight: 600; }
  td.name { font-weight: 600; }
  td.number { display: inline-block; margin-right: 1rem; }
  td.bar { width: 100%; }
}
"""


def render_page(name: str, rows: Rows, findings: Sequence[Finding], csv_name: str) -> str:
    """Return the page.

    Args:
        name: of the experiment. findings: the most serious first. csv_name: file with all rows of the findings, which
            is in the folder of the page.
    """
    number = {severity: sum(finding.severity == severity for finding in findings) for severity in Severity}
    counts = f"{number[Severity.HIGH]} of high and {number[Severity.MEDIUM]} of medium severity"
    title = escape(f"Data check of {name}")
    sections = [_render_finding(index, finding, rows) for index, finding in enumerate(findings) if finding.rows]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<title>{title}</title>\n<link rel="icon" href="data:,">\n<style>{_STYLE}</style>\n</head>',
            "<body>\n<main>",
            f"<h1>{title}</h1>",
            f"<p>{len(rows):,} rows, {len(rows.classes):,} classes. Findings: {counts}.</p>",
            "<h2>Findings</h2>",
            _render_summary(findings),
            "<h2>Rows</h2>",
            f'<p class="hint">Worst first, up to {NUM_ROWS} of each finding; <a href="{escape(csv_name)}">'
            f"{escape(csv_name)}</a> has all.</p>",
            *(sections or ["<p>No rows to look at.</p>"]),
            "<h2>Classes</h2>",
            _render_classes(rows, findings),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _render_summary(findings: Sequence[Finding]) -> str:
    lines = []
    for index, finding in enumerate(findings):
        severity, name = finding.severity.name.lower(), escape(finding.name)
        link = f'<a href="#finding-{index}">{name}</a>' if finding.rows else name
        lines.append([severity, link, escape(finding.message)])
    styles = ["severity", "name", "message"]
    return _table(["Severity", "Finding", "Description"], styles, lines)


def _render_finding(index: int, finding: Finding, rows: Rows) -> str:
    shown = finding.rows[:NUM_ROWS]
    columns = ["Row", "Label", "Suggested", "Text", "Note"]
    lines = [
        [
            rows.name(row.index),
            rows.labels[row.index],
            row.suggested,
            _shorten(rows.texts[row.index]),
            _shorten(row.note),
        ]
        for row in shown
    ]
    used = [number for number in range(len(columns)) if any(line[number] for line in lines)]
    table = _table(
        [columns[number] for number in used],
        ["text" if columns[number] == "Text" else "" for number in used],
        [[escape(line[number]) for number in used] for line in lines],
    )
    severity = finding.severity.name.lower()
    number = f"{len(shown):,} of {len(finding.rows):,} rows" if len(shown) < len(finding.rows) else ""
    return (
        f'<details id="finding-{index}"{" open" if finding.severity == Severity.HIGH else ""}>'
        f'<summary>{escape(finding.name)} <span class="{severity}">({severity})</span></summary>'
        f'<p>{escape(finding.message)}. <span class="hint">{number}</span></p>{table}</details>'
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " …"


def _render_classes(rows: Rows, findings: Sequence[Finding]) -> str:
    counts = count_classes(rows)  # (classes, parts)
    suspicious = Counter(
        rows.labels[row.index] for finding in findings if finding.name == LABELS for row in finding.rows
    )
    parts = [number for number in range(len(PART_NAMES)) if counts[:, number].any()]
    largest = max(1, int(counts[:, TRAINING].max()))
    lines = []
    for index in np.argsort(-counts[:, TRAINING], kind="stable"):
        label = rows.classes[index]
        numbers = [*(int(counts[index, part]) for part in parts), suspicious[label]]
        bar = f'<span style="width: {100 * counts[index, TRAINING] / largest:.1f}%"></span>'
        lines.append([escape(label), *(f"{number:,}" for number in numbers), bar])
    names = [*(PART_NAMES[part].capitalize() for part in parts), "Suspicious"]
    return _table(["Class", *names, ""], ["name", *["number"] * len(names), "bar"], lines)


def _table(columns: Sequence[str], styles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table of cells in HTML; styles: class of the cells of each column."""
    head = "".join(f'<th scope="col" class="{style}">{name}</th>' for name, style in zip(columns, styles, strict=True))
    body = []
    for line in lines:
        cells = (
            f'<td data-name="{name}" class="{style if style != "severity" else f"severity {cell}"}">{cell}</td>'
            for name, style, cell in zip(columns, styles, line, strict=True)
        )
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>"
