"""Manifests for KubeRay 1.5.1 or later: a RayCluster, a RayJob for a command, or a RayService.

With `authOptions` KubeRay creates the token as a secret and passes it to every pod. The image has our code and its
dependencies (see Dockerfile); a ConfigMap has the experiment file.
"""

import importlib.metadata
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster import UsageError
from cluster.storage import is_uri

# Of Kubernetes, and shorter than its limit: KubeRay appends to names.
NAME_PATTERN = re.compile(r"[a-z]([-a-z0-9]{0,40}[a-z0-9])?")
RESOURCE_NAMES = {"gpu": "nvidia.com/gpu"}
FILES_MOUNT_PATH = "/home/ray/files"  # of the ConfigMap
RAY_USER, RAY_GROUP = 1000, 100  # `ray` and `users` in Ray's images
MEMORY_PER_CPU_GIB = 4
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
    launcher_file: a file for Ray's cluster launcher whose node types replace NODE_TYPES;
    resources: amounts by resource of a node type, which replace those of the launcher file; gpu is nvidia.com/gpu,
    others, such as ephemeral-storage, have their names in Kubernetes;
    tolerations, pull_secrets, service_account, labels: as in Kubernetes; the labels are also those of the resource;
    redis_address: HOST:PORT of a Redis in which the head stores its state, so that a service outlives it;
    redis_secret: the Secret whose key `password` is that of the Redis.
    """

    name: str
    image: str
    gpu_image: str
    storage: str
    claim: str | None = None
    secret: str | None = None
    mount_files: bool = False
    launcher_file: Path | None = None
    namespace: str | None = None
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, str]] = ()
    pull_secrets: Sequence[str] = ()
    service_account: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    redis_address: str | None = None
    redis_secret: str | None = None


def build_ray_cluster(pods: PodSettings) -> list[dict[str, Any]]:
    """Return the manifest of a RayCluster that runs until it is deleted."""
    return [_resource(pods, "RayCluster", _cluster(pods))]


def build_ray_job(
    pods: PodSettings,
    arguments: Sequence[str],
    files: dict[str, str],
    *,
    deadline_hours: float,
    existing_cluster: str | None = None,
) -> list[dict[str, Any]]:
    """Return the manifests of a RayJob that runs `finetune-cnn <arguments>`.

    It runs on a cluster of its own, which ends afterwards, or on an existing one.

    Args:
        arguments: as for `finetune-cnn`; words that are keys of `files` are replaced by the paths in the pods.
        files: contents of experiment files, by their paths in `arguments`.
        deadline_hours: time after which KubeRay ends the job.
        existing_cluster: name of a RayCluster, whose pods cannot mount the files: they are passed in variables.
    """
    folder = f"/tmp/{pods.name}" if existing_cluster else FILES_MOUNT_PATH
    names = {word: _config_key(word) for word in files}
    words = [f"{folder}/{names[word]}" if word in files else word for word in arguments]
    if not any(word.startswith("storage=") for word in words):
        words.append(f"storage={pods.storage}")
    command = shlex.join(["python", "-m", "jobs", *words])
    spec: dict[str, Any] = {
        # KubeRay itself submits the job and reads its state. With a pod for that, the job would fail if the pod is
        # evicted (kuberay#5100), and its state would be that of the pod (kuberay#3553).
        "submissionMode": "HTTPMode",
        "entrypoint": command,
        "activeDeadlineSeconds": int(deadline_hours * 3600),
    }
    if existing_cluster is None:
        spec |= {"shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 600, "rayClusterSpec": _cluster(pods)}
    else:
        spec["clusterSelector"] = {"ray.io/cluster": existing_cluster}
        if files:
            variables = {f"EXPERIMENT_{number}": text for number, text in enumerate(files.values())}
            writes = [
                f"printenv {variable} > {shlex.quote(f'{folder}/{name}')}"
                for variable, name in zip(variables, names.values(), strict=True)
            ]
            spec["entrypoint"] = " && ".join([f"mkdir -p {folder}", *writes, command])
            spec["runtimeEnvYAML"] = yaml.safe_dump({"env_vars": variables})
    manifests = [_resource(pods, "RayJob", spec)]
    if files and existing_cluster is None:
        data = {names[word]: text for word, text in files.items()}
        manifests.insert(0, _resource(pods, "ConfigMap", None, suffix="-files", data=data))
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
    return [_resource(pods, "RayService", spec)]


def validate_pods(pods: PodSettings, *, pods_exist: bool = False) -> PodSettings:
    """Return the settings; ManifestError if they are invalid. Of pods that exist, no claim is checked."""
    if not NAME_PATTERN.fullmatch(pods.name):
        raise ManifestError(f"'{pods.name}' is not a Kubernetes name: use lower-case letters, digits and -, at most 42")
    if not is_uri(pods.storage):
        if not pods.storage.startswith("/"):
            raise ManifestError(f"storage '{pods.storage}': pods need an absolute path or a URI")
        if pods.claim is None and not pods_exist:
            raise ManifestError(
                f"storage '{pods.storage}': all pods need access; pass a PersistentVolumeClaim of access mode "
                "ReadWriteMany with --claim, or a URI such as s3://bucket/runs"
            )
    return pods


def _config_key(path: str) -> str:
    """Return the name of a file with the characters that a key of a ConfigMap may have."""
    return re.sub(r"[^-.A-Za-z0-9]", "_", Path(path).name)


def _resource(pods: PodSettings, kind: str, spec: Any, *, suffix: str = "", **more: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": f"{pods.name}{suffix}"}
    if pods.namespace:
        metadata["namespace"] = pods.namespace
    if pods.labels:
        metadata["labels"] = dict(pods.labels)
    version = "v1" if kind == "ConfigMap" else "ray.io/v1"
    resource = {"apiVersion": version, "kind": kind, "metadata": metadata}
    return resource | ({"spec": spec} if spec is not None else {}) | more


def _cluster(pods: PodSettings) -> dict[str, Any]:
    """Return the spec of a cluster."""
    launcher, file = NODE_TYPES, pods.launcher_file
    try:
        if file:
            launcher = yaml.safe_load(file.read_text(encoding="utf-8"))
        types, head = launcher["available_node_types"], launcher["head_node_type"]
        amounts = {name: _amounts(node_type["resources"]) for name, node_type in types.items()}
        idle = int(launcher.get("idle_timeout_minutes", 5)) * 60
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{file}: not a cluster file with available_node_types: {error!r}") from error
    for name, replaced in pods.resources.items():
        if name not in amounts:
            raise ManifestError(f"--resources {name}: there is no such node type; there are {', '.join(amounts)}")
        replaced = {RESOURCE_NAMES.get(key, key): amount for key, amount in replaced.items()}
        amounts[name] = {key: amount for key, amount in (amounts[name] | replaced).items() if amount != "0"}
    head_parameters = {"dashboard-host": "0.0.0.0"}  # its service is internal, and requires the token
    cluster: dict[str, Any] = {
        "rayVersion": importlib.metadata.version("ray").partition("+")[0],
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": idle, "upscalingMode": "Default"},
    }
    if pods.redis_address:
        # Without the option, a new head would know nothing of the service, and the old workers would end.
        options: dict[str, Any] = {"redisAddress": pods.redis_address}
        if pods.redis_secret:
            key = {"name": pods.redis_secret, "key": "password"}
            options["redisPassword"] = {"valueFrom": {"secretKeyRef": key}}
        cluster["gcsFaultToleranceOptions"] = options
        head_parameters["num-cpus"] = "0"  # no replica ends with the head
    return cluster | {
        "headGroupSpec": {
            "rayStartParams": head_parameters,
            "template": _pod(pods, "ray-head", amounts[head], HEAD_PORTS),
        },
        "workerGroupSpecs": [
            {
                "groupName": name.replace("_", "-"),
                "replicas": node_type.get("min_workers", 0),
                "minReplicas": node_type.get("min_workers", 0),
                "maxReplicas": node_type.get("max_workers", launcher.get("max_workers", 1)),
                "rayStartParams": {},
                "template": _pod(pods, "ray-worker", amounts[name], {}),
            }
            for name, node_type in types.items()
            if name != head
        ],
    }


def _amounts(resources: Mapping[str, Any]) -> dict[str, str]:
    """Return the amounts in Kubernetes of the resources of a node type."""
    cpus, gpus = resources["CPU"], resources.get("GPU", 0)
    amounts = {"cpu": str(cpus), "memory": f"{cpus * MEMORY_PER_CPU_GIB}Gi"}
    return amounts | ({RESOURCE_NAMES["gpu"]: str(gpus)} if gpus else {})


def _pod(pods: PodSettings, name: str, amounts: Mapping[str, str], ports: dict[str, int]) -> dict[str, Any]:
    has_gpu = any(resource.endswith("/gpu") for resource in amounts)
    container: dict[str, Any] = {
        "name": name,
        "image": pods.gpu_image if has_gpu else pods.image,
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    if ports:
        container["ports"] = [{"name": port_name, "containerPort": port} for port_name, port in ports.items()]
    if pods.secret:
        container["envFrom"] = [{"secretRef": {"name": pods.secret}}]
    volumes = dict(_volumes(pods))
    spec: dict[str, Any] = {
        "containers": [container],
        # fsGroup: a new volume belongs to root, and the user could not write to it.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": RAY_USER,
            "fsGroup": RAY_GROUP,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        # A container that starts again in its pod would be a second node to the autoscaler, which then cannot remove
        # the pod (kuberay#3738). KubeRay creates a new pod.
        "restartPolicy": "Never",
    }
    if volumes:
        container["volumeMounts"] = [mount for mount, _ in volumes.values()]
        spec["volumes"] = [{"name": volume} | source for volume, (_, source) in volumes.items()]
    if pods.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in pods.tolerations]
    if pods.pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in pods.pull_secrets]
    if pods.service_account:
        spec["serviceAccountName"] = pods.service_account
    return {"metadata": {"labels": {"app.kubernetes.io/part-of": pods.name, **pods.labels}}, "spec": spec}


def _volumes(pods: PodSettings) -> Iterator[tuple[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """Yield the name of each volume, its mount, and its source."""
    if pods.claim:
        mount = {"name": "storage", "mountPath": pods.storage}
        yield "storage", (mount, {"persistentVolumeClaim": {"claimName": pods.claim}})
    if pods.mount_files:
        files_mount = {"name": "files", "mountPath": FILES_MOUNT_PATH, "readOnly": True}
        yield "files", (files_mount, {"configMap": {"name": f"{pods.name}-files"}})
