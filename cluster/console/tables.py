"""Tables as text for the console, and as Markdown for reports."""

import io
from collections.abc import Mapping, Sequence

# Rich truncates cells to the width of a terminal; a log has none.
WIDTH = 10_000
UNITS = ("B", "kB", "MB", "GB", "TB")


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


class GrowingTable:
    """Text table whose rows are printed one after the other; the first row comes with the header.

    Rows have the columns of the first one, which decides the widths.
    """

    def __init__(self) -> None:
        self._widths: dict[str, int] = {}

    def format_row(self, row: Mapping[str, object], note: str = "") -> str:
        """Return a row as text, aligned at the right; note: text that follows it."""
        header = ""
        if not self._widths:
            self._widths = {name: max(len(name), len(str(value))) for name, value in row.items()}
            header = "  ".join(f"{name:>{width}}" for name, width in self._widths.items()) + "\n"
        cells = "  ".join(f"{row.get(name, '')!s:>{width}}" for name, width in self._widths.items())
        return f"{header}{cells}  {note}".rstrip()


def format_markdown_table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return rows as the lines of a Markdown table; the keys of the first row are the columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(escape_cell(str(row[column])) for column in columns) + " |" for row in rows]


def format_size(size: int) -> str:
    """Return a number of bytes with a unit, such as 75.2 MB."""
    exponent = min((len(str(size)) - 1) // 3, len(UNITS) - 1)
    return f"{size / 1000**exponent:.{1 if exponent else 0}f} {UNITS[exponent]}"


def escape_cell(text: str) -> str:
    """Return text that is safe in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
