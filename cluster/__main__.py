"""Commands of the cluster: submit, check, package, manifest, token, and the job commands list, status, logs, stop."""

import argparse
import shlex
import sys
from collections.abc import Sequence

from cluster.console.cli import CommandGroup, CommandLine
from cluster.console.job_commands import add_include, add_job_commands, add_submit, confirm, write_line
from cluster.console.output import print_next, report_result
from cluster.kuberay.manifest_command import add_manifest

__all__ = ["add_commands", "add_job_commands", "main"]

_FINDINGS = '{"findings": '  # start of the JSON object of a check


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: the job's own, or 2 for a usage error."""
    return _build_command_line().main(arguments)


def _build_command_line() -> CommandLine:
    cli = CommandLine("python -m cluster", "Run jobs on a Ray cluster.")
    add_commands(cli)
    add_job_commands(cli)
    return cli


def add_commands(commands: CommandGroup) -> None:
    """Add the commands check, submit, package, manifest and token."""
    text = "check all nodes: versions, storage, GPUs, disk, token, clock"
    check = commands.add_command("check", _check, text)
    check.add_argument("--storage", help="path or URI of the folder for runs")
    check.add_argument("--address", help="http://HOST:8265 or HOST:6379 (default: RAY_ADDRESS)")
    check.add_argument("--caller", help=argparse.SUPPRESS)
    add_submit(commands)
    package = commands.add_command("package", _package, "write the code as a zip, for services on nodes without it")
    package.add_argument("target", metavar="TARGET.zip", help="path or URI that every node can read")
    add_include(package)
    add_manifest(commands)
    token = commands.add_command("token", _token, "create the token that a cluster will require")
    token.description = (
        "Create the token that a cluster will require, if there is none, and print the path of its file. A token in "
        "RAY_AUTH_TOKEN is used instead of a file."
    )


def _check(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from cluster.check import check_cluster, installed_versions
    from cluster.connection import connect, resolve_address
    from cluster.ray_jobs import JobRequest, submit_job
    from cluster.storage import absolute_path

    caller_versions = json.loads(options.caller) if options.caller else installed_versions()
    address = resolve_address(options.address)
    if address and address.startswith(("http://", "https://")):
        # A job inspects the nodes from inside, so neither Ray's ports nor equal versions are needed.
        storage_option = ["--storage", options.storage] if options.storage else []
        wants_json = ["--json"] if hasattr(options, "json") else []
        arguments = ["check", *wants_json, "--caller", json.dumps(caller_versions), *storage_option]
        code = submit_job(JobRequest(arguments, address), write=_write_check, confirm=confirm)
        if code == 0:
            print_next(f"finetune-cnn submit --address {address} -- train EXPERIMENT")
        return code
    storage = absolute_path(options.storage) if options.storage else None
    with connect(address):
        findings = check_cluster(storage, caller_versions)
    for finding in findings:
        write_line(str(finding))
    report_result({"findings": [asdict(finding) for finding in findings]})
    if any(finding.level == "error" for finding in findings):
        return 1
    if not options.caller:
        print_next(f"finetune-cnn train{f' --address {address}' if address else ''} EXPERIMENT")
    return 0


def _write_check(text: str) -> None:
    """Print lines of the log of a check that runs as a job; its JSON object is the result of this command."""
    import json

    for line in text.split("\n"):
        if line.startswith(_FINDINGS):
            report_result(json.loads(line))
        else:
            write_line(line)


def _package(options: argparse.Namespace) -> None:
    from pathlib import Path

    from cluster.package import map_files, publish_package
    from cluster.storage import absolute_path, is_uri

    _, files = map_files(Path(), (), options.include)
    package = publish_package(options.target, files=files)
    size = sum(size for _, size in package.files)
    write_line(f"wrote {options.target}: {len(package.files)} files, {size / 1024:.0f} KiB unpacked")
    report_result({"path": options.target, "files": len(package.files), "bytes": size})
    uri = options.target if is_uri(options.target) else f"file://{absolute_path(options.target)}"
    print_next(f"finetune-cnn deploy CHECKPOINT --working-dir {shlex.quote(uri)}")


def _token(options: argparse.Namespace) -> None:
    from cluster import auth

    if auth.read_variable() is not None:
        write_line(f"the token is that of {auth.TOKEN_VARIABLE}; no file is written (every node needs the same token)")
        report_result({"path": None})
        return
    auth.ensure_token()
    write_line(f"{auth.token_path()} (only you can read it; every node needs the same token)")
    report_result({"path": str(auth.token_path())})


if __name__ == "__main__":
    sys.exit(main())
