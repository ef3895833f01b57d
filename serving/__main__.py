"""Commands of the service: run or serve, deploy, and status, undeploy, rollback, config and environment."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster import UsageError
from cluster.console.cli import CommandGroup, CommandLine, parse_count
from cluster.console.output import add_dry_run, print_plan, report_result
from serving.deployment.template import TEMPLATE

if TYPE_CHECKING:
    from cluster.console.plan import Plan

CLUSTER_PROXY = "that of the cluster"


class CommandError(UsageError):
    """A service could not be started."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, also if Ctrl-C stops a running service, 2 or 130."""
    return _build_command_line().main(arguments)


def _build_command_line() -> CommandLine:
    cli = CommandLine("python -m serving", "Serve a checkpoint over HTTP.")
    # The names of the commands before `finetune-cnn` existed.
    add_commands(cli, serve="run")
    add_service_commands(cli, environment="switches")
    return cli


def add_commands(commands: CommandGroup, *, serve: str = "serve") -> None:
    """Add the commands serve (under another name for `python -m serving`) and deploy."""
    parser = commands.add_command(serve, _run, "serve a checkpoint over HTTP on this machine until Ctrl-C")
    _add_checkpoint(parser)
    parser.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else Ray starts here)")
    add_dry_run(parser)
    deploy = commands.add_command("deploy", _deploy, "deploy the service to a running Ray cluster and return")
    _add_checkpoint(deploy)
    deploy.add_argument("--address", help="the cluster's dashboard (default: RAY_DASHBOARD_ADDRESS)")
    add_dry_run(deploy)
    deploy.add_argument(
        "--working-dir", help="URI of a zip of the code (see `finetune-cnn package`), for nodes without it"
    )


def add_service_commands(commands: CommandGroup, *, environment: str = "environment") -> None:
    """Add the commands for services on a cluster, and config and environment (`python -m serving` has other names)."""
    status = commands.add_command("status", _status, "print the services of a cluster with their checkpoints")
    undeploy = commands.add_command("undeploy", _undeploy, "remove a service from a cluster")
    rollback = commands.add_command("rollback", _rollback, "serve the previous checkpoint of a service again")
    for parser in (status, undeploy, rollback):
        parser.add_argument("--address", help="the cluster's dashboard (default: RAY_DASHBOARD_ADDRESS)")
    for parser in (undeploy, rollback):
        parser.add_argument("--name", help="the service, if there are several (default: classifier)")
    text = "print the Ray Serve configuration of a checkpoint, for `serve deploy` or `finetune-cnn manifest`"
    _add_checkpoint(commands.add_command("config", _config, text))
    commands.add_command("dashboard", _print_dashboard, "print the dashboard for Grafana, a JSON file to import")
    commands.add_command("alerts", _print_alerts, "print the alert rules for Prometheus, a file for rule_files")
    parser = commands.add_command(environment, _print_environment, "print the environment of the nodes, for a shell")
    parser.epilog = 'Before Ray starts, on every node: eval "$(%(prog)s)"; ray start ...'
    parser.add_argument("--folder", type=Path, help="folder of HAProxy's files (default: one per user, in /tmp)")
    _add_proxy_limits(parser)


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a checkpoint, a best.json, or a folder with either; path or URI")
    parser.add_argument(
        "--template",
        default=str(TEMPLATE),
        metavar="FILE",
        help="Serve configuration to fill in (default: that of the package)",
    )
    parser.add_argument(
        "--model",
        type=_named_model,
        action="append",
        default=[],
        dest="models",
        metavar="NAME=CHECKPOINT",
        help="a further checkpoint, at /models/NAME and /models/NAME/predict; may be repeated",
    )
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        dest="allowed_origins",
        metavar="ORIGIN",
        help="let web pages of this origin, such as https://example.com, or of all (*) read responses; may be repeated",
    )
    parser.add_argument("--host", help="address to listen on (default: as in the configuration)")
    parser.add_argument("--port", type=_port, help="port to listen on (default: as in the configuration)")


def _add_proxy_limits(parser: argparse.ArgumentParser) -> None:
    """Add the limits of the HAProxy of a node; without an option the default is that of ProxyLimits."""
    from serving.deployment.haproxy import ProxyLimits

    limits = ProxyLimits()
    for option, text in (
        (
            "--requests-per-replica",
            f"requests that HAProxy gives a replica at once (default: {limits.requests_per_replica}, as service.yaml)",
        ),
        ("--max-connections", f"client connections per node (default: {limits.max_connections})"),
        ("--threads", "threads of HAProxy (default: a quarter of the processors, 2 to 16)"),
        (
            "--hard-stop-s",
            f"seconds after which a replaced HAProxy closes its idle connections (default: {limits.hard_stop_s})",
        ),
    ):
        parser.add_argument(option, type=parse_count, default=argparse.SUPPRESS, help=text)
    parser.add_argument(
        "--cross-origin",
        action="store_true",
        default=argparse.SUPPRESS,
        help="let web pages of other origins read that HAProxy rejected a request; for services with allowed_origins",
    )


def _load_configuration(options: argparse.Namespace) -> dict[str, Any]:
    """Return the Serve configuration with the paths of the checkpoints, which are loaded to verify them.

    Raises:
        UsageError: an origin, the name of a further model, or another part of the template is invalid.
    """
    import yaml

    from cluster.package import validate_working_dir
    from jobs.model.checkpoint import load_checkpoint
    from serving.web.cors import parse_origins
    from serving.web.served_models import parse_user_config

    try:
        configuration = yaml.safe_load(Path(options.template).read_text(encoding="utf-8"))
        application = configuration["applications"][0]
        deployment = application["deployments"][0]
        arguments, runtime_env = (_find_section(application, name) for name in ("args", "runtime_env"))
        user_config = _find_section(deployment, "user_config") | {"checkpoint": options.checkpoint}
        http = _find_section(configuration, "http_options")
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise CommandError(f"{options.template}: is not a Serve configuration with a deployment: {error!r}") from error
    if origins := parse_origins(arguments.get("allowed_origins") or ()) + parse_origins(options.allowed_origins):
        application["args"] = arguments | {"allowed_origins": origins}
    if models := parse_user_config(user_config).models | dict(options.models):
        parse_user_config(user_config | {"models": models})
        user_config["models"] = {name: load_checkpoint(path).path for name, path in models.items()}
    deployment["user_config"] = user_config | {"checkpoint": load_checkpoint(options.checkpoint).path}
    address = {"host": options.host or http.get("host", "127.0.0.1"), "port": options.port or http.get("port", 8000)}
    configuration["http_options"] = http | address
    if working_dir := getattr(options, "working_dir", None) or runtime_env.get("working_dir"):
        application["runtime_env"] = runtime_env | {"working_dir": working_dir}
        validate_working_dir(working_dir)
    return _validate_configuration(options.template, configuration)


def _find_section(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of a configuration, empty if there is none; TypeError if it is no mapping."""
    if not isinstance(section := settings.get(name) or {}, dict):
        raise TypeError(f"{name} is no mapping")
    return section


def _validate_configuration(template: str, configuration: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with Serve's defaults for the name and the route prefix of the application."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(configuration)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise CommandError(f"{template}: {key}: {problem['msg']}") from error
    application = configuration["applications"][0]
    configuration["applications"][0] = {"name": "default", "route_prefix": "/"} | application
    return configuration


def _named_model(text: str) -> tuple[str, str]:
    """Return the name and the checkpoint of an option; argparse prints the error."""
    name, separator, path = text.partition("=")
    if not (name and separator and path):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=CHECKPOINT")
    return name, path


def _port(text: str) -> int:
    """Return the port number of an option; argparse prints the error."""
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not a number between 1 and 65535")
    return int(text)


def _config(options: argparse.Namespace) -> None:
    import yaml

    configuration = _load_configuration(options)
    print(yaml.safe_dump(configuration, sort_keys=False), end="")
    report_result(configuration)


def _print_dashboard(_: argparse.Namespace) -> None:
    _print_file("dashboard.json")


def _print_alerts(_: argparse.Namespace) -> None:
    _print_file("alerts.yaml")


def _print_file(name: str) -> None:
    import yaml

    content = Path(__file__).with_name(name).read_text(encoding="utf-8")
    print(content, end="")
    report_result(lambda: yaml.safe_load(content))


def _print_environment(options: argparse.Namespace) -> None:
    import os
    import shlex
    import stat
    from contextlib import suppress
    from dataclasses import fields

    from serving.deployment.haproxy import ProxyLimits, build_environment

    names = {field.name for field in fields(ProxyLimits)}
    limits = ProxyLimits(**{name: value for name, value in vars(options).items() if name in names})
    folder = (options.folder or Path("/tmp", f"haproxy-{os.getuid()}")).absolute()
    try:
        environment = build_environment(folder, limits=limits)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
        status = folder.lstat()  # of a symbolic link itself: its owner can redirect it at any time
    except ValueError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{folder}: cannot be written: {error}") from error
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no folder"
        raise CommandError(f"{folder}: is {kind}; --folder takes a folder of your own, or a path that does not exist")
    if status.st_uid != os.getuid() or status.st_mode & 0o77:
        raise CommandError(
            f"{folder}: others may enter it; HAProxy accepts commands on a socket in it, so use a folder of mode 700"
        )
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")
    report_result(environment)


def _run(options: argparse.Namespace) -> None:
    from serving.deployment.server import run

    configuration = _load_configuration(options)
    if options.dry_run:
        print_plan(_plan_serve(configuration, options))
    else:
        run(configuration, options.address)


def _plan_serve(configuration: dict[str, Any], options: argparse.Namespace) -> "Plan":
    """Return the plan of serve; DeploymentError if it cannot listen on its port."""
    from cluster.connection import parse_address, resolve_address
    from serving.api_keys import read_key_list
    from serving.deployment.haproxy import is_haproxy_installed
    from serving.deployment.server import check_start

    if not check_start(configuration["http_options"], options.address):
        address = parse_address(str(resolve_address(options.address))).text
        return _plan("serve", configuration, options, {"ray": address, "proxy": CLUSTER_PROXY})
    proxy = "HAProxy" if is_haproxy_installed() else "Ray's"
    starts = {"ray": "on this machine", "proxy": proxy, "api_keys": len(read_key_list())}
    return _plan("serve", configuration, options, starts)


def _plan(
    command: str, configuration: dict[str, Any], options: argparse.Namespace, starts: Mapping[str, object]
) -> "Plan":
    """Return the plan of a command that starts a service; starts: what only this command starts."""
    from cluster.console.plan import Plan, PlannedFile
    from serving.deployment.checkpoints import plan_checkpoints, resolve_checkpoints

    application = configuration["applications"][0]
    deployment = application["deployments"][0]
    scaling = deployment.get("autoscaling_config") or {}
    replicas = deployment.get("num_replicas") or [scaling.get(f"{limit}_replicas", 1) for limit in ("min", "max")]
    starts = {**starts, "service": application["name"], **configuration["http_options"], "replicas": replicas}
    checkpoints = plan_checkpoints(resolve_checkpoints(deployment["user_config"]))
    leases = [PlannedFile(file.path, "lease of the service, until it ends") for file in checkpoints]
    return Plan(command, [*checkpoints, PlannedFile(options.template, "Serve configuration")], starts, leases)


def _deploy(options: argparse.Namespace) -> None:
    from cluster.ray_jobs import resolve_dashboard_url
    from serving.deployment.server import deploy

    configuration = _load_configuration(options)
    if options.dry_run:
        starts = {"ray": resolve_dashboard_url(options.address), "proxy": CLUSTER_PROXY}
        print_plan(_plan("deploy", configuration, options, starts))
    else:
        deploy(configuration, options.address)


def _status(options: argparse.Namespace) -> None:
    from serving.deployment.lifecycle import show_status

    show_status(options.address)


def _undeploy(options: argparse.Namespace) -> None:
    from serving.deployment.lifecycle import undeploy

    undeploy(options.address, options.name)


def _rollback(options: argparse.Namespace) -> None:
    from serving.deployment.lifecycle import rollback

    rollback(options.address, options.name)


if __name__ == "__main__":
    sys.exit(main())
