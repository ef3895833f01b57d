"""The checkpoints of one run: written whole beside the training, found again after anything.

    epoch-0003               after the third epoch
    epoch-0003-step-000160   160 steps into the fourth

The newest two are kept, and the best epoch's. Each is written under another name, or in an object store its
manifest last, and read only if every file is what its manifest says: of a run that is killed, or whose disk is
full, nothing half-written is ever taken for a checkpoint.
"""

import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cluster.storage import (
    StorageError,
    as_local_folder,
    copy_folder,
    exists,
    is_uri,
    join,
    list_folders,
    remove_folder,
    write_bytes,
)
from jobs.model.checkpoint import CheckpointError, TrainingState, load_training_state, verify_checksums
from jobs.training.history import Progress

logger = logging.getLogger(__name__)

NUM_TO_KEEP = 2
_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


def checkpoint_name(epochs: int, steps: int = 0) -> str:
    """Return the name of the checkpoint after so many epochs and steps."""
    return f"epoch-{epochs:04d}" + (f"-step-{steps:06d}" if steps else "")


class CheckpointStore:
    """Those in a run's folder, a path or URI.

    Args:
        kept: how many of the newest are left when another is written; None for all.
    """

    def __init__(self, path: str, num_to_keep: int | None = NUM_TO_KEEP) -> None:
        self.path = path
        self._kept = num_to_keep
        # Left where they are until their epoch comes again: what cannot be read may be readable later.
        self._damaged: set[str] = set()

    def names(self) -> list[str]:
        """Return what is there and not known to be damaged, the newest first."""
        found = [name for name in list_folders(self.path) if _NAME.fullmatch(name) and name not in self._damaged]
        return sorted(found, key=_position, reverse=True)

    def newest_position(self) -> tuple[int, int]:
        """Return how far the newest is: epochs, and steps of the next; (0, 0) where there is none."""
        return max((_position(name) for name in self.names()), default=(0, 0))

    def read(self, name: str) -> TrainingState:
        """Return what a run goes on from, of one of them; CheckpointError if it is not whole."""
        with as_local_folder(join(self.path, name)) as folder:
            return load_training_state(folder)

    def load_newest_valid(self, *, require_best: bool = True) -> tuple[str, TrainingState] | None:
        """Return the newest that is whole, and its name; None if there is none.

        Args:
            with_best: only where the best epoch's is there too.
        """
        for name in self.names():
            try:
                found = self.read(name)
                best = Progress.from_json(found.progress).best
                if best and require_best:
                    verify_checksums(join(self.path, checkpoint_name(best)))
                return name, found
            except (CheckpointError, StorageError) as error:
                self._damaged.add(name)
                left = "going on from the checkpoint before it" if self.names() else "starting from the beginning"
                logger.info(f"{error}; {left}")
        return None

    def write(self, name: str, fill: Callable[[Path], None], best: int) -> None:
        """Write a checkpoint whole, in place of one of its name, and remove those that are no longer needed.

        Args:
            fill: writes the files into an empty folder, the manifest last.
            best: the best epoch so far, which is kept; 0 for none.

        Raises:
            StorageError: it cannot be written; nothing of it is left.
        """
        target = join(self.path, name)
        try:
            if is_uri(target):
                with tempfile.TemporaryDirectory() as folder:
                    fill(Path(folder))
                    manifest = Path(folder, "manifest.json")
                    content = manifest.read_bytes()
                    manifest.unlink()
                    copy_folder(folder, target)
                    write_bytes(join(target, "manifest.json"), content)
            else:
                part = Path(self.path, f".{name}.{socket.gethostname()}.{os.getpid()}.part")
                try:
                    part.mkdir(parents=True)
                    fill(part)
                    shutil.rmtree(target, ignore_errors=True)
                    part.rename(target)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            raise StorageError(f"{target}: cannot be written: {error}") from error
        self._damaged.discard(name)
        if self._kept is not None:
            self._prune(self._kept, {checkpoint_name(best)} if best else set())

    def _prune(self, newest: int, kept: set[str]) -> None:
        """Remove all but so many of the newest and those named."""
        for name in set(self.names()[newest:]) - kept:
            remove_folder(join(self.path, name))

    def remove_partial(self) -> None:
        """Remove what writers that were killed have left; nobody may be at work on the run."""
        if not is_uri(self.path):
            for part in Path(self.path).glob(".epoch-*.part"):
                shutil.rmtree(part, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Tell whether a checkpoint is there."""
        return exists(join(self.path, name, "manifest.json"))


def _position(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


class BackgroundExecutor:
    """Does one thing after another in a thread of its own, at most one ahead."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Wait for what was asked for before, and begin with this; raises what went wrong before."""
        self.wait()
        self._last = self._threads.submit(work)

    def wait(self) -> None:
        """Wait for what was asked for; raises what went wrong."""
        last, self._last = self._last, None
        if last is not None:
            last.result()
