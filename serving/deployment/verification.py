"""Verification that a deployed service uses its checkpoint."""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cluster import UsageError
from serving import api_keys
from serving.client import Client, ServiceError
from serving.deployment.configurations import DeploymentError

logger = logging.getLogger(__name__)

CHECKPOINT_SWAP_TIMEOUT_S = 20  # replicas load a new checkpoint shortly after Serve has received it
INFO_REQUESTS = 6  # consecutive requests go to different replicas
INFO_TIMEOUT_S = 3


def verify_checkpoint(url: str | None, user_config: Mapping[str, Any], *, report_at_once: bool = True) -> None:
    """Wait until a service uses the checkpoints of a `user_config`; log a message if that cannot be seen from here.

    Args:
        url: of the service; None if it cannot be reached from here.
        report_at_once: a refusal is final. Else the replicas may still have the refusal of an earlier deployment, and
            try again.

    Raises:
        DeploymentError: the checkpoint or the candidate is refused, or the checkpoint is not served in time.
    """
    checkpoint = user_config["checkpoint"]
    candidate = (user_config.get("candidate") or user_config)["checkpoint"]
    deadline = time.monotonic() + CHECKPOINT_SWAP_TIMEOUT_S
    responds = False
    while url:
        infos = _fetch_infos(url)
        others = [info for info in infos if info.get("checkpoint") != checkpoint or "refused" in info]
        if len(infos) == INFO_REQUESTS and not others:
            return
        responds = responds or bool(infos)
        refusals = [info for info in others if info.get("refused_checkpoint") in (checkpoint, candidate)]
        late = time.monotonic() >= deadline
        if not responds or (late and not others):
            break
        if late or (refusals and report_at_once):
            served = (refusals or others)[0].get("checkpoint")
            if not refusals:
                waited = f"{checkpoint}: is not served after {CHECKPOINT_SWAP_TIMEOUT_S} s"
                raise DeploymentError(f"{waited}, and {served} still is; see GET /info and Ray's logs")
            role = "checkpoint" if refusals[0]["refused_checkpoint"] == checkpoint else "candidate"
            raise DeploymentError(f"{refusals[0]['refused']}; the {role} is refused and {served} is still served")
        time.sleep(0.5)
    logger.info("cannot check from here whether the checkpoint is served; see GET /info")


def _fetch_infos(url: str) -> list[Mapping[str, Any]]:
    """Return the `/info` of INFO_REQUESTS requests; fewer if one gets no response, after which none is sent."""
    infos: list[Mapping[str, Any]] = []
    while len(infos) < INFO_REQUESTS and (info := fetch_info(url)) is not None:
        infos.append(info)
    return infos


def fetch_info(url: str) -> Mapping[str, Any] | None:
    """Return the `/info` of a service, or None if it cannot be read."""
    keys: list[str | None] = [None]  # a key is sent only to a service that requires one
    with suppress(UsageError):
        keys += api_keys.read_key_list()[:1]
    for key in keys:
        try:
            info = Client(url, key, retry_timeout_s=INFO_TIMEOUT_S, timeout_s=INFO_TIMEOUT_S).info()
            return info if isinstance(info, dict) else None
        except ServiceError as error:
            if error.status != 401:
                return None
    return None
