"""Folder that gets all files of an export, or after an error none of them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.durable_files import flush, remove_new_folders
from cluster.storage import local_path, output_folder


@contextmanager
def fill_folder(path: str, last: str) -> Iterator[Path]:
    """Yield a temporary folder, whose files are then moved to the folder at a path or URI.

    Other files of that folder stay. After an error, such as a full disk, it is as it was.

    Args:
        last: name of the file that is moved last, without which the others are not read.

    Raises:
        StorageError: the folder cannot be written.
    """
    with (
        remove_new_folders(local_path(path)),
        output_folder(path) as folder,
        tempfile.TemporaryDirectory(".part", ".", folder) as part,
    ):
        yield Path(part)
        names = sorted(os.listdir(part), key=lambda name: name == last)
        for name in names:  # before one has its name: a disk may be full only now
            flush(Path(part, name))
        for name in names:
            os.replace(Path(part, name), folder / name)
        flush(folder)
