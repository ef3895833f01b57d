"""Deletion of what nothing references: checkpoints that are not the best of their run, and unused caches.

A finished run is not resumed, so only its best checkpoint is read again. What a best.json
names, what a service uses (leases), and unfinished runs, which the same command resumes, are never deleted.
"""

import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.console.logs import RESULT
from cluster.console.tables import format_text_table
from cluster.storage import StorageError, absolute_path, is_uri, join, lock_folder, parent, remove_file
from jobs.model.checkpoint_leases import remove_unleased_folder
from jobs.runs.run_list import Run, RunsError, find_experiments, load_runs
from jobs.runs.stored_files import StoredFile, format_size, freed_size, list_files

logger = logging.getLogger(__name__)

CACHE_FOLDER = "cache"
UNUSED_CACHE_DAYS = 30
_DAY_S = 24 * 3600
# Checkpoints, and what is left of one if its writer was killed.
_CHECKPOINT = re.compile(r"(?P<folder>(.*/)?(epoch-\d+(-step-\d+)?|\.epoch-[^/]*\.part))/.*")
_TRIAL = re.compile(r"(?P<folder>trial-\d+)/.*")
_CACHE = re.compile(r"(?P<kind>vectors|docstrings)-[0-9a-f]+\b.*")
_PARTIAL = re.compile(r"\..*\.part(/.*)?")


@dataclass(frozen=True)
class Removal:
    """Something to delete. folder: it is a folder. lock: folder of the run that must not be in use meanwhile."""

    path: str
    reason: str
    files: Sequence[StoredFile]
    folder: bool
    lock: str | None = None


def clean(folder: str, *, delete: bool) -> None:
    """Log what nothing references in the experiments of a folder, with its size, and delete it if `delete` is set.

    Raises:
        RunsError: there are no runs.
        StorageError: something cannot be listed or deleted.
    """
    removals = plan_removals(folder)
    if not removals:
        logger.log(RESULT, f"{folder}: nothing to delete; each file is referenced, or is of an unfinished run")
        return
    rows = [
        {"path": item.path, "size": format_size(freed_size(item.files)), "reason": item.reason} for item in removals
    ]
    logger.log(RESULT, format_text_table(rows))
    size = format_size(freed_size(file for item in removals for file in item.files))
    if not delete:
        logger.log(RESULT, f"{size} in total; nothing is deleted without --yes")
        return
    deleted = [item for item in removals if _remove(item)]
    size = format_size(freed_size(file for item in deleted for file in item.files))
    logger.log(RESULT, f"deleted {len(deleted)} of {len(removals)}, {size}")


def plan_removals(folder: str) -> list[Removal]:
    """Return what nothing references in the experiments of a folder; errors as of `clean`."""
    folder = absolute_path(folder)
    try:
        experiments = find_experiments(folder)
    except RunsError:
        caches = _find_caches(folder, [])
        if not caches:
            raise
        return caches
    checkpoints = [
        removal
        for experiment in experiments
        for run in load_runs(experiment)
        if run.is_finished
        for removal in _find_checkpoints(join(experiment, run.name), run)
    ]
    storage = parent(experiments[0])
    # Other experiments use the same caches.
    runs = [run for experiment in find_experiments(storage) for run in load_runs(experiment)]
    return checkpoints + _find_caches(storage, runs)


def _find_checkpoints(path: str, run: Run) -> Iterable[Removal]:
    """Yield the checkpoints of a finished run that neither its best.json nor a service references."""
    used = {folder.rstrip("/") for folder in run.leased_folders} | run.references
    folders: dict[str, list[StoredFile]] = {}
    for name, file in run.files.items():
        match = _CHECKPOINT.fullmatch(name)
        if match is None:
            continue
        folder = match["folder"]
        trial = _TRIAL.fullmatch(name)
        if trial and not any(other == trial["folder"] or other.startswith(f"{trial['folder']}/") for other in used):
            folder = trial["folder"]
        folders.setdefault(folder, []).append(file)
    for folder, files in sorted(folders.items()):
        if not any(f"{other}/".startswith(f"{folder}/") or f"{folder}/".startswith(f"{other}/") for other in used):
            yield Removal(join(path, folder), "not the best checkpoint of its run", files, folder=True, lock=path)


def _find_caches(storage: str, runs: Sequence[Run]) -> list[Removal]:
    """Return the caches of a storage that none of its runs could use, and those that were not used for long.

    While a run is unfinished, the caches that it could use stay. So do those of the last day: a command that is
    starting may have written them, and has no run yet. An object store has no times of use, so there a cache counts
    from the time when it was written.
    """
    event = "written" if is_uri(storage) else "used"
    removals = []
    for name, file in sorted(list_files(join(storage, CACHE_FOLDER)).items()):
        path = join(storage, CACHE_FOLDER, name)
        days = (time.time() - file.used) / _DAY_S
        match = _CACHE.fullmatch(name)
        if days < 1:
            continue
        if match:
            users = [run for run in runs if _can_use(run, match["kind"])]
            if not users:
                removals.append(Removal(path, "no run uses such a cache", [file], folder=False))
            elif days > UNUSED_CACHE_DAYS and all(run.is_finished for run in users):
                removals.append(Removal(path, f"not {event} for {days:.0f} days", [file], folder=False))
        elif _PARTIAL.fullmatch(name):
            removals.append(Removal(path, "left by a command that was killed", [file], folder=False))
    return removals


def _can_use(run: Run, kind: str) -> bool:
    """Return whether a run could read a cache of this kind; a run with unreadable settings could."""
    if kind == "docstrings":
        return run.settings.get("data.train") is None
    return run.name.startswith("tune-") or run.settings.get("model.embedding") != "rand"


def _remove(removal: Removal) -> bool:
    """Delete something, and return whether it is deleted: it stays if it is in use."""
    if not removal.folder:
        remove_file(removal.path)
        return True
    try:
        with lock_folder(str(removal.lock)):
            removed = remove_unleased_folder(removal.path)
    except StorageError as error:
        logger.warning(f"{removal.path} stays: {error}")
        return False
    if not removed:
        logger.warning(f"{removal.path} stays: a service uses it")
    return removed
