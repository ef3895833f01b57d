"""Manifests for KubeRay: a RayCluster, a RayJob for a verb, or a RayService, sized as ray_cluster.yaml is.

The token is KubeRay's: with `authOptions` it makes a secret, and gives it to every pod. The image holds our code
and its dependencies (see Dockerfile); the experiment file travels in a ConfigMap.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster import UsageError
from cluster.package import REPOSITORY
from cluster.storage import is_uri

NAME_PATTERN = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")  # of Kubernetes; KubeRay makes longer ones of it
FILES_MOUNT_PATH = "/home/ray/files"  # where the ConfigMap is mounted
MEMORY_PER_CPU_GIB = 4
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}


class ManifestError(UsageError):
    """A manifest cannot be made of what was asked for."""


@dataclass(frozen=True)
class PodSettings:
    """What all pods are made of.

    storage: path or URI of the runs; claim: the PersistentVolumeClaim mounted where `storage` is a path;
    secret: the Secret whose keys become variables of the pods, such as an object store's keys.
    """

    name: str
    image: str
    gpu_image: str
    storage: str
    claim: str | None = None
    secret: str | None = None
    mount_files: bool = False


def build_ray_cluster(pods: PodSettings, launcher_file: Path = REPOSITORY / "ray_cluster.yaml") -> list[dict[str, Any]]:
    """Return the manifest of a RayCluster that runs until it is deleted."""
    return [_resource("RayCluster", pods.name, _cluster(pods, launcher_file))]


def build_ray_job(
    pods: PodSettings,
    arguments: Sequence[str],
    files: dict[str, str],
    launcher_file: Path = REPOSITORY / "ray_cluster.yaml",
) -> list[dict[str, Any]]:
    """Return the manifests of a RayJob that runs `python -m jobs <arguments>` and ends its cluster afterwards.

    Args:
        arguments: as for `python -m jobs`; the words that name files of `files` are replaced by where they are mounted.
        files: contents of experiment files, by the word that names them.
    """
    words = [f"{FILES_MOUNT_PATH}/{Path(word).name}" if word in files else word for word in arguments]
    if not any(word.startswith("storage=") for word in words):
        words.append(f"storage={pods.storage}")
    spec = {
        "entrypoint": shlex.join(["python", "-m", "jobs", *words]),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": _cluster(pods, launcher_file),
    }
    made = [_resource("RayJob", pods.name, spec)]
    if files:
        data = {Path(word).name: text for word, text in files.items()}
        made.insert(0, _resource("ConfigMap", f"{pods.name}-files", None, data=data))
    return made


def build_ray_service(
    pods: PodSettings, serve_config: str, launcher_file: Path = REPOSITORY / "ray_cluster.yaml"
) -> list[dict[str, Any]]:
    """Return the manifest of a RayService.

    Args:
        configuration: Ray Serve's, as `python -m serving config` prints it.

    Raises:
        ManifestError: it is none.
    """
    try:
        found = yaml.safe_load(serve_config)
        found["applications"][0]["import_path"]
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ManifestError(f"no Serve configuration, as `python -m serving config` prints it: {error!r}") from error
    # Kubernetes asks the pods at their own addresses, and so does what stands in front of them.
    found["http_options"] = (found.get("http_options") or {}) | {"host": "0.0.0.0", "port": HEAD_PORTS["serve"]}
    spec = {"serveConfigV2": yaml.safe_dump(found, sort_keys=False), "rayClusterConfig": _cluster(pods, launcher_file)}
    return [_resource("RayService", pods.name, spec)]


def validate_pods(pods: PodSettings) -> PodSettings:
    """Return what was given; ManifestError where pods cannot be made of it."""
    if not NAME_PATTERN.fullmatch(pods.name):
        raise ManifestError(f"'{pods.name}' is no name of Kubernetes: small letters, digits and -, 42 at most")
    if not is_uri(pods.storage):
        if not pods.storage.startswith("/"):
            raise ManifestError(f"storage '{pods.storage}': pods need an absolute path or a URI")
        if pods.claim is None:
            raise ManifestError(
                f"storage '{pods.storage}': all pods must see it; name a PersistentVolumeClaim of access mode "
                "ReadWriteMany with --claim, or give a URI such as s3://bucket/runs"
            )
    return pods


def _resource(kind: str, name: str, spec: Any, **more: Any) -> dict[str, Any]:
    version = "v1" if kind == "ConfigMap" else "ray.io/v1"
    made = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    return made | ({"spec": spec} if spec is not None else {}) | more


def _cluster(pods: PodSettings, sizes: Path) -> dict[str, Any]:
    """Return the spec of a cluster with the node types of a launcher's file."""
    try:
        launcher = yaml.safe_load(sizes.read_text(encoding="utf-8"))
        types, head = launcher["available_node_types"], launcher["head_node_type"]
        idle = int(launcher.get("idle_timeout_minutes", 5)) * 60
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{sizes}: no cluster file with available_node_types: {error!r}") from error
    return {
        "rayVersion": _ray_version(),
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": idle, "upscalingMode": "Default"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0"},  # its service is seen inside Kubernetes only, by token
            "template": _pod(pods, "ray-head", types[head]["resources"], HEAD_PORTS),
        },
        "workerGroupSpecs": [
            {
                "groupName": name.replace("_", "-"),
                "replicas": each.get("min_workers", 0),
                "minReplicas": each.get("min_workers", 0),
                "maxReplicas": each.get("max_workers", launcher.get("max_workers", 1)),
                "rayStartParams": {},
                "template": _pod(pods, "ray-worker", each["resources"], {}),
            }
            for name, each in types.items()
            if name != head
        ],
    }


def _pod(pods: PodSettings, container: str, resources: dict[str, int], ports: dict[str, int]) -> dict[str, Any]:
    cpus, gpus = resources["CPU"], resources.get("GPU", 0)
    has: dict[str, Any] = {"cpu": str(cpus), "memory": f"{cpus * MEMORY_PER_CPU_GIB}Gi"}
    if gpus:
        has["nvidia.com/gpu"] = gpus
    made: dict[str, Any] = {
        "name": container,
        "image": pods.gpu_image if gpus else pods.image,
        "resources": {"requests": has, "limits": has},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if ports:
        made["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    if pods.secret:
        made["envFrom"] = [{"secretRef": {"name": pods.secret}}]
    mounts, volumes = [], []
    if pods.claim:
        mounts.append({"name": "storage", "mountPath": pods.storage})
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": pods.claim}})
    if pods.mount_files:
        mounts.append({"name": "files", "mountPath": FILES_MOUNT_PATH, "readOnly": True})
        volumes.append({"name": "files", "configMap": {"name": f"{pods.name}-files"}})
    if mounts:
        made["volumeMounts"] = mounts
    spec: dict[str, Any] = {"containers": [made], "securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}
    if volumes:
        spec["volumes"] = volumes
    return {"metadata": {"labels": {"app.kubernetes.io/part-of": pods.name}}, "spec": spec}


def _ray_version() -> str:
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned, "the lock file pins Ray"
    return pinned[1]
