"""Plan of a command that writes files made of a checkpoint, for `--dry-run`."""

from collections.abc import Mapping

from cluster.console.plan import Plan, PlannedFile
from cluster.storage import join, list_file_sizes
from jobs.model.checkpoint import Checkpoint
from jobs.model.checkpoint_locations import locate_snapshot

USES = {
    "vocabulary.json": "words of the training texts",
    "classifier.json": "words of the training texts",
    "tokenizer.json": "words of the training texts",
    "README.md": "model card",
}


def plan_files(
    command: str,
    checkpoint: Checkpoint,
    folder: str,
    sizes: Mapping[str, int],
    starts: Mapping[str, object] | None = None,
) -> Plan:
    """Return the plan of a command that writes files into a folder; sizes: bytes by name of the file."""
    size = sum(list_file_sizes(locate_snapshot(checkpoint.path)).values())
    writes = [PlannedFile(join(folder, name), USES.get(name, ""), number) for name, number in sizes.items()]
    return Plan(command, [PlannedFile(checkpoint.path, "checkpoint", size)], starts or {}, writes)
