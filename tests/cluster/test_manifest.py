"""Manifests are valid for KubeRay's own schemas, and have no field that Kubernetes would drop."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

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
        schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
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
    ("verb", "setting"), [("train", "train.epochs=3"), ("tune", "tune.trials=3"), ("cross-validate", "--folds=3")]
)
def test_a_job_has_its_experiment_and_its_storage(verb: str, setting: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A ConfigMap has the file, and the command has the path where it is mounted."""
    files, job = print_manifests(capsys, *STORAGES[0], "--", verb, "experiments/tickets.yaml", setting)
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
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": 2}


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
        (
            ["--storage", "s3://b/r", "--", "serve"],
            "write cluster, train ..., tune ..., cross-",
        ),
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


def test_the_image_has_the_pinned_ray() -> None:
    """It has the folders of the project, and nothing else of a checkout, such as data or keys."""
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    assert f"FROM rayproject/ray:{pinned[1]}-py311-" in (REPOSITORY / "Dockerfile").read_text()
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    sources = {"pyproject.toml", "requirements.lock", "README.md", "finetune_cnn.py", "cluster", "jobs", "serving"}
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == sources | {"experiments"}
