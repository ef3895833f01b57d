"""Commands of the cluster: submit, check, package, manifest, token, and the job commands list, status, logs, stop."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.console.cli import CommandGroup, CommandLine

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

write_line = functools.partial(print, flush=True)


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
    _add_submit(commands)
    package = commands.add_command("package", _package, "write the code as a zip, for services on nodes without it")
    package.add_argument("target", metavar="TARGET.zip", help="path or URI that every node can read")
    _add_manifest(commands)
    token = commands.add_command("token", _token, "create the token that a cluster will require")
    token.description = (
        "Create the token that a cluster will require, if there is none, and print the path of its file."
    )


def add_job_commands(commands: CommandGroup) -> None:
    """Add the commands list, status, logs and stop."""
    parsers = [commands.add_command("list", _list, "print all jobs of the cluster")]
    status = commands.add_command("status", _status, "print a job's state")
    logs = commands.add_command("logs", _logs, "print a job's log")
    logs.add_argument("--follow", action="store_true", help="until the job ends; exit with its exit code")
    stop = commands.add_command("stop", _stop, "stop a job")
    for parser in (status, logs, stop):
        parser.add_argument("job", nargs="?", help="default: the job that was submitted last")
        parsers.append(parser)
    for parser in parsers:
        _add_dashboard_address(parser)


def _add_dashboard_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", help="http://HOST:8265 (default: RAY_DASHBOARD_ADDRESS)")


def _add_submit(commands: CommandGroup) -> None:
    submit = commands.add_command("submit", _submit, "run a command on the cluster, and follow its log")
    submit.usage = "%(prog)s [options] -- COMMAND ..."
    submit.description = (
        "Send the code to the cluster, run a finetune-cnn command there, and follow its log. Only the code, the "
        "experiment files (.yaml) among the arguments, and the files of --include are sent: no data, no other files."
    )
    submit.add_argument("--detach", action="store_true", help="return once the job is submitted")
    submit.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="FILE",
        help="also send this file of the current folder, such as a small csv; may be repeated",
    )
    submit.add_argument(
        "--install",
        action="store_true",
        help="on nodes that lack packages: install them first, in the versions of requirements.lock in a checkout, "
        "else in those that are installed here",
    )
    submit.add_argument(
        "--working-dir",
        type=Path,
        metavar="CHECKOUT",
        help="send the code of this checkout instead; the experiment and --include are then relative to it",
    )
    # Before there was one command for everything, this chose between two.
    submit.add_argument("--module", default="finetune_cnn", choices=("jobs", "serving"), help=argparse.SUPPRESS)
    _add_dashboard_address(submit)
    submit.add_argument(
        "arguments",
        nargs="+",
        metavar="-- COMMAND ...",
        help="as for finetune-cnn, for example: -- train my.yaml storage=s3://bucket/runs",
    )


def _add_manifest(commands: CommandGroup) -> None:
    text = "print manifests for KubeRay: a cluster, a job, or a service"
    manifest = commands.add_command("manifest", _manifest, text)
    manifest.usage = "%(prog)s [options] -- cluster | train ... | tune ... | cross-validate ... | serve CONFIG"
    manifest.add_argument("--name", default="finetune-cnn", help="name of the resource (default: finetune-cnn)")
    manifest.add_argument("--image", help="image of the Dockerfile; {hardware} in it becomes cpu or gpu")
    manifest.add_argument("--storage", required=True, help="URI of the runs, or the path where --claim is mounted")
    manifest.add_argument("--claim", help="PersistentVolumeClaim, ReadWriteMany, of the storage")
    manifest.add_argument("--secret", help="Secret whose keys become variables, such as AWS_ACCESS_KEY_ID")
    manifest.add_argument(
        "--launcher-file",
        type=Path,
        metavar="FILE",
        help="take the node types from this file of `ray up` (default: those of the ray_cluster.yaml in a checkout)",
    )
    manifest.add_argument("--namespace", help="namespace of the resource (default: that of kubectl)")
    for option, metavar, text in (
        ("--resources", "NODE_TYPE:NAME=AMOUNT,...", "of its pods, such as gpu_worker:cpu=8,memory=64Gi,gpu=2"),
        ("--toleration", "KEY[=VALUE][:EFFECT]", "toleration of the pods"),
        ("--pull-secret", "SECRET", "imagePullSecret of the pods"),
        ("--label", "KEY=VALUE", "label of the resource and its pods"),
    ):
        manifest.add_argument(option, action="append", default=[], metavar=metavar, help=f"{text}; may be repeated")
    manifest.add_argument("--service-account", metavar="NAME", help="ServiceAccount of the pods")
    manifest.add_argument(
        "--cluster", metavar="NAME", help="run the job on this RayCluster instead of one of its own; needs no --image"
    )
    manifest.add_argument(
        "--deadline-hours", type=float, default=168, metavar="HOURS", help="KubeRay ends a longer job (default: 168)"
    )
    manifest.add_argument(
        "--redis", metavar="HOST:PORT", help="store the state of the head there, so that services outlive it"
    )
    manifest.add_argument("--redis-secret", metavar="SECRET", help="Secret with the key `password` of the Redis")
    manifest.add_argument(
        "arguments",
        nargs="+",
        metavar="-- KIND ...",
        help="as for finetune-cnn; CONFIG is a file with the output of `finetune-cnn service config`",
    )


def _submit(options: argparse.Namespace) -> int:
    from cluster.ray_jobs import submit_job

    return submit_job(
        options.arguments,
        address=options.address,
        module=options.module,
        working_dir=options.working_dir,
        include=options.include,
        install=options.install,
        detach=options.detach,
        write=write_line,
        confirm=_confirm,
    )


def _logs(options: argparse.Namespace) -> int:
    from cluster.ray_jobs import follow_log, read_log

    client, job = _select_job(options)
    if not options.follow:
        print(read_log(client, job), end="")
        return 0
    address_option = f"--address {options.address}" if options.address else ""
    return follow_log(client, job, address_option, write_line, _confirm)


def _status(options: argparse.Namespace) -> None:
    from cluster.ray_jobs import format_job, get_job

    client, job = _select_job(options)
    for line in format_job(get_job(client, job)):
        write_line(line)


def _stop(options: argparse.Namespace) -> None:
    from cluster.ray_jobs import stop_job

    client, job = _select_job(options)
    stop_job(client, job)


def _list(options: argparse.Namespace) -> None:
    from cluster.ray_jobs import format_job_table

    write_line(format_job_table(_create_client(options)))


def _check(options: argparse.Namespace) -> int:
    import json

    from cluster.check import check_cluster, installed_versions
    from cluster.connection import connect, resolve_address
    from cluster.ray_jobs import submit_job

    caller_versions = json.loads(options.caller) if options.caller else installed_versions()
    address = resolve_address(options.address)
    if address and address.startswith(("http://", "https://")):
        # A job inspects the nodes from inside, so neither Ray's ports nor equal versions are needed.
        storage = ["--storage", options.storage] if options.storage else []
        arguments = ["check", "--caller", json.dumps(caller_versions), *storage]
        return submit_job(arguments, address=address, write=write_line, confirm=_confirm)
    with connect(address):
        findings = check_cluster(options.storage, caller_versions)
    for finding in findings:
        write_line(str(finding))
    return int(any(finding.level == "error" for finding in findings))


def _manifest(options: argparse.Namespace) -> None:
    import yaml

    from cluster import manifest
    from cluster.package import is_experiment_file

    verb, *words = options.arguments
    is_job, is_service = verb in manifest.JOB_VERBS, verb == "serve" and len(words) == 1
    if not is_job and not is_service and options.arguments != ["cluster"]:
        jobs = ", ".join(f"{name} ..." for name in manifest.JOB_VERBS)
        raise manifest.ManifestError(f"'{' '.join(options.arguments)}': write cluster, {jobs}, or serve CONFIG")
    try:
        contents = {
            word: Path(word).read_text(encoding="utf-8") for word in words if is_service or is_experiment_file(word)
        }
    except OSError as error:
        raise manifest.ManifestError(f"{error.filename}: cannot be read: {error.strerror}") from error
    _check_manifest_options(options, is_job)
    pods = manifest.PodSettings(
        name=options.name,
        image=(options.image or "").replace("{hardware}", "cpu"),
        gpu_image=(options.image or "").replace("{hardware}", "gpu"),
        storage=options.storage,
        claim=options.claim,
        secret=options.secret,
        mount_files=bool(contents) and is_job,
        launcher_file=options.launcher_file,
        namespace=options.namespace,
        resources=manifest.parse_resources(options.resources),
        tolerations=[manifest.parse_toleration(text) for text in options.toleration],
        pull_secrets=options.pull_secret,
        service_account=options.service_account,
        labels=manifest.parse_labels(options.label),
        redis_address=options.redis,
        redis_secret=options.redis_secret,
    )
    manifest.validate_pods(pods, pods_exist=options.cluster is not None)
    if is_job:
        job = {"deadline_hours": options.deadline_hours, "existing_cluster": options.cluster}
        manifests = manifest.build_ray_job(pods, options.arguments, contents, **job)
    elif is_service:
        manifests = manifest.build_ray_service(pods, contents[words[0]])
    else:
        manifests = manifest.build_ray_cluster(pods)
    print(yaml.safe_dump_all(manifests, sort_keys=False), end="")


def _check_manifest_options(options: argparse.Namespace, is_job: bool) -> None:
    """Raise a ManifestError if an option is missing, or would have no effect."""
    from cluster.manifest import ManifestError

    if options.deadline_hours <= 0:
        raise ManifestError("--deadline-hours must be above 0")
    if options.cluster is None:
        if options.image is None:
            raise ManifestError("pass --image, or --cluster for a job on an existing cluster")
        if is_job and options.redis:
            raise ManifestError(
                "--redis is for services and clusters: a job whose head is lost starts again and resumes"
            )
        return
    if not is_job:
        raise ManifestError("--cluster is for jobs: train, tune and cross-validate")
    names = ("image", "claim", "secret", "launcher_file", "resources", "toleration", "pull_secret", "service_account")
    if ignored := [f"--{name.replace('_', '-')}" for name in (*names, "redis") if getattr(options, name)]:
        raise ManifestError(f"{', '.join(ignored)}: the pods of {options.cluster} exist already; drop the options")


def _package(options: argparse.Namespace) -> None:
    from cluster.package import publish_package
    from cluster.storage import absolute_path, is_uri

    package = publish_package(options.target)
    size = sum(size for _, size in package.files)
    write_line(f"wrote {options.target}: {len(package.files)} files, {size / 1024:.0f} KiB unpacked")
    uri = options.target if is_uri(options.target) else f"file://{absolute_path(options.target)}"
    write_line(f"finetune-cnn deploy CHECKPOINT --working-dir {uri}")


def _token(options: argparse.Namespace) -> None:
    from cluster import auth

    auth.ensure_token()
    write_line(f"{auth.token_path()} (only you can read it; every node needs the same token)")


def _select_job(options: argparse.Namespace) -> "tuple[JobSubmissionClient, str]":
    """Return a client, and the id of the job in the options: by default the latest."""
    from cluster.ray_jobs import get_job, latest_job_id

    client = _create_client(options)
    job = options.job or latest_job_id(client)
    get_job(client, job)
    return client, job


def _create_client(options: argparse.Namespace) -> "JobSubmissionClient":
    from cluster.ray_jobs import create_client, resolve_dashboard_url

    client: JobSubmissionClient = create_client(resolve_dashboard_url(options.address))
    return client


def _confirm(question: str) -> bool:
    """Return whether the user answers yes; False without a terminal."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


if __name__ == "__main__":
    sys.exit(main())
