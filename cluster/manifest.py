"""Manifests for KubeRay: a RayCluster, a RayJob for a command, or a RayService.

With `authOptions` KubeRay creates the token as a secret and passes it to every pod. The image has our code and its
dependencies (see Dockerfile); a ConfigMap has the experiment file.
"""

import importlib.metadata
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster import UsageError
from cluster.storage import is_uri

# Of Kubernetes, and shorter than its limit: KubeRay appends to names.
NAME_PATTERN = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")
FILES_MOUNT_PATH = "/home/ray/files"  # of the ConfigMap
MEMORY_PER_CPU_GIB = 4
JOB_VERBS = ("train", "tune", "cross-validate")
# Node types in the schema of Ray's cluster launcher, as in ray_cluster.yaml.
NODE_TYPES: dict[str, Any] = {
    "head_node_type": "head",
    "idle_timeout_minutes": 5,
    "available_node_types": {
        "head": {"resources": {"CPU": 4}},
        "gpu_worker": {"min_workers": 0, "max_workers": 4, "resources": {"CPU": 4, "GPU": 1}},
    },
}
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": 8000}


class ManifestError(UsageError):
    """A manifest cannot be built from the given values."""


@dataclass(frozen=True)
class PodSettings:
    """Settings of all pods.

    storage: path or URI of the runs; claim: the PersistentVolumeClaim mounted at the path `storage`;
    secret: the Secret whose keys become variables of the pods, such as an object store's keys;
    mount_files: whether the ConfigMap of experiment files is mounted;
    launcher_file: a file for Ray's cluster launcher whose node types replace NODE_TYPES.
    """

    name: str
    image: str
    gpu_image: str
    storage: str
    claim: str | None = None
    secret: str | None = None
    mount_files: bool = False
    launcher_file: Path | None = None


def build_ray_cluster(pods: PodSettings) -> list[dict[str, Any]]:
    """Return the manifest of a RayCluster that runs until it is deleted."""
    return [_resource("RayCluster", pods.name, _cluster(pods))]


def build_ray_job(pods: PodSettings, arguments: Sequence[str], files: dict[str, str]) -> list[dict[str, Any]]:
    """Return the manifests of a RayJob that runs `finetune-cnn <arguments>` and ends its cluster afterwards.

    Args:
        arguments: as for `finetune-cnn`; words that are keys of `files` are replaced by the mounted paths.
        files: contents of experiment files, by their paths in `arguments`.
    """
    words = [f"{FILES_MOUNT_PATH}/{Path(word).name}" if word in files else word for word in arguments]
    if not any(word.startswith("storage=") for word in words):
        words.append(f"storage={pods.storage}")
    spec = {
        "entrypoint": shlex.join(["python", "-m", "jobs", *words]),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "rayClusterSpec": _cluster(pods),
    }
    manifests = [_resource("RayJob", pods.name, spec)]
    if files:
        data = {Path(word).name: text for word, text in files.items()}
        manifests.insert(0, _resource("ConfigMap", f"{pods.name}-files", None, data=data))
    return manifests


def build_ray_service(pods: PodSettings, serve_config: str) -> list[dict[str, Any]]:
    """Return the manifest of a RayService.

    Args:
        serve_config: YAML text of a Ray Serve configuration, as `finetune-cnn service config` prints it.

    Raises:
        ManifestError: it is not one.
    """
    try:
        config = yaml.safe_load(serve_config)
        config["applications"][0]["import_path"]
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise ManifestError(
            f"not a Serve configuration, as `finetune-cnn service config` prints it: {error!r}"
        ) from error
    # Kubernetes, and proxies in front of the service, send requests to the pods' own addresses.
    config["http_options"] = (config.get("http_options") or {}) | {"host": "0.0.0.0", "port": HEAD_PORTS["serve"]}
    spec = {"serveConfigV2": yaml.safe_dump(config, sort_keys=False), "rayClusterConfig": _cluster(pods)}
    return [_resource("RayService", pods.name, spec)]


def validate_pods(pods: PodSettings) -> PodSettings:
    """Return the settings; ManifestError if they are invalid."""
    if not NAME_PATTERN.fullmatch(pods.name):
        raise ManifestError(f"'{pods.name}' is not a Kubernetes name: use lower-case letters, digits and -, at most 42")
    if not is_uri(pods.storage):
        if not pods.storage.startswith("/"):
            raise ManifestError(f"storage '{pods.storage}': pods need an absolute path or a URI")
        if pods.claim is None:
            raise ManifestError(
                f"storage '{pods.storage}': all pods need access; pass a PersistentVolumeClaim of access mode "
                "ReadWriteMany with --claim, or a URI such as s3://bucket/runs"
            )
    return pods


def _resource(kind: str, name: str, spec: Any, **more: Any) -> dict[str, Any]:
    version = "v1" if kind == "ConfigMap" else "ray.io/v1"
    resource = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    return resource | ({"spec": spec} if spec is not None else {}) | more


def _cluster(pods: PodSettings) -> dict[str, Any]:
    """Return the spec of a cluster."""
    launcher, file = NODE_TYPES, pods.launcher_file
    try:
        if file:
            launcher = yaml.safe_load(file.read_text(encoding="utf-8"))
        types, head = launcher["available_node_types"], launcher["head_node_type"]
        idle = int(launcher.get("idle_timeout_minutes", 5)) * 60
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{file}: not a cluster file with available_node_types: {error!r}") from error
    return {
        "rayVersion": importlib.metadata.version("ray").partition("+")[0],
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": idle, "upscalingMode": "Default"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0"},  # its service is internal, and requires the token
            "template": _pod(pods, "ray-head", types[head]["resources"], HEAD_PORTS),
        },
        "workerGroupSpecs": [
            {
                "groupName": name.replace("_", "-"),
                "replicas": node_type.get("min_workers", 0),
                "minReplicas": node_type.get("min_workers", 0),
                "maxReplicas": node_type.get("max_workers", launcher.get("max_workers", 1)),
                "rayStartParams": {},
                "template": _pod(pods, "ray-worker", node_type["resources"], {}),
            }
            for name, node_type in types.items()
            if name != head
        ],
    }


def _pod(pods: PodSettings, name: str, resources: dict[str, int], ports: dict[str, int]) -> dict[str, Any]:
    cpus, gpus = resources["CPU"], resources.get("GPU", 0)
    amounts: dict[str, Any] = {"cpu": str(cpus), "memory": f"{cpus * MEMORY_PER_CPU_GIB}Gi"}
    if gpus:
        amounts["nvidia.com/gpu"] = gpus
    container: dict[str, Any] = {
        "name": name,
        "image": pods.gpu_image if gpus else pods.image,
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if ports:
        container["ports"] = [{"name": port_name, "containerPort": port} for port_name, port in ports.items()]
    if pods.secret:
        container["envFrom"] = [{"secretRef": {"name": pods.secret}}]
    mounts: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    if pods.claim:
        mounts.append({"name": "storage", "mountPath": pods.storage})
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": pods.claim}})
    if pods.mount_files:
        mounts.append({"name": "files", "mountPath": FILES_MOUNT_PATH, "readOnly": True})
        volumes.append({"name": "files", "configMap": {"name": f"{pods.name}-files"}})
    if mounts:
        container["volumeMounts"] = mounts
    spec: dict[str, Any] = {"containers": [container], "securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}
    if volumes:
        spec["volumes"] = volumes
    return {"metadata": {"labels": {"app.kubernetes.io/part-of": pods.name}}, "spec": spec}
