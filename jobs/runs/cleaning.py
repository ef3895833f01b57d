"""Deletion of what nothing references: checkpoints that are not the best of their run, unused caches, abandoned runs.

A finished run is not resumed, so only its best checkpoint is read again. What a best.json names and what a service uses
(leases) is never deleted. The same command resumes an unfinished run, so it is deleted only on request, as a whole,
and only if no command is using it, no service does, and the experiment's best.json names none of its checkpoints.
"""

import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.tables import format_size, format_text_table
from cluster.storage import LOCK_FILE, StorageError, absolute_path, is_uri, join, lock_folder, parent, remove_file
from jobs.model.checkpoint_leases import remove_unleased_folder
from jobs.runs.run_list import RUN_NAME, Run, RunsError, find_experiments, load_runs
from jobs.runs.stored_files import StoredFile, freed_size, list_files, unique_size
from jobs.training.run_files.ray_snapshot import remove_ray_snapshot

logger = logging.getLogger(__name__)

CACHE_FOLDER = "cache"
UNUSED_CACHE_DAYS = 30
_DAY_S = 24 * 3600
# Checkpoints, and what is left of one if its writer was killed.
_CHECKPOINT = re.compile(r"(?P<folder>(.*/)?(epoch-\d+(-step-\d+)?|\.epoch-[^/]*\.part))/.*")
_TRIAL = re.compile(r"(?P<folder>trial-\d+)/.*")
_CACHE = re.compile(r"(?P<kind>vectors|docstrings|texts|tokens)-[0-9a-f]+\b.*")
_PARTIAL = re.compile(r"\..*\.part(/.*)?")


@dataclass(frozen=True)
class Removal:
    """Something to delete. folder: it is a folder. lock: folder of the run that must not be in use meanwhile."""

    path: str
    reason: str
    files: Sequence[StoredFile]
    folder: bool
    lock: str | None = None


def clean(folder: str, *, delete: bool, unfinished_days: float | None = None) -> None:
    """Log what nothing references in the experiments of a folder, with its size, and delete it if `delete` is set.

    Args:
        unfinished_days: also delete abandoned runs that have not changed for as many days; by default they are listed.

    Raises:
        RunsError: there are no runs, the folder is one, or runs of an object store, which have no locks, changed less
            than a day ago.
        StorageError: something cannot be listed or deleted.
    """
    if RUN_NAME.fullmatch(absolute_path(folder).rstrip("/").rpartition("/")[2]):
        raise RunsError(f"{folder}: is a run; name the folder of its experiment, of which all runs are cleaned")
    if unfinished_days is not None and unfinished_days < 1 and is_uri(folder):
        raise RunsError(f"{folder}: its runs have no locks, so one that changed within a day may be running")
    removals = plan_removals(folder)
    abandoned = find_abandoned_runs(folder)
    if unfinished_days is None:
        _log_abandoned_runs(abandoned)
    else:
        removals += [run.removal for run in abandoned if run.days >= unfinished_days]
    items = [{"path": item.path, "bytes": freed_size(item.files), "reason": item.reason} for item in removals]
    report_result({"unused": items, "deleted": []})
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
    report_result({"deleted": [item.path for item in deleted]})


@dataclass(frozen=True)
class AbandonedRun:
    """An unfinished run that nothing uses. days: since its newest file was written."""

    days: float
    removal: Removal


def find_abandoned_runs(folder: str) -> list[AbandonedRun]:
    """Return the abandoned runs in the experiments of a folder, those without a change for the longest time first."""
    try:
        experiments = find_experiments(absolute_path(folder))
    except RunsError:
        return []
    abandoned = []
    for experiment in experiments:
        for run in load_runs(experiment):
            path = join(experiment, run.name)
            if run.is_finished or run.is_current or run.leased_folders or not run.change_time:
                continue
            if LOCK_FILE in run.files and _is_locked(path):
                continue
            days = (time.time() - run.change_time) / _DAY_S
            reason = f"unfinished, and unchanged for {_format_days(days)}"
            files = [file for name, file in run.files.items() if name != LOCK_FILE]
            abandoned.append(AbandonedRun(days, Removal(path, reason, files, folder=True, lock=path)))
    return sorted(abandoned, key=lambda run: -run.days)


def _log_abandoned_runs(abandoned: Sequence[AbandonedRun]) -> None:
    if not abandoned:
        return
    rows = [
        {
            "run": run.removal.path,
            "size": format_size(unique_size(run.removal.files)),
            "unchanged for": _format_days(run.days),
        }
        for run in abandoned
    ]
    logger.log(RESULT, f"unfinished runs, which stay unless --unfinished DAYS is set:\n\n{format_text_table(rows)}\n")


def _format_days(days: float) -> str:
    if days < 1:
        return "less than a day"
    return "1 day" if days < 2 else f"{days:.0f} days"


def _is_locked(path: str) -> bool:
    """Return whether a command is using a run; also if the run's folder cannot be written."""
    try:
        with lock_folder(path):
            return False
    except StorageError:
        return True


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
    if not run.settings:
        return True
    if kind == "docstrings":
        return run.settings.get("data.train") is None
    if kind in ("texts", "tokens"):
        return run.settings.get("data.train") is not None
    return run.name.startswith("tune-") or run.settings.get("model.embedding") != "rand"


def _remove(removal: Removal) -> bool:
    """Delete something, and return whether it is deleted: it stays if it is in use."""
    try:
        if not removal.folder:
            remove_file(removal.path)
            return True
        with lock_folder(str(removal.lock)) as is_locked:
            if removal.path == removal.lock:
                if _has_changed(removal):
                    logger.warning(f"{removal.path} stays: it has changed meanwhile")
                    return False
                if not is_locked and time.time() - max((file.modified for file in removal.files), default=0.0) < _DAY_S:
                    logger.warning(f"{removal.path} stays: it has no locks and changed within a day; it may be running")
                    return False
            removed = remove_unleased_folder(removal.path)
            if removed and removal.path != removal.lock:
                remove_ray_snapshot(parent(removal.path))  # `ray.train.Result.from_path` fails without the checkpoints
    except StorageError as error:
        logger.warning(f"{removal.path} stays: {error}")
        return False
    if not removed:
        logger.warning(f"{removal.path} stays: a service uses it")
    return removed


def _has_changed(removal: Removal) -> bool:
    """Return whether a run has other files than when its removal was planned."""
    files = [file for name, file in list_files(removal.path).items() if name != LOCK_FILE]
    states = ({(file.identity, file.modified, file.size) for file in group} for group in (files, removal.files))
    return next(states) != next(states)
