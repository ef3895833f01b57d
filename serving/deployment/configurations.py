"""Serve configurations that change an application of a cluster and contain its other ones.

Serve removes the applications that a configuration does not contain, except those that a process started.
`details` are the state of Serve as its REST API returns it.
"""

from collections.abc import Mapping
from typing import Any

from cluster import UsageError


class DeploymentError(UsageError):
    """A service did not start."""


class RoutePrefixError(DeploymentError):
    """Another application of the cluster has the route prefix."""

    def __init__(self, name: str, prefix: str, other: str) -> None:
        super().__init__(
            f"{name}: the application '{other}' of this cluster has the route prefix '{prefix}' too; set another "
            "route_prefix in a file for --template, or as an argument of finetune_cnn.deploy, or remove that "
            "application first"
        )


class DeployedMeanwhileError(DeploymentError):
    """Another command has deployed an application since this one read its configuration.

    user_config: of the application's first deployment.
    """

    def __init__(self, name: str, user_config: Mapping[str, Any]) -> None:
        self.user_config = user_config
        super().__init__(
            f"{name}: another command has deployed {user_config.get('checkpoint')} since this one started; repeat this "
            "one to replace it"
        )


def is_imperative(values: Mapping[str, Any]) -> bool:
    """Return whether a process such as `finetune-cnn serve` started an application, given as Serve's details."""
    return bool(values.get("source") == "imperative")


def merge(configuration: Mapping[str, Any], details: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a Serve configuration with the other applications of the cluster.

    Args:
        configuration: without `http_options`, those of the running Serve apply.

    Raises:
        RoutePrefixError: another application has the same route prefix.
    """
    applications = configuration["applications"]
    names = {application["name"] for application in applications}
    others = {name: values for name, values in details["applications"].items() if name not in names}
    for application in applications:
        _require_free_prefix(application, others)
    return _fill_http_options(
        {**configuration, "applications": [*_list_configurations(others), *applications]}, details
    )


def require_unchanged(
    application: Mapping[str, Any], earlier: Mapping[str, Any] | None, details: Mapping[str, Any]
) -> None:
    """Raise DeployedMeanwhileError if Serve has another configuration of an application than before.

    Args:
        application: the new configuration; Serve may have it already, if the response to it was lost.
        earlier: configuration that Serve had before; None if it had none.
    """
    name = application["name"]
    current = details["applications"].get(name, {}).get("deployed_app_config")
    if not current or "checkpoint" not in read_user_config(current):  # an application of somebody else is replaced
        return
    if current != earlier and read_user_config(current) != read_user_config(application):
        raise DeployedMeanwhileError(name, read_user_config(current))


def read_user_config(application: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the `user_config` of the first deployment in an application's configuration; empty without one."""
    deployments = application.get("deployments") or [{}]
    return deployments[0].get("user_config") or {}


def exclude(name: str, details: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a Serve configuration with all applications of the cluster except one; None if there are no others."""
    others = {other: values for other, values in details["applications"].items() if other != name}
    return _fill_http_options({"applications": _list_configurations(others)}, details) if others else None


def _list_configurations(applications: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the configurations of those applications, given as Serve's details, that were deployed with one."""
    return [
        values["deployed_app_config"]
        for values in applications.values()
        if values.get("deployed_app_config") and not is_imperative(values)
    ]


def _fill_http_options(configuration: dict[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """Return a Serve configuration with the `http_options` of the running Serve, unless it has its own."""
    if "http_options" in configuration:
        return configuration
    return {"http_options": {key: details["http_options"][key] for key in ("host", "port")}, **configuration}


def _require_free_prefix(application: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise RoutePrefixError if another application, given as Serve's details, has the route prefix."""
    prefix = application.get("route_prefix", "/")
    for name, values in others.items():
        used = values["route_prefix"] or (values.get("deployed_app_config") or {}).get("route_prefix")
        if prefix and used == prefix and values["status"] != "DELETING":
            raise RoutePrefixError(application["name"], prefix, name)
