"""python -m serving: run, deploy, config, switches."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster import UsageError
from cluster.logs import ConsoleHandler, handle_logs
from cluster.package import validate_working_dir

TEMPLATE = Path(__file__).with_name("service.yaml")


class CommandError(UsageError):
    """A service could not be started."""


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit code: 0, or 2 for a mistake of the user's."""
    options = _parser().parse_args(arguments)
    try:
        with handle_logs(ConsoleHandler()):
            return options.run(options) or 0
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving", description="Put a checkpoint behind HTTP.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, run, text in (
        ("run", _run, "serve on this machine until Ctrl-C"),
        ("deploy", _deploy, "hand the service to a running Ray cluster and return"),
        ("config", _config, "print the Ray Serve configuration for `serve deploy`"),
    ):
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("checkpoint", help="a checkpoint, a best.json, or a folder with one; path or URI")
        added.add_argument(
            "--template", default=str(TEMPLATE), help="Serve configuration (default: serving/service.yaml)"
        )
        added.add_argument("--host", help="address to listen on (default: as in the configuration)")
        added.add_argument("--port", type=_port, help="port to listen on (default: as in the configuration)")
        if name == "deploy":
            added.add_argument("--address", help="the cluster's dashboard (default: RAY_DASHBOARD_ADDRESS)")
            added.add_argument("--working-dir", help="URI of a zip of this repository, where nodes lack it")
        if name == "run":
            added.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else one starts here)")
    text = 'print the fast configuration, for a shell: eval "$(python -m serving switches)"; ray start ...'
    added = verbs.add_parser("switches", help=text, description=text)
    added.set_defaults(run=_switches)
    added.add_argument("--folder", type=Path, help="for HAProxy's files (default: one of this user's)")
    return parser


def _configuration(options: argparse.Namespace) -> dict[str, Any]:
    """Return the Serve configuration with the checkpoint filled in, after a look at the checkpoint."""
    import yaml

    from jobs.model import checkpoint

    try:
        found = yaml.safe_load(Path(options.template).read_text(encoding="utf-8"))
        application = found["applications"][0]
        deployment = application["deployments"][0]
    except (OSError, yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise CommandError(f"{options.template}: is not a Serve configuration with a deployment: {error!r}") from error
    where = checkpoint.resolve_checkpoint(options.checkpoint)
    checkpoint.load_checkpoint(where)
    deployment["user_config"] = (deployment.get("user_config") or {}) | {"checkpoint": where}
    http = found["http_options"] = found.get("http_options") or {}
    http["host"] = options.host or http.get("host", "127.0.0.1")
    http["port"] = options.port or http.get("port", 8000)
    if getattr(options, "working_dir", None):
        application["runtime_env"] = (application.get("runtime_env") or {}) | {"working_dir": options.working_dir}
    if (application.get("runtime_env") or {}).get("working_dir"):
        validate_working_dir(application["runtime_env"]["working_dir"])
    return _validated(options.template, found)


def _validated(template: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with what Serve fills in for the names that we read."""
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise CommandError(f"{template}: {where}: {problem['msg']}") from error
    application = found["applications"][0]
    found["applications"][0] = {"name": "default", "route_prefix": "/"} | application
    return found


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 65535")
    return port


def _config(options: argparse.Namespace) -> None:
    import yaml

    print(yaml.safe_dump(_configuration(options), sort_keys=False), end="")


def _switches(options: argparse.Namespace) -> None:
    import os
    import shlex
    import stat
    from contextlib import suppress

    from serving.deployment.haproxy import build_environment

    folder = (options.folder or Path("/tmp", f"haproxy-{os.getuid()}")).absolute()
    try:
        found = build_environment(folder)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700, parents=True)
        there = folder.lstat()  # not of what a link leads to: who made it may turn it elsewhere
    except ValueError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{folder}: cannot be written: {error}") from error
    if not stat.S_ISDIR(there.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(there.st_mode) else "no folder"
        raise CommandError(f"{folder}: is {what}; --folder takes a folder of your own, or a path where nothing is yet")
    if there.st_uid != os.getuid() or there.st_mode & 0o77:
        raise CommandError(f"{folder}: others may enter it; HAProxy takes orders on a socket there")
    for name, value in found.items():
        print(f"export {name}={shlex.quote(value)}")


def _run(options: argparse.Namespace) -> None:
    from serving.deployment.server import run

    run(_configuration(options), options.address)


def _deploy(options: argparse.Namespace) -> None:
    from serving.deployment.server import deploy

    deploy(_configuration(options), options.address)


if __name__ == "__main__":
    sys.exit(main())
