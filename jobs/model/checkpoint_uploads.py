"""Upload of a checkpoint to an object store, in which the store itself copies files that do not change in a run.

So every checkpoint is complete in the store, and each takes only the transfer of what training changed.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.storage import copy_folder, join, resolve_filesystem, write_bytes
from jobs.model.checkpoint_files import read_json

MIN_COPIED_BYTES = 1 << 16  # smaller files are uploaded: a copy takes two requests

# By SHA-256, files that this process has uploaded: URI, size and modification time.
_uploaded: dict[str, tuple[str, int, int]] = {}


def upload_checkpoint(target: str, fill: Callable[[Path], None]) -> None:
    """Write a checkpoint to an object store, the manifest last: an interrupted upload leaves no valid checkpoint.

    Args:
        fill: writes the files into an empty folder, the manifest last.

    Raises:
        StorageError: it cannot be written.
    """
    with tempfile.TemporaryDirectory() as parent:
        # Files are linked from the folders around it: not from the temporary folder of the system.
        folder = Path(parent, "checkpoint", "files")
        fill(folder)
        manifest = folder / "manifest.json"
        content = manifest.read_bytes()
        checksums = {
            name: entry["sha256"]
            for name, entry in read_json(str(manifest))["files"].items()
            if entry["bytes"] >= MIN_COPIED_BYTES
        }
        manifest.unlink()
        for name, checksum in checksums.items():
            if _copy(checksum, (folder / name).stat().st_size, join(target, name)):
                (folder / name).unlink()
        copy_folder(str(folder), target)
        _remember(target, checksums)
        write_bytes(join(target, "manifest.json"), content)


def _copy(checksum: str, size: int, target: str) -> bool:
    """Let the store copy a file that was uploaded before; False if there is none, it was changed, or no store can."""
    if checksum not in _uploaded:
        return False
    source, *version = _uploaded[checksum]
    filesystem, inside = resolve_filesystem(source)
    target_filesystem, target_inside = resolve_filesystem(target)
    try:
        if not filesystem.equals(target_filesystem) or _read_version(filesystem, inside) != tuple(version):
            return False
        filesystem.copy_file(inside, target_inside)
        return bool(filesystem.get_file_info(target_inside).size == size)
    except (OSError, NotImplementedError):
        return False


def _remember(target: str, checksums: Mapping[str, str]) -> None:
    """Record the files of a checkpoint that has been uploaded, except those that the store does not describe."""
    filesystem, inside = resolve_filesystem(target)
    for name, checksum in checksums.items():
        with suppress(OSError):  # the checkpoint is complete; only a later copy of the file is lost
            _uploaded[checksum] = join(target, name), *_read_version(filesystem, f"{inside}/{name}")


def _read_version(filesystem: Any, path: str) -> tuple[int, int]:
    """Return the size of a file and its modification time; those of a file that does not exist are 0."""
    info = filesystem.get_file_info(path)
    return info.size or 0, info.mtime_ns or 0
