"""Checkpoint store of one run: complete checkpoints, written while training continues.

    epoch-0003               after the third epoch
    epoch-0003-step-000160   160 steps into the fourth

All but the newest two checkpoints, that of the best epoch and those with a lease are removed. A checkpoint is written
under a temporary name and is on the disk before it has its own, or in an object store it is written with its manifest
last. It is read only if every file matches the manifest. So after a kill, a power failure or on a full disk a partial
checkpoint is never used.
"""

import logging
import re
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cluster.durable_files import make_folder, publish_folder, temporary_path
from cluster.storage import (
    StorageError,
    as_local_folder,
    exists,
    join,
    list_folders,
    local_path,
)
from jobs.model.checkpoint import CheckpointError, TrainingState, load_training_state, verify_checksums
from jobs.model.checkpoint_leases import copy_leases, remove_outdated_folder
from jobs.model.checkpoint_uploads import upload_checkpoint
from jobs.training.history import Progress

logger = logging.getLogger(__name__)

NUM_TO_KEEP = 2
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


def checkpoint_name(epochs: int, steps: int = 0) -> str:
    """Return the name of the checkpoint after that many epochs, and steps of the next one."""
    return f"epoch-{epochs:04d}" + (f"-step-{steps:06d}" if steps else "")


class CheckpointStore:
    """Checkpoints in a run's folder.

    Args:
        path: of the folder, a path or URI.
        num_to_keep: number of newest checkpoints that remain when another is written, with that of the best epoch;
            None for those of all epochs, which others may remove, without older ones within an epoch.
    """

    def __init__(self, path: str, num_to_keep: int | None = NUM_TO_KEEP) -> None:
        self.path = path
        self._num_to_keep = num_to_keep
        # Not removed until their epoch is written again: a storage error may be temporary.
        self._damaged: set[str] = set()

    def names(self) -> list[str]:
        """Return the names of the checkpoints that are not known to be damaged, newest first."""
        names = [name for name in list_folders(self.path) if _NAME.fullmatch(name) and name not in self._damaged]
        return sorted(names, key=_parse_position, reverse=True)

    def newest_position(self) -> tuple[int, int]:
        """Return (epochs, steps of the next epoch) of the newest checkpoint; (0, 0) without one."""
        return max((_parse_position(name) for name in self.names()), default=(0, 0))

    def read(self, name: str) -> TrainingState:
        """Return the training state of a checkpoint; CheckpointError if it is incomplete or altered."""
        with as_local_folder(join(self.path, name)) as folder:
            return load_training_state(folder)

    def load_newest_valid(self, *, require_best: bool = True) -> tuple[str, TrainingState] | None:
        """Return the name and training state of the newest complete checkpoint, or None.

        Args:
            require_best: ignore checkpoints whose best epoch's checkpoint is missing or damaged, unless others may
                remove it.
        """
        for name in self.names():
            try:
                state = self.read(name)
                best = Progress.from_json(state.progress).best
                if best and require_best and self._num_to_keep is not None:
                    verify_checksums(join(self.path, checkpoint_name(best)))
                return name, state
            except (CheckpointError, StorageError) as error:
                self._damaged.add(name)
                action = "resuming from the previous checkpoint" if self.names() else "starting from the beginning"
                logger.warning(f"{error}; {action}")
        return None

    def write(self, name: str, fill: Callable[[Path], None], best: int) -> None:
        """Write a complete checkpoint, replacing one of the same name, and remove those no longer needed.

        Args:
            fill: writes the files into an empty folder, the manifest last.
            best: number of the best epoch so far, whose checkpoint is not removed; 0 for none.

        Raises:
            StorageError: it cannot be written; nothing of it is left.
        """
        target = join(self.path, name)
        try:
            local = local_path(target)
            if local is None:
                upload_checkpoint(target, fill)
            else:
                part = temporary_path(local)
                try:
                    make_folder(part)
                    fill(part)
                    copy_leases(local, part)  # a service may still use the checkpoint that is replaced
                    publish_folder(part, local)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
        except (OSError, StorageError) as error:
            raise StorageError(f"{target}: cannot be written: {error}") from error
        self._damaged.discard(name)
        for old in self._list_outdated(name, best):
            remove_outdated_folder(join(self.path, old))

    def _list_outdated(self, newest: str, best: int) -> list[str]:
        """Return the names of the checkpoints that are not needed once `newest` is complete; best: as of `write`."""
        names = self.names()
        if self._num_to_keep is not None:
            return [name for name in names[self._num_to_keep :] if name != checkpoint_name(best)]
        position = _parse_position(newest)
        return [name for name in names if (own := _parse_position(name)) < position and own[1]]

    def remove_partial(self) -> None:
        """Remove the temporary folders of killed writers; no other process may be writing."""
        local = local_path(self.path)
        if local is not None:
            for part in local.glob(".epoch-*.part"):
                shutil.rmtree(part, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Return whether a checkpoint exists."""
        return exists(join(self.path, name, "manifest.json"))


def _parse_position(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


class BackgroundExecutor:
    """Thread that runs submitted functions in order, at most one at a time."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Wait for the previous function and start this one; raises the previous one's error."""
        self.wait()
        self._last = self._threads.submit(work)

    def wait(self) -> None:
        """Wait for the last function; raises its error."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
