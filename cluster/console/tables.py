"""Tables as text for the console, and as Markdown for reports."""

import io
from collections.abc import Mapping, Sequence

# Rich truncates cells to the width of a terminal; a log has none.
WIDTH = 10_000


def format_text_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as a text table without lines; the keys of the first row are the columns.

    Columns that hold numbers, or text that starts with a digit, are aligned at the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in rows[0]:
        is_number = all(str(row[column]).lstrip("+-")[:1].isdigit() for row in rows)
        table.add_column(Text(column), justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


def format_markdown_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return rows as the lines of a Markdown table; the keys of the first row are the columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(escape_cell(str(row[column])) for column in columns) + " |" for row in rows]


def escape_cell(text: str) -> str:
    """Return text that is safe in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
