"""python -m cluster: submit, status, logs, stop, list, check, manifest, package, token."""

import argparse
import sys
from pathlib import Path
from typing import Any

from cluster import UsageError
from cluster.logs import ConsoleHandler, handle_logs


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit code: the job's own, or 2 for a mistake of the user's."""
    options = _parser().parse_args(arguments)
    try:
        with handle_logs(ConsoleHandler()):
            return options.run(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster", description="Run jobs on a Ray cluster.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    submit = verb("submit", _submit, "send this repository and run `python -m jobs ...` there, following its log")
    submit.add_argument("--detach", action="store_true", help="return once the job is submitted")
    submit.add_argument("--working-dir", type=Path, help="the folder to send (default: this repository)")
    submit.add_argument(
        "--include", action="append", default=[], metavar="FILE", help="also send this file, such as a small csv"
    )
    submit.add_argument(
        "--install", action="store_true", help="nodes lack our packages: install requirements.lock there first"
    )
    submit.add_argument("--module", default="jobs", choices=("jobs", "serving"), help="default: jobs")
    submit.add_argument("arguments", nargs="+", metavar="-- VERB ...", help="as for python -m jobs")
    logs = verb("logs", _logs, "print a job's log")
    logs.add_argument("--follow", action="store_true", help="until the job ends, and exit with its exit code")
    found = [submit, logs, verb("status", _status, "print how a job is"), verb("stop", _stop, "stop a job")]
    for each in found[1:]:
        each.add_argument("job", nargs="?", help="default: the one that was submitted last")
    found.append(verb("list", _list, "print all jobs of the cluster"))
    check = verb("check", _check, "look at every node of a cluster: versions, storage, GPUs, disk, token, clock")
    check.add_argument("--storage", help="path or URI where runs are to lie")
    check.add_argument("--address", help="http://HOST:8265 or HOST:6379 (default: RAY_ADDRESS)")
    check.add_argument("--caller", help=argparse.SUPPRESS)
    text = "print manifests for KubeRay: a cluster, a job (train or tune), or a service"
    manifest = verb("manifest", _manifest, text)
    manifest.add_argument("--name", default="finetune-cnn", help="of the resource (default: finetune-cnn)")
    manifest.add_argument("--image", required=True, help="of the Dockerfile; {hardware} in it becomes cpu or gpu")
    manifest.add_argument("--storage", required=True, help="URI of the runs, or the path where --claim is mounted")
    manifest.add_argument("--claim", help="PersistentVolumeClaim, ReadWriteMany, that holds the storage")
    manifest.add_argument("--secret", help="Secret whose keys become variables, such as AWS_ACCESS_KEY_ID")
    manifest.add_argument(
        "arguments",
        nargs="+",
        metavar="-- cluster | train ... | tune ... | serve CONFIG",
        help="as for python -m jobs; CONFIG is what `python -m serving config` prints, in a file",
    )
    package = verb("package", _package, "write our code as a zip, for services on nodes that have none")
    package.add_argument("target", metavar="TARGET.zip", help="path or URI that every node can read")
    verb("token", _token, "make the token that a cluster will ask for, if there is none, and print where it lies")
    for each in found:
        each.add_argument("--address", help="http://HOST:8265 (default: RAY_DASHBOARD_ADDRESS)")
    return parser


def _submit(options: argparse.Namespace) -> int:
    from cluster.package import REPOSITORY
    from cluster.ray_jobs import submit_job

    return submit_job(
        options.arguments,
        address=options.address,
        module=options.module,
        working_dir=options.working_dir or REPOSITORY,
        include=options.include,
        install=options.install,
        detach=options.detach,
        confirm=_ask,
    )


def _logs(options: argparse.Namespace) -> int:
    from cluster.ray_jobs import follow_log

    client, job = _job(options)
    if not options.follow:
        print(client.get_job_logs(job), end="")
        return 0
    at = f"--address {options.address}" if options.address else ""
    return follow_log(client, job, _ask, at)


def _status(options: argparse.Namespace) -> int:
    from cluster.job import format_job, get_job

    client, job = _job(options)
    for line in format_job(get_job(client, job)):
        print(line, flush=True)
    return 0


def _stop(options: argparse.Namespace) -> int:
    from cluster.ray_jobs import stop_job

    client, job = _job(options)
    stop_job(client, job)
    return 0


def _list(options: argparse.Namespace) -> int:
    from cluster.job import format_job_table

    for line in format_job_table(_client(options)):
        print(line, flush=True)
    return 0


def _check(options: argparse.Namespace) -> int:
    import json

    from cluster.check import check_cluster, installed_versions
    from cluster.connection import connect, resolve_address
    from cluster.ray_jobs import submit_job

    caller = json.loads(options.caller) if options.caller else installed_versions()
    address = resolve_address(options.address)
    if address and address.startswith(("http://", "https://")):
        # The job looks at the nodes from inside, so that neither Ray's ports nor our versions need fit.
        storage = ["--storage", options.storage] if options.storage else []
        words = ["check", "--caller", json.dumps(caller), *storage]
        return submit_job(words, address=address, module="cluster", confirm=_ask)
    with connect(address):
        findings = check_cluster(options.storage, caller)
    for finding in findings:
        print(str(finding), flush=True)
    return int(any(finding.level == "error" for finding in findings))


def _manifest(options: argparse.Namespace) -> int:
    import yaml

    from cluster import manifest

    verb, *rest = options.arguments
    files = [word for word in rest if "=" not in word]
    try:
        contents = {word: Path(word).read_text(encoding="utf-8") for word in files}
    except OSError as error:
        raise manifest.ManifestError(f"{error.filename}: cannot be read: {error.strerror}") from error
    pods = manifest.validate_pods(
        manifest.PodSettings(
            name=options.name,
            image=options.image.replace("{hardware}", "cpu"),
            gpu_image=options.image.replace("{hardware}", "gpu"),
            storage=options.storage,
            claim=options.claim,
            secret=options.secret,
            mount_files=bool(contents) and verb in ("train", "tune"),
        )
    )
    if verb == "cluster" and not rest:
        made = manifest.build_ray_cluster(pods)
    elif verb in ("train", "tune"):
        made = manifest.build_ray_job(pods, options.arguments, contents)
    elif verb == "serve" and len(files) == 1 == len(rest):
        made = manifest.build_ray_service(pods, contents[files[0]])
    else:
        raise manifest.ManifestError(
            f"'{' '.join(options.arguments)}': say cluster, train ..., tune ..., or serve CONFIG"
        )
    print(yaml.safe_dump_all(made, sort_keys=False), end="")
    return 0


def _package(options: argparse.Namespace) -> int:
    from cluster.package import publish_package
    from cluster.storage import absolute_path, is_uri

    package = publish_package(options.target)
    size = sum(size for _, size in package.files)
    print(f"wrote {options.target}: {len(package.files)} files, {size / 1024:.0f} KiB unpacked", flush=True)
    where = options.target if is_uri(options.target) else f"file://{absolute_path(options.target)}"
    print(f"python -m serving deploy CHECKPOINT --working-dir {where}", flush=True)
    return 0


def _token(options: argparse.Namespace) -> int:
    from cluster import auth as token

    token.ensure_token()
    print(f"{token.token_path()} (readable by you alone; every node needs the same)", flush=True)
    return 0


def _job(options: argparse.Namespace) -> tuple[Any, str]:
    """Return a client, and the id of the job that is meant."""
    from cluster.job import get_job, latest_job_id

    client = _client(options)
    job = options.job or latest_job_id(client)
    get_job(client, job)
    return client, job


def _client(options: argparse.Namespace) -> Any:
    from cluster.ray_jobs import create_client, resolve_dashboard_url

    return create_client(resolve_dashboard_url(options.address))


def _ask(question: str) -> bool:
    """Return whether a person says yes; without one at the keyboard nobody does."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


if __name__ == "__main__":
    sys.exit(main())
