"""Plan of a command: what it would read, start and write. `--dry-run` prints it, and nothing is started or written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from cluster.console.tables import format_size, format_text_table


@dataclass(frozen=True)
class PlannedFile:
    """A file or folder that a command would read or write.

    use: the setting that names it, or what is in it. bytes: None if it is not known; of what is written, about. rows:
    None if they were not counted.
    """

    path: str
    use: str
    bytes: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Plan:
    """Files that a command would read and write, and processes that it would start.

    starts: numbers and kinds of processes by name; empty if none would be started.
    """

    command: str
    reads: Sequence[PlannedFile]
    starts: Mapping[str, object]
    writes: Sequence[PlannedFile]
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the plan as JSON values."""
        return {**asdict(self), "dry_run": True}

    def format(self) -> str:
        """Return the plan as text."""
        starts = {name.replace("_", " "): _format(value) for name, value in self.starts.items()} or {"nothing": ""}
        sections: dict[str, list[dict[str, object]]] = {
            "reads": [_describe(file) for file in self.reads],
            "starts": [{"name": name, "value": value} for name, value in starts.items()],
            "writes": [_describe(file) for file in self.writes],
        }
        lines = [f"dry run of {self.command}: nothing is started or written"]
        for heading, rows in sections.items():
            table = format_text_table(rows).split("\n")[1:] if rows else ["nothing"]
            lines += [f"{heading}:", *(f"  {line}" for line in table)]
        return "\n".join(lines)


def total_bytes(files: Iterable[PlannedFile]) -> int | None:
    """Return the size of all files, None if one is not known."""
    sizes = [file.bytes for file in files]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _describe(file: PlannedFile) -> dict[str, object]:
    rows = "" if file.rows is None else f"{file.rows:,} rows"
    size = "" if file.bytes is None else format_size(file.bytes)
    return {"path": file.path, "use": file.use, "size": size, "rows": rows}


def _format(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))
