"""Folder of a report: next to its checkpoint by default, and never inside one."""

import re
from pathlib import PurePath

from cluster.storage import StorageError, absolute_path, exists, join, local_path, parent, split_query
from jobs.model.checkpoint import Checkpoint, CheckpointError
from jobs.model.checkpoint_locations import is_on_hub, parse_hub_uri, resolve_checkpoint

_RUN_CHECKPOINT = re.compile(r"epoch-\d+(-step-\d+)?")


def choose_report_folder(out: str | None, path: str, checkpoint: Checkpoint, rows: str = "") -> str:
    """Return the folder of a checkpoint's report.

    Args:
        out: the folder; by default `report` next to the checkpoint, or `report-NAME` if the checkpoint is another one
            than the best of its run. That of a checkpoint on the Hub is `report-NAME` in the working directory.
        path: the checkpoint as the command names it.
        rows: end of the default name.

    Raises:
        StorageError: `out` is in a checkpoint.
    """
    if out is not None:
        target = absolute_path(out)
        check_outside_checkpoint(target, checkpoint)
        return target
    if is_on_hub(checkpoint.path):
        return absolute_path(f"report-{PurePath(parse_hub_uri(checkpoint.path)[0]).name}{rows}")
    folder, name = parent(checkpoint.path), PurePath(split_query(checkpoint.path)[0]).name
    # Searches and unfinished runs have checkpoints side by side, whose reports must differ.
    is_best = absolute_path(path) != checkpoint.path or _names(folder, checkpoint.path)
    return join(folder, f"report{'' if is_best or not _RUN_CHECKPOINT.fullmatch(name) else f'-{name}'}{rows}")


def check_outside_checkpoint(folder: str, checkpoint: Checkpoint) -> None:
    """Raise a StorageError if a folder is another checkpoint, or is in this one or the same."""
    local, local_checkpoint = local_path(folder), local_path(checkpoint.path)
    if local is not None and local_checkpoint is not None:
        is_inside = local.resolve().is_relative_to(local_checkpoint.resolve())
    else:
        is_inside = f"{folder.partition('?')[0].rstrip('/')}/".startswith(f"{checkpoint.path.partition('?')[0]}/")
    if is_inside or exists(join(folder, "manifest.json")):
        raise StorageError(f"{folder}: is in a checkpoint, whose files are never changed; name another folder")


def _names(folder: str, checkpoint: str) -> bool:
    """Return whether the best.json of a folder names a checkpoint."""
    try:
        return resolve_checkpoint(folder) == checkpoint
    except CheckpointError:
        return False
