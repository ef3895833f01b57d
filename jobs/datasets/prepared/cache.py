"""Cache of array files in a folder: written completely or not at all, and never read if they are damaged."""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from jobs.datasets.prepared.array_file import ArrayFile, ArrayWriter, create_array_file, open_array_file

logger = logging.getLogger(__name__)


def load_or_create(path: Path | None, write: Callable[[ArrayWriter, Path], None]) -> ArrayFile:
    """Return the arrays of a file, which is written if there is none, or if it is damaged.

    Args:
        path: None, or where no file can be written: the file gets no name, and is deleted with its arrays.
        write: writes the arrays and the metadata; the folder is for temporary files.
    """
    if path is not None:
        file = open_array_file(path)
        if file is not None:
            logger.info(f"from the cache: {path}")
            return file
        try:
            return _create(path, write)
        except OSError as error:
            logger.warning(f"{path}: cannot be written, so the next command reads the texts again: {error}")
    return _create(None, write)


def _create(path: Path | None, write: Callable[[ArrayWriter, Path], None]) -> ArrayFile:
    with create_array_file(path) as (writer, finished):
        write(writer, Path(tempfile.gettempdir()) if path is None else path.parent)
    return finished[0]
