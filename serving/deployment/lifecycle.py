"""Status, removal and rollback of a service on a running cluster."""

import logging
from datetime import datetime
from typing import Any

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.tables import format_text_table
from serving.deployment.applications import Application, ServeCluster
from serving.deployment.checkpoints import referenced_checkpoints, resolve_checkpoints
from serving.deployment.configurations import DeploymentError
from serving.deployment.verification import fetch_info, verify_checkpoint

logger = logging.getLogger(__name__)


def show_status(address: str | None) -> None:
    """Log the services of a cluster: their state, replicas, URLs and checkpoints."""
    cluster = ServeCluster(address)
    applications = cluster.list_applications()
    if not applications:
        report_result({"services": []})
        logger.log(RESULT, f"{cluster.dashboard_url}: no service runs here; `finetune-cnn deploy` starts one")
        return
    services = [_describe(application) for application in applications]
    report_result({"services": services})
    for service in services:
        rows = [{"field": name, "value": value} for name, value in service.items() if value]
        logger.log(RESULT, "\n".join(format_text_table(rows).split("\n")[1:]))


def undeploy(address: str | None, name: str | None) -> None:
    """Remove a service from a cluster and release its checkpoints; other applications stay.

    Raises:
        DeploymentError: there is no such service, or a process started it.
    """
    cluster = ServeCluster(address)
    application = cluster.find_application(name)
    application.require_declarative()
    cluster.remove(application.name)
    cluster.remove_leases(application.name, referenced_checkpoints(application.user_config))
    logger.log(RESULT, f"{application.name} is being removed from {cluster.dashboard_url}")
    report_result({"service": application.name})


def rollback(address: str | None, name: str | None) -> None:
    """Serve the previous checkpoint of a service again; a second rollback returns to the current one.

    Raises:
        DeploymentError: there is no such service or no previous checkpoint, a process started it, another command has
            deployed it meanwhile, or the checkpoint is refused.
    """
    cluster = ServeCluster(address)
    application = cluster.find_application(name)
    application.require_declarative()
    if application.configuration is None:
        raise DeploymentError(f"{application.name}: is being removed; deploy it again instead")
    if application.previous is None:
        raise DeploymentError(f"{application.name}: has served no other checkpoint than {application.checkpoint}")
    configuration: dict[str, Any] = dict(application.configuration)
    first, *others = configuration["deployments"]
    swapped = {"checkpoint": application.previous, "previous": application.checkpoint}
    user_config = resolve_checkpoints({**application.user_config, **swapped})
    configuration["deployments"] = [{**first, "user_config": user_config}, *others]
    cluster.deploy({"applications": [configuration]}, application)
    cluster.wait_until_running(application.name)
    verify_checkpoint(application.reachable_url, user_config)
    logger.log(RESULT, f"{application.name} serves {application.previous} again, instead of {application.checkpoint}")
    report_result({"service": application.name, "checkpoint": application.previous, "previous": application.checkpoint})


def _describe(application: Application) -> dict[str, str]:
    """Return the fields of a service; empty ones do not apply."""
    info = fetch_info(application.reachable_url) if application.reachable_url else None
    served = info.get("checkpoint", "") if info else ""
    states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(application.replicas.items()))
    candidate = application.user_config.get("candidate") or {}
    return {
        "service": application.name,
        "status": f"{application.status} {application.message}".strip(),
        "replicas": states or "none",
        "url": application.url,
        "checkpoint": application.checkpoint,
        "served": served if served != application.checkpoint else "",
        "refused": info.get("refused", "") if info else "",
        "candidate": candidate.get("checkpoint", ""),
        "previous": application.previous or "",
        "models": ", ".join(f"{name} ({path})" for name, path in (application.user_config.get("models") or {}).items()),
        "deployed": datetime.fromtimestamp(application.deployed_at).astimezone().isoformat(" ", "seconds"),
    }
