"""Command manifest: its options, and their texts as values of Kubernetes."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from cluster import UsageError
from cluster.console.cli import CommandGroup
from cluster.console.output import report_result

JOB_VERBS = ("train", "tune", "cross-validate")
MAX_DEADLINE_S = (1 << 31) - 1  # an int32 of KubeRay
# Kubernetes' syntax: a name of a label or taint has a prefix that is a host name, and up to 63 characters of its own.
_WORD = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = rf"(?P<key>([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_WORD})"
_LABEL = re.compile(rf"{_KEY}=(?P<value>({_WORD})?)")
_TOLERATION = re.compile(rf"{_KEY}(=(?P<value>({_WORD})?))?(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|[KMGTPE]i|[MGTPE])?", re.ASCII)


def add_manifest(commands: CommandGroup) -> None:
    """Add the command manifest."""
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


def parse_resources(texts: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the amounts by node type and resource of texts such as `gpu_worker:cpu=8,memory=64Gi,gpu=2`.

    Raises:
        UsageError: a text has another format.
    """
    amounts: dict[str, dict[str, str]] = {}
    for text in texts:
        name, _, pairs = text.partition(":")
        for pair in pairs.split(","):
            key, _, amount = pair.partition("=")
            if not name or not key or not _QUANTITY.fullmatch(amount):
                raise UsageError(f"--resources {text}: write NODE_TYPE:cpu=8,memory=64Gi,gpu=2")
            amounts.setdefault(name, {})[key] = amount
    return amounts


def parse_toleration(text: str) -> dict[str, str]:
    """Return the toleration of a text such as `nvidia.com/gpu`, `pool=gpu` or `pool=gpu:NoSchedule`.

    Raises:
        UsageError: the text has another format.
    """
    match = _TOLERATION.fullmatch(text)
    if match is None:
        raise UsageError(f"--toleration {text}: write KEY, KEY=VALUE, or either with :NoSchedule or another effect")
    parts = {name: part for name, part in match.groupdict().items() if part is not None}
    return {"operator": "Equal" if "value" in parts else "Exists", **parts}


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """Return the labels of texts such as `team=search`; UsageError if one has another format."""
    labels = {}
    for text in texts:
        match = _LABEL.fullmatch(text)
        if match is None:
            raise UsageError(f"--label {text}: write KEY=VALUE")
        labels[match["key"]] = match["value"]
    return labels


def _manifest(options: argparse.Namespace) -> None:
    import yaml

    from cluster.kuberay import manifest
    from cluster.package import is_experiment_file
    from cluster.storage import read_text

    verb, *words = options.arguments
    is_job, is_service = verb in JOB_VERBS, verb == "serve" and len(words) == 1
    if not is_job and not is_service and options.arguments != ["cluster"]:
        jobs = ", ".join(f"{name} ..." for name in JOB_VERBS)
        raise UsageError(f"'{' '.join(options.arguments)}': write cluster, {jobs}, or serve CONFIG")
    contents = {word: read_text(word) for word in words if is_service or is_experiment_file(word)}
    _check_manifest_options(options, is_job)
    if is_job:
        options.command_line.validate(options.arguments)
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
        resources=parse_resources(options.resources),
        tolerations=[parse_toleration(text) for text in options.toleration],
        pull_secrets=options.pull_secret,
        service_account=options.service_account,
        labels=parse_labels(options.label),
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
    report_result({"manifests": manifests})


def _check_manifest_options(options: argparse.Namespace, is_job: bool) -> None:
    """Raise a UsageError if an option is missing or invalid, or would have no effect."""
    if not 1 <= options.deadline_hours * 3600 <= MAX_DEADLINE_S:
        raise UsageError(f"--deadline-hours must be above 0, and at most {MAX_DEADLINE_S // 3600:,}")
    if options.cluster is None:
        if options.image is None:
            raise UsageError("pass --image, or --cluster for a job on an existing cluster")
        if is_job and options.redis:
            raise UsageError("--redis is for services and clusters: a job whose head is lost starts again and resumes")
        return
    if not is_job:
        raise UsageError("--cluster is for jobs: train, tune and cross-validate")
    names = ("image", "claim", "secret", "launcher_file", "resources", "toleration", "pull_secret", "service_account")
    if ignored := [f"--{name.replace('_', '-')}" for name in (*names, "redis") if getattr(options, name)]:
        raise UsageError(f"{', '.join(ignored)}: the pods of {options.cluster} exist already; drop the options")
