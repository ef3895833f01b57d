"""Rows of a large source in one array file, which is cached under a key of the files and of what decides their rows."""

import unicodedata
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cluster.input_files import fingerprint
from cluster.storage import StorageError, local_path, parent
from jobs.config.experiment import digest
from jobs.datasets.formats.rows import DataError, Label, ReadOptions, SourceFile
from jobs.datasets.prepared.array_file import ArrayFile, ArrayWriter
from jobs.datasets.prepared.cache import NUM_KEY_DIGITS, ChangedSourceError, find_user_cache, load_or_create
from jobs.datasets.prepared.row_blocks import ReadFile, read_blocks
from jobs.datasets.sources import map_files

CACHE_VERSION = 1


def prepare_rows(
    files: Sequence[SourceFile], options: ReadOptions, read_file: ReadFile, weight_column: str | None, cache: str
) -> tuple[ArrayFile, Path | None]:
    """Return the rows of files, as in texts.py, and the folder of what is derived from them, None without.

    Args:
        read_file, weight_column: as of `read_blocks`.
        cache: folder, or URI, in which case the rows are in a folder of the user, or if there is none in a temporary
            file.

    Raises:
        DataError: as of `read_file`.
    """
    folder = local_path(cache) or find_user_cache()
    compute_key = partial(_compute_key, files, options, weight_column)
    key = compute_key() if folder is not None else None
    path = folder / f"texts-{key}.arrays" if folder is not None and key is not None else None

    def write(writer: ArrayWriter, _: Path) -> None:
        _write_rows(writer, files, options, read_file, weight_column, key)

    def check() -> None:
        # Otherwise files that are restored later would have the rows of others.
        if compute_key() != key:
            raise ChangedSourceError(f"{parent(files[0].path)}: files have changed while they were read")

    return load_or_create(path, write, check), folder


def _compute_key(files: Sequence[SourceFile], options: ReadOptions, weight_column: str | None) -> str | None:
    """Return a key of the content of files and of the settings, None if a store does not show changes of a file."""
    try:
        prints = map_files(lambda file: fingerprint(file.path), files)
    except StorageError as error:
        raise DataError(str(error)) from error
    if None in prints:
        return None
    data = options.data
    labels = [data.label_column, data.is_multi_label, data.label_separator]
    settings = [data.text_column, *labels, data.delimiter, data.encoding, weight_column]
    formats = [[file.format, {name: list(names) for name, names in file.class_names.items()}] for file in files]
    return digest([CACHE_VERSION, unicodedata.unidata_version, settings, formats, prints], NUM_KEY_DIGITS)


def _write_rows(
    writer: ArrayWriter,
    files: Sequence[SourceFile],
    options: ReadOptions,
    read_file: ReadFile,
    weight_column: str | None,
    key: str | None,
) -> None:
    names: dict[Label, int] = {}
    num_bytes = 0
    columns: dict[str, list[np.ndarray]] = {
        "offsets": [np.zeros(1, np.int64)],
        "hashes": [np.empty((0, 2), np.uint64)],
        "lines": [np.empty(0, np.int64)],
        "file_indices": [np.empty(0, np.int32)],
        "labels": [np.empty(0, np.int32)],
    }
    if weight_column is not None:
        columns["weights"] = [np.empty(0)]
    writer.append("content", np.empty(0, np.uint8))
    for file_index, file in enumerate(files):
        for block in read_blocks(file, options, read_file, weight_column):
            writer.append("content", block.content)
            columns["offsets"].append(block.offsets[1:] + num_bytes)
            num_bytes += len(block.content)
            columns["hashes"].append(block.hashes)
            columns["lines"].append(block.lines)
            columns["file_indices"].append(np.full(len(block.lines), file_index, np.int32))
            numbers = np.array([names.setdefault(label, len(names)) for label in block.labels], np.int32)
            columns["labels"].append(numbers[block.label_indices])
            if block.weights is not None:
                columns["weights"].append(block.weights)
    for name in list(columns):
        writer.append(name, np.concatenate(columns.pop(name)))
    writer.finish({"labels": list(names), "key": key})
