"""Ray Train's own list of a run's reports, which must not name removed checkpoints."""

import json
import logging
from contextlib import suppress

from cluster import first_line
from cluster.storage import StorageError, exists, join, read_text, remove_file, write_text

logger = logging.getLogger(__name__)

# Ray Train's list of the reports with their checkpoints, in a run's folder.
RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"


def remove_ray_snapshot(path: str) -> None:
    """Remove Ray Train's list of reports from a run's folder."""
    if exists(snapshot := join(path, RAY_SNAPSHOT)):
        remove_file(snapshot)


def prune_ray_snapshot(path: str) -> None:
    """Remove the reports whose checkpoints were removed; `ray.train.Result.from_path` fails with them.

    Only Ray reads the file, whose format is private. So an error does not end the run: the file is removed.
    """
    file = join(path, RAY_SNAPSHOT)
    try:
        if not exists(file):
            return
        snapshot = json.loads(read_text(file))
        reports = zip(snapshot["checkpoint_results"], snapshot["checkpoint_report_indices"], strict=True)
        kept = {index: result for result, index in reports if exists(join(path, result["checkpoint_dir_name"]))}
        snapshot |= {"checkpoint_results": list(kept.values()), "checkpoint_report_indices": list(kept)}
        write_text(file, json.dumps(snapshot))
    except (StorageError, ValueError, KeyError, TypeError) as error:
        logger.warning(f"{file}: is removed, because it cannot be updated: {type(error).__name__}: {first_line(error)}")
        with suppress(StorageError):
            remove_file(file)
