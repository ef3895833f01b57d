"""Formats of files with labelled texts, and how their names end."""

import re
from typing import Literal

from cluster.storage import split_query

FormatName = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "fasttext"]

SUFFIXES: dict[str, FormatName] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "fasttext",
    ".ft": "fasttext",
}
COMPRESSION_SUFFIXES = (".gz", ".zst")
SUFFIX_HINT = f"the name must end in {', '.join(SUFFIXES)}, or one of these and {' or '.join(COMPRESSION_SUFFIXES)}"


_ENDING = re.compile(
    rf"({'|'.join(map(re.escape, SUFFIXES))})({'|'.join(map(re.escape, COMPRESSION_SUFFIXES))})?$", re.IGNORECASE
)


def find_format(path: str) -> FormatName | None:
    """Return the format that a file's name shows, at a path or at a URI with a query; None if it shows none."""
    match = _ENDING.search(base_name(path))
    return SUFFIXES[match[1].lower()] if match else None


def remove_suffixes(path: str) -> str:
    """Return the name of a file or folder, without its parents and the suffixes of format and compression."""
    return _ENDING.sub("", base_name(path))


def base_name(path: str) -> str:
    """Return the last part of a path, or of a URI without its query."""
    return split_query(path)[0].rstrip("/").rpartition("/")[2]


def derive_name(path: str) -> str:
    """Return the name of an experiment on the texts at a path or URI of a file, a folder or a pattern."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", remove_suffixes(path)).strip("._-") or "experiment"
