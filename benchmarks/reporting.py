"""Output of a benchmark: tables and, as the last line, the same numbers as one JSON object.

It does not use `cluster.console.tables`, which needs rich: benchmarks/training.py runs on machines with only torch and
numpy.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PACKAGES = ("torch", "ray", "gensim", "numpy", "numba")


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print rows as an aligned table; the keys of the first row are the columns, numbers are rounded."""
    columns = list(rows[0])
    lines = [columns, *([format_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    print(f"\n{title}\n")
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells]).rstrip())


def print_json(benchmark: str, settings: Row, tables: Mapping[str, Sequence[Row]]) -> None:
    """Print settings, machine and tables as one line of JSON."""
    print()
    print(json.dumps({"benchmark": benchmark, "settings": settings, "machine": describe_machine(), **tables}))


def describe_machine() -> Row:
    """Return cores, processor and versions of Python and the installed packages."""
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": _processor(), "python": platform.python_version()}
    return machine | {package: version for package in PACKAGES if (version := _version(package))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def format_cell(value: object) -> str:
    """Return a value as text, a number with about three digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)
