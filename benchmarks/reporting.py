"""What every benchmark prints: a table for people and, as the last line, the same figures as one JSON object."""

import json
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PACKAGES = ("torch", "ray", "gensim", "numpy", "numba")


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows as a table; the first names the columns, numbers are rounded to what can be read."""
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[place]) for line in cells)) for place, column in enumerate(columns)]
    print(f"\n{title}\n")
    for line in [columns, *cells]:
        first, *rest = (cell.ljust(width) if place == 0 else cell.rjust(width)
                        for place, (cell, width) in enumerate(zip(line, widths, strict=True)))  # fmt: skip
        print("  ".join([first, *rest]).rstrip())


def print_json(benchmark: str, settings: Row, tables: dict[str, Sequence[Row]]) -> None:
    """Print everything as the last line, with what it was measured on."""
    print()
    print(json.dumps({"benchmark": benchmark, "settings": settings, "machine": describe_machine(), **tables}))


def describe_machine() -> Row:
    """Return what the figures were measured on."""
    found = {"cores": len(os.sched_getaffinity(0)), "processor": _processor(), "python": platform.python_version()}
    return found | {package: version for package in PACKAGES if (version := _version(package))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a bare machine with a GPU
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)
