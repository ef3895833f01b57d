"""Sources of labelled texts: the files that a path, a folder, a glob pattern, a URI or a list of these names."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from cluster.input_files import READ_ERRORS, WEB_SCHEMES, find_kind, list_folder, list_matches, open_decompressed
from cluster.storage import StorageError, absolute_path, is_uri, join, split_query
from jobs.config.formats import SUFFIX_HINT, FormatName, base_name, find_format
from jobs.config.settings import DataSettings, Source
from jobs.datasets.formats.fasttext_lines import LABEL_PREFIX
from jobs.datasets.formats.rows import DataError, SourceFile
from jobs.datasets.formats.saved_dataset import find_saved_dataset

# First bytes of files whose names show no format.
MAGIC: dict[bytes, FormatName] = {b"PAR1": "parquet", b"ARROW1": "arrow", LABEL_PREFIX.encode(): "fasttext"}
IGNORED_PREFIXES = ("_", ".")  # of files that are no data, as Spark and Hadoop write them
NUM_THREADS = 32  # that wait for an object store

Result = TypeVar("Result")


def resolve_source(source: Source, data: DataSettings, *, any_lines: bool = False) -> list[SourceFile]:
    """Return the files of a source in the order of their rows: that of the list, sorted within a folder or pattern.

    Args:
        any_lines: a file of an unknown format is read line by line, instead of an error.

    Raises:
        DataError: there is no such file, or none that can be read; or formats are mixed in a folder or pattern.
    """
    if isinstance(source, str):
        return _resolve_path(source, data, any_lines)
    return [file for path in source for file in _resolve_path(path, data, any_lines)]


def locate_source(source: Source, data: DataSettings) -> Source:
    """Return a source of `data` with paths and URIs that are valid in every folder."""
    if isinstance(source, str):
        return absolute_path(locate(source, data))
    return [absolute_path(locate(path, data)) for path in source]


def locate(path: str, data: DataSettings) -> str:
    """Return a path of `data` as a path from the current folder, or a URI."""
    if is_uri(path):
        return path
    if is_uri(data.folder):
        return join(data.folder, path)
    try:
        return str(Path(data.folder, path).expanduser())
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from error


def map_files(function: Callable[[SourceFile], Result], files: Sequence[SourceFile]) -> list[Result]:
    """Return what a function returns for each file; threads call it for URIs, where requests take long."""
    if len(files) < 2 or not is_uri(files[0].path):
        return list(map(function, files))
    with ThreadPoolExecutor(min(NUM_THREADS, len(files))) as pool:
        return list(pool.map(function, files))


def _resolve_path(path: str, data: DataSettings, any_lines: bool) -> list[SourceFile]:
    location = locate(path, data)
    try:
        # In a URI the characters of patterns are escaped if they are meant; a path may contain them.
        kind = None if is_uri(location) and has_pattern(location) else find_kind(location)
        if kind == "folder":
            return _resolve_folder(location)
        if kind == "file":
            return [_identify(location, any_lines)]
        matches = list_matches(location) if has_pattern(location) else None
        if matches is None:
            raise DataError(f"{location}: no such file{_describe_base(data)}")
        files = [
            file
            for match in matches
            for file in (_resolve_folder(match) if find_kind(match) == "folder" else [_identify(match, any_lines)])
        ]
    except StorageError as error:
        raise DataError(str(error)) from error
    if not files:
        raise DataError(f"{location}: matches no file{_describe_base(data)}")
    _check_same_format(location, files)
    return files


def has_pattern(path: str) -> bool:
    """Return whether a path contains characters of a glob pattern; ? starts the query of a URI. The web has none."""
    if path.startswith(WEB_SCHEMES):
        return False
    return any(mark in split_query(path)[0] for mark in "*[?")


def has_matches(path: str) -> bool:
    """Return whether a path of this machine is a pattern that matches files."""
    return not is_uri(path) and has_pattern(path) and bool(list_matches(os.path.expanduser(path)))


def _resolve_folder(folder: str) -> list[SourceFile]:
    entries = list_folder(folder)
    files = find_saved_dataset(folder, entries)
    if files is None:
        names = [name for name, is_folder in entries.items() if not is_folder and not name.startswith(IGNORED_PREFIXES)]
        files = [SourceFile(join(folder, name), find_format(name)) for name in names if find_format(name)]
        _check_same_format(folder, files, f", as in {join(folder, '*.csv')}")
    if not files:
        folders = [name for name, is_folder in entries.items() if is_folder]
        hint = f"; it has the folders {', '.join(folders[:5])}: name one, or {join(folder, '**', '*.csv')}"
        raise DataError(f"{folder}: contains no file of texts; {SUFFIX_HINT}{hint if folders else ''}")
    return files


def _describe_base(data: DataSettings) -> str:
    return f" (data.folder is '{data.folder}')" if data.folder != "." else ""


def _check_same_format(name: str, files: Sequence[SourceFile], hint: str = "") -> None:
    """Raise a DataError if files are of several formats: they may hold the same texts twice."""
    examples = {file.format: base_name(file.path) for file in reversed(files)}
    if len(examples) > 1:
        kinds = " and ".join(f"{kind} ({example})" for kind, example in sorted(examples.items(), key=str))
        raise DataError(f"{name}: mixes {kinds}; name files of one format{hint}, or a list")


def _identify(path: str, any_lines: bool) -> SourceFile:
    """Return a file with its format: by its name, or else by its content."""
    known = find_format(path)
    if known is None:
        try:
            with open_decompressed(path) as stream:
                start = stream.read(max(map(len, MAGIC)))
        except READ_ERRORS as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        known = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
        if known is None and not any_lines:
            raise DataError(f"{path}: {SUFFIX_HINT}; other names are accepted for parquet, Arrow and fastText")
    return SourceFile(path, known)
