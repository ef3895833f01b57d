"""Leases on folders of a storage: small files that protect a folder from being removed while a service uses it.

A lease is the file `lease-<holder>.json` in the folder. What removes folders that others may use calls
`remove_unleased_folder`. A lease has no end: its holder deletes it, or a person who knows that the holder is gone.
A repository on the Hugging Face Hub has no leases: nothing here removes it.
"""

import hashlib
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster.storage import StorageError, exists, join, list_file_sizes, remove_file, remove_folder, write_json
from jobs.model.checkpoint_locations import is_on_hub

logger = logging.getLogger(__name__)

LEASE_NAME = re.compile(r"(.*/)?lease-[0-9a-f]{16}\.json")


def write_lease(folder: str, holder: str, description: Mapping[str, str]) -> None:
    """Protect a folder for a holder.

    Args:
        folder: path or URI of an existing folder.
        holder: identifies the user of the folder.
        description: for people who find the file.

    Raises:
        StorageError: the folder cannot be written.
    """
    if not is_on_hub(folder):
        write_json(_lease_path(folder, holder), {"holder": holder, **description})


def remove_lease(folder: str, holder: str) -> None:
    """Remove a holder's lease on a folder, if there is one; StorageError if it cannot be removed."""
    path = _lease_path(folder, holder)
    if not is_on_hub(folder) and exists(path):
        remove_file(path)


def copy_leases(folder: Path, target: Path) -> None:
    """Copy the leases of a local folder, which may not exist, into another; OSError if they cannot be copied."""
    for path in folder.glob("lease-*.json"):
        shutil.copyfile(path, target / path.name)


def is_leased(folder: str) -> bool:
    """Return whether a folder, or one inside it, has a lease; StorageError if it cannot be listed."""
    return any(LEASE_NAME.fullmatch(name) for name in list_file_sizes(folder))


def remove_unleased_folder(folder: str) -> bool:
    """Remove a folder with its content unless it, or a folder inside it, has a lease; return whether it is removed.

    Raises:
        StorageError: it cannot be listed or removed.
    """
    if is_leased(folder):
        return False
    remove_folder(folder)
    return True


def remove_outdated_folder(folder: str) -> None:
    """Remove a folder as `remove_unleased_folder` does; log a warning if that fails, which ends no run."""
    try:
        remove_unleased_folder(folder)
    except StorageError as error:
        logger.warning(f"an outdated checkpoint stays for now: {error}")


def _lease_path(folder: str, holder: str) -> str:
    return join(folder, f"lease-{hashlib.sha256(holder.encode()).hexdigest()[:16]}.json")
