"""Manifests are valid for KubeRay's own schemas, and have no field that Kubernetes would drop."""

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler.v2.instance_manager.common import InstanceUtil
from ray.core.generated.instance_manager_pb2 import Instance

from cluster.__main__ import main
from cluster.package import REPOSITORY

COMMAND = ["manifest", "--image", "registry.example/finetune-cnn:{hardware}"]
STORAGES = [["--storage", "s3://bucket/runs", "--secret", "keys"], ["--storage", "/shared/runs", "--claim", "runs"]]


@pytest.fixture(scope="module")
def schemas(shared_data: Path) -> dict[str, Any]:
    """Validators of KubeRay's schemas by kind, made strict: Kubernetes drops unknown fields silently."""
    validators = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the files are long
    for path in (shared_data / "kuberay").glob("*.yaml"):
        definition = yaml.load(path.read_text(), Loader=loader)["spec"]
        [version] = [version for version in definition["versions"] if version["name"] == "v1"]
        schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
        names = {key: {"type": "string"} for key in ("name", "namespace")}
        labels = {"type": "object", "additionalProperties": {"type": "string"}}
        schema["properties"]["metadata"] = {"type": "object", "properties": names | {"labels": labels}}
        validators[definition["names"]["kind"]] = jsonschema.Draft202012Validator(make_strict(schema))
    return validators


def make_strict(schema: Any) -> Any:
    """Return a schema that rejects unknown fields."""
    if isinstance(schema, list):
        return [make_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: make_strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def print_manifests(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main([*COMMAND, *arguments]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


@pytest.fixture
def configuration(tmp_path: Path) -> str:
    path = tmp_path / "service.yaml"
    text = (REPOSITORY / "serving/service.yaml").read_text()
    path.write_text(text.replace("/set/me/best.json", "s3://bucket/runs/tickets/best.json"))
    return str(path)


@pytest.mark.parametrize("storage", STORAGES, ids=["object store", "claim"])
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob train", "RayJob tune", "RayService"])
def test_kuberay_accepts_the_manifest(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str], configuration: str, kind: str, storage: list[str]
) -> None:
    """Every kind of manifest is accepted, with either storage."""
    verb = {
        "RayCluster": ["cluster"],
        "RayJob train": ["train", "experiments/tickets.yaml", "train.workers=2", "train.use_gpu=true"],
        "RayJob tune": ["tune", "experiments/docstrings.yaml"],
        "RayService": ["serve", configuration],
    }[kind]
    manifests = print_manifests(capsys, *storage, "--", *verb)
    [resource] = [manifest for manifest in manifests if manifest["kind"] != "ConfigMap"]
    assert resource["kind"] == kind.split()[0]
    schemas[resource["kind"]].validate(resource)
    spec = resource["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    check_cluster(spec, storage)


def check_cluster(spec: dict[str, Any], storage: list[str]) -> None:
    """Tokens are on, the head has no GPU, GPU workers start from zero, and every pod has the storage."""
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    launcher = yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())  # with the same node types
    [worker] = spec["workerGroupSpecs"]
    assert (worker["minReplicas"], worker["maxReplicas"]) == (0, launcher["max_workers"])
    pods = [spec["headGroupSpec"]["template"]["spec"], worker["template"]["spec"]]
    limits = [pod["containers"][0]["resources"]["limits"] for pod in pods]
    assert ["nvidia.com/gpu" in limit for limit in limits] == [False, True]
    assert [pod["containers"][0]["image"].rpartition(":")[2] for pod in pods] == ["cpu", "gpu"]
    for pod in pods:
        [container] = pod["containers"]
        assert pod["restartPolicy"] == "Never"  # kuberay#3738
        if "--secret" in storage:
            assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
        else:
            assert {"name": "storage", "mountPath": "/shared/runs"} in container["volumeMounts"]
            assert {"name": "storage", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]


def test_the_strict_schema_rejects_what_kubernetes_would_drop(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise the tests above could not fail."""
    [manifest] = print_manifests(capsys, *STORAGES[0], "--", "cluster")
    for corrupt in (
        lambda spec: spec.update(authOption={"mode": "token"}),
        lambda spec: spec["authOptions"].update(mode="on"),
        lambda spec: spec["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(images="x"),
    ):
        corrupted = copy.deepcopy(manifest)
        corrupt(corrupted["spec"])
        assert not schemas["RayCluster"].is_valid(corrupted)


@pytest.mark.parametrize(
    ("verb", "setting"), [("train", "train.epochs=3"), ("tune", "tune.trials=3"), ("cross-validate", "--folds 3")]
)
def test_a_job_has_its_experiment_and_its_storage(verb: str, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A ConfigMap has the file, and the command has the path where it is mounted; an option's value is no file."""
    files, job = print_manifests(capsys, *STORAGES[0], "--", verb, "experiments/tickets.yaml", *setting.split())
    assert files["data"] == {"tickets.yaml": (REPOSITORY / "experiments/tickets.yaml").read_text()}
    assert job["spec"]["entrypoint"] == (
        f"python -m jobs {verb} /home/ray/files/tickets.yaml {setting} storage=s3://bucket/runs"
    )
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "files", "configMap": {"name": files["metadata"]["name"]}} in pod["volumes"]


def test_the_node_types_are_those_of_a_launcher_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default those of ray_cluster.yaml, also where there is no such file."""
    file = REPOSITORY / "ray_cluster.yaml"
    assert print_manifests(capsys, *STORAGES[0], "--", "cluster") == print_manifests(
        capsys, *STORAGES[0], "--launcher-file", str(file), "--", "cluster"
    )
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace("{CPU: 4, GPU: 1}", "{CPU: 16, GPU: 2}"))
    [manifest] = print_manifests(capsys, *STORAGES[0], "--launcher-file", str(other), "--", "cluster")
    pod = manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}


def test_a_service_listens_on_all_addresses_of_its_pods(capsys: pytest.CaptureFixture[str], configuration: str) -> None:
    """The service has the port of KubeRay's service and the checkpoint of the configuration."""
    [service] = print_manifests(capsys, *STORAGES[0], "--", "serve", configuration)
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert (config["http_options"]["host"], config["http_options"]["port"]) == ("0.0.0.0", 8000)
    assert "s3://bucket/runs/tickets/best.json" in json.dumps(config["applications"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "runs", "--", "cluster"], "pods need an absolute path or a URI"),
        (["--storage", "/runs", "--", "cluster"], "--claim"),
        (["--storage", "s3://b/r", "--name", "My_Run", "--", "cluster"], "is not a Kubernetes name"),
        (["--storage", "s3://b/r", "--launcher-file", "experiments/trec.yaml", "--", "cluster"], "not a cluster file"),
        (["--storage", "s3://b/r", "--", "train", "none.yaml"], "none.yaml: cannot be read"),
        (["--storage", "s3://b/r", "--", "serve", "experiments/tickets.yaml"], "not a Serve configuration"),
        (["--storage", "s3://b/r", "--", "evaluate", "runs"], "runs"),
        (["--storage", "s3://b/r", "--", "serve"], "write cluster, train ..., tune ..., cross-"),
        (["--storage", "s3://b/r", "--resources", "worker:cpu=8", "--", "cluster"], "there are head, gpu_worker"),
        (["--storage", "s3://b/r", "--resources", "head:cpu=many", "--", "cluster"], "write NODE_TYPE:cpu=8,"),
        (["--storage", "s3://b/r", "--toleration", "gpu:Never", "--", "cluster"], "write KEY, KEY=VALUE"),
        (["--storage", "s3://b/r", "--toleration", "größe=1", "--", "cluster"], "write KEY, KEY=VALUE"),
        (["--storage", "s3://b/r", "--label", "team", "--", "cluster"], "write KEY=VALUE"),
        (["--storage", "s3://b/r", "--label", f"team={'x' * 64}", "--", "cluster"], "write KEY=VALUE"),
        (["--storage", "s3://b/r", "--label", "a/b/c=1", "--", "cluster"], "write KEY=VALUE"),
        (["--storage", "s3://b/r", "--redis", "redis:6379", "--", "train"], "--redis is for services and clusters"),
        (["--storage", "s3://b/r", "--cluster", "c", "--", "cluster"], "--cluster is for jobs"),
        (["--storage", "s3://b/r", "--cluster", "c", "--claim", "x", "--", "train"], "--image, --claim: the pods of c"),
        (["--storage", "s3://b/r", "--deadline-hours", "0.0001", "--", "train"], "--deadline-hours must be above 0"),
        (["--storage", "s3://b/r", "--deadline-hours", "inf", "--", "train"], "--deadline-hours must be above 0"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command prints one line and exits with code 2."""
    monkeypatch.chdir(REPOSITORY)
    assert main([*COMMAND, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("verb", ["train", "serve"])
def test_a_file_that_is_not_utf_8_is_an_error(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "latin1.yaml"
    path.write_bytes("name: \u00e9\n".encode("latin-1"))
    assert main([*COMMAND, "--storage", "s3://b/r", "--", verb, str(path)]) == 2
    assert "latin1.yaml" in capsys.readouterr().err


def test_a_job_needs_no_pod_to_submit_it_and_ends_at_a_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    """The eviction of such a pod would fail the job, and without a deadline KubeRay waits forever."""
    [job] = print_manifests(capsys, *STORAGES[0], "--deadline-hours", "1.5", "--", "train")
    assert (job["spec"]["submissionMode"], job["spec"]["activeDeadlineSeconds"]) == ("HTTPMode", 5400)
    [job] = print_manifests(capsys, *STORAGES[0], "--", "train")
    assert job["spec"]["activeDeadlineSeconds"] == 7 * 24 * 3600


def test_the_user_of_the_pods_can_write_to_a_claim(capsys: pytest.CaptureFixture[str]) -> None:
    """A new volume belongs to root; with fsGroup to the group of the user too."""
    [cluster] = print_manifests(capsys, *STORAGES[1], "--", "cluster")
    context = cluster["spec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert (context["runAsUser"], context["fsGroup"], context["fsGroupChangePolicy"]) == (1000, 100, "OnRootMismatch")


POD_OPTIONS = [
    "--namespace", "search", "--label", "team=search", "--label", "cost/centre=7", "--service-account", "trainer",
    "--pull-secret", "registry", "--pull-secret", "mirror", "--toleration", "nvidia.com/gpu",
    "--toleration", "pool=gpu:NoSchedule", "--resources", "gpu_worker:cpu=8,memory=64Gi,gpu=2,ephemeral-storage=50Gi",
]  # fmt: skip


@pytest.mark.parametrize("verb", [["cluster"], ["train", "experiments/tickets.yaml"], ["serve"]])
def test_pods_have_the_settings_of_a_shared_kubernetes(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str], configuration: str, verb: list[str]
) -> None:
    """Namespace, labels, account, secrets of the registry, tolerations, and resources of one node type."""
    words = [*verb, configuration] if verb == ["serve"] else verb
    manifests = print_manifests(capsys, *STORAGES[0], *POD_OPTIONS, "--", *words)
    labels = {"team": "search", "cost/centre": "7"}
    for manifest in manifests:
        assert (manifest["metadata"]["namespace"], manifest["metadata"]["labels"]) == ("search", labels)
    resource = manifests[-1]
    schemas[resource["kind"]].validate(resource)
    spec = resource["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    [worker] = spec["workerGroupSpecs"]
    for template in (spec["headGroupSpec"]["template"], worker["template"]):
        assert labels.items() <= template["metadata"]["labels"].items()
        pod = template["spec"]
        assert pod["serviceAccountName"] == "trainer"
        assert pod["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]
        assert pod["tolerations"] == [
            {"operator": "Exists", "key": "nvidia.com/gpu"},
            {"operator": "Equal", "key": "pool", "value": "gpu", "effect": "NoSchedule"},
        ]
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2", "ephemeral-storage": "50Gi",
    }  # fmt: skip


@pytest.mark.parametrize("verb", ["cluster", "train", "tune", "cross-validate", "serve"])
def test_kuberay_accepts_all_options_together(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str], configuration: str, verb: str, tmp_path: Path
) -> None:
    """The file of an experiment may have any name, which is no key of a ConfigMap."""
    experiment = tmp_path / "my größe.yaml"
    experiment.write_text("name: mine\n")
    options = [
        *STORAGES[1], "--secret", "keys", *POD_OPTIONS, "--launcher-file", str(REPOSITORY / "ray_cluster.yaml"),
        "--resources", "head:cpu=500m,memory=1.5Gi",
    ]  # fmt: skip
    if verb in ("cluster", "serve"):
        options += ["--redis", "redis:6379", "--redis-secret", "redis-password"]
    words = {"cluster": [], "serve": [configuration]}.get(verb, [str(experiment), "train.epochs=3"])
    manifests = print_manifests(capsys, *options, "--deadline-hours", "0.5", "--", verb, *words)
    resource = manifests[-1]
    schemas[resource["kind"]].validate(resource)
    if resource["kind"] == "RayJob":
        [key] = manifests[0]["data"]
        assert re.fullmatch("[-._a-zA-Z0-9]+", key)
        assert resource["spec"]["entrypoint"].split()[4] == f"/home/ray/files/{key}"


def test_a_node_type_without_gpus_has_the_other_image(capsys: pytest.CaptureFixture[str]) -> None:
    """An amount of 0 removes a resource."""
    [cluster] = print_manifests(capsys, *STORAGES[0], "--resources", "gpu_worker:gpu=0", "--", "cluster")
    [container] = cluster["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    assert container["image"].endswith(":cpu")
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}


@pytest.mark.parametrize("verb", ["cluster", "serve"])
def test_a_service_outlives_its_head_with_redis(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str], configuration: str, verb: str
) -> None:
    """The head's state is in Redis, and no replica runs on the head."""
    words = [verb, configuration] if verb == "serve" else [verb]
    options = ["--redis", "redis:6379", "--redis-secret", "redis-password"]
    [resource] = print_manifests(capsys, *STORAGES[0], *options, "--", *words)
    schemas[resource["kind"]].validate(resource)
    spec = resource["spec"].get("rayClusterConfig") or resource["spec"]
    assert spec["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis:6379",
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis-password", "key": "password"}}},
    }
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_job_can_run_on_an_existing_cluster(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its pods cannot mount the experiment: the command writes it from a variable first."""
    text = (REPOSITORY / "experiments/tickets.yaml").read_text()
    options = ["--name", "mine", "--storage", "/shared/runs", "--cluster", "shared", "--namespace", "search"]
    assert main(["manifest", *options, "--", "train", "experiments/tickets.yaml", "name=a b"]) == 0
    [job] = yaml.safe_load_all(capsys.readouterr().out)
    schemas["RayJob"].validate(job)
    spec = job["spec"]
    assert spec["clusterSelector"] == {"ray.io/cluster": "shared"}
    assert not {"rayClusterSpec", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & set(spec)
    assert "python -m jobs train /tmp/mine/tickets.yaml 'name=a b' storage=/shared/runs" in spec["entrypoint"]
    script = spec["entrypoint"].replace("/tmp/mine", str(tmp_path / "mine")).replace("python -m jobs", "cat; true")
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    subprocess.run(["sh", "-c", script], env=os.environ | variables, stdin=subprocess.DEVNULL, timeout=30, check=True)
    assert (tmp_path / "mine" / "tickets.yaml").read_text().rstrip("\n") == text.rstrip("\n")


def test_the_autoscaler_of_ray_can_finish_a_failed_termination() -> None:
    """Without it, one idle worker stays forever (kuberay#3738, ray#60566)."""
    transitions = InstanceUtil.get_valid_transitions()
    assert Instance.TERMINATED in transitions[Instance.TERMINATION_FAILED]
    assert Instance.TERMINATED in transitions[Instance.RAY_STOPPING]


def test_the_image_has_the_pinned_ray() -> None:
    """It has the folders of the project, and nothing else of a checkout, such as data or keys."""
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    assert f"FROM rayproject/ray:{pinned[1]}-py311-" in (REPOSITORY / "Dockerfile").read_text()
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    sources = {"pyproject.toml", "requirements.lock", "README.md", "finetune_cnn.py", "cluster", "jobs", "serving"}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources | {"experiments"}
