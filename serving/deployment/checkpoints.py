"""Checkpoints that the `user_config` of a service names, and their leases while a process serves them."""

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from cluster.storage import StorageError
from jobs.model.checkpoint import CheckpointError, resolve_checkpoint
from jobs.model.checkpoint_leases import remove_lease, write_lease

logger = logging.getLogger(__name__)


def referenced_checkpoints(user_config: Mapping[str, Any]) -> set[str]:
    """Return the paths of all checkpoints that a `user_config` names."""
    candidate = user_config.get("candidate") or {}
    paths = (user_config.get("checkpoint"), user_config.get("previous"), candidate.get("checkpoint"))
    return {path for path in (*paths, *(user_config.get("models") or {}).values()) if path}


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
