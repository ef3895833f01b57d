"""Checkpoints that the `user_config` of a service names, and their leases while a process serves them."""

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from cluster.console.plan import PlannedFile
from cluster.storage import StorageError, list_file_sizes
from jobs.model.checkpoint import CheckpointError
from jobs.model.checkpoint_leases import remove_lease, write_lease
from jobs.model.checkpoint_locations import is_on_hub, resolve_checkpoint

logger = logging.getLogger(__name__)


def referenced_checkpoints(user_config: Mapping[str, Any]) -> set[str]:
    """Return the paths of all checkpoints that a `user_config` names."""
    return {path for path, _ in _list_uses(user_config)}


def plan_checkpoints(user_config: Mapping[str, Any]) -> list[PlannedFile]:
    """Return the checkpoints that a `user_config` names, each once, with its size."""
    uses: dict[str, list[str]] = {}
    for path, use in _list_uses(user_config):
        uses.setdefault(path, []).append(use)
    return [PlannedFile(path, ", ".join(names), _measure(path)) for path, names in uses.items()]


def _list_uses(user_config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the paths of a `user_config`, each with what it is for."""
    candidate = user_config.get("candidate") or {}
    uses = {
        "checkpoint": user_config.get("checkpoint"),
        "candidate": candidate.get("checkpoint"),
        "previous checkpoint": user_config.get("previous"),
    } | {f"model {name}": path for name, path in (user_config.get("models") or {}).items()}
    return [(path, use) for use, path in uses.items() if path]


def _measure(path: str) -> int | None:
    """Return the size of a checkpoint; None on the Hub, or if there is none."""
    try:
        return None if is_on_hub(path) else sum(list_file_sizes(path).values()) or None
    except StorageError as error:
        logger.debug(str(error))
        return None


def resolve_checkpoints(user_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a `user_config` with the folders of its checkpoints: a best.json may name another one later.

    A path without a checkpoint stays as it is; the replicas refuse it.
    """
    resolved = dict(user_config)
    candidate = resolved.get("candidate") or {}
    if candidate.get("checkpoint"):
        resolved["candidate"] = {**candidate, "checkpoint": _try_resolve(candidate["checkpoint"])}
    if resolved.get("models"):
        resolved["models"] = {name: _try_resolve(path) for name, path in resolved["models"].items()}
    return resolved | {key: _try_resolve(resolved[key]) for key in ("checkpoint", "previous") if resolved.get(key)}


def _try_resolve(path: str) -> str:
    try:
        return resolve_checkpoint(path)
    except (CheckpointError, StorageError) as error:
        logger.debug(str(error))
        return path


@contextmanager
def lease_checkpoints(checkpoints: Iterable[str]) -> Iterator[None]:
    """Context manager: protect checkpoints from being removed by the search that wrote them."""
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with ExitStack() as stack:
        for checkpoint in checkpoints:
            try:
                folder = resolve_checkpoint(checkpoint)
                write_lease(folder, holder, {"service": "finetune-cnn serve"})
                stack.callback(remove_lease, folder, holder)
            except (CheckpointError, StorageError) as error:
                logger.debug(f"{error}; the checkpoint has no lease")
        yield
