"""Manifests that KubeRay takes: its own schemas say so, and no field in them is one that it would drop."""

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

AT = ["manifest", "--image", "registry.example/finetune-cnn:{hardware}"]
STORAGES = [["--storage", "s3://bucket/runs", "--secret", "keys"], ["--storage", "/shared/runs", "--claim", "runs"]]


@pytest.fixture(scope="module")
def schemas(shared_data: Path) -> dict[str, Any]:
    """Validators of KubeRay's schemas by kind, made strict: Kubernetes drops unknown fields in silence."""
    found = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # these are long
    for path in (shared_data / "kuberay").glob("*.yaml"):
        definition = yaml.load(path.read_text(), Loader=loader)["spec"]
        [version] = [each for each in definition["versions"] if each["name"] == "v1"]
        schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}}
        found[definition["names"]["kind"]] = jsonschema.Draft202012Validator(strict(schema))
    return found


def strict(schema: Any) -> Any:
    """Return a schema that refuses what it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def manifests(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main([*AT, *arguments]) == 0
    return list(yaml.safe_load_all(capsys.readouterr().out))


@pytest.fixture
def configuration(tmp_path: Path) -> str:
    path = tmp_path / "service.yaml"
    text = (REPOSITORY / "serving/service.yaml").read_text()
    path.write_text(text.replace("/set/me/best.json", "s3://bucket/runs/tickets/best.json"))
    return str(path)


@pytest.mark.parametrize("storage", STORAGES, ids=["object store", "claim"])
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob train", "RayJob tune", "RayService"])
def test_kuberay_takes_the_manifest(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str], configuration: str, kind: str, storage: list[str]
) -> None:
    """Each kind, with either storage."""
    verb = {
        "RayCluster": ["cluster"],
        "RayJob train": ["train", "experiments/tickets.yaml", "train.workers=2", "train.use_gpu=true"],
        "RayJob tune": ["tune", "experiments/docstrings.yaml"],
        "RayService": ["serve", configuration],
    }[kind]
    found = manifests(capsys, *storage, "--", *verb)
    [resource] = [each for each in found if each["kind"] != "ConfigMap"]
    assert resource["kind"] == kind.split()[0]
    schemas[resource["kind"]].validate(resource)
    spec = resource["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    check_cluster(spec, storage)


def check_cluster(spec: dict[str, Any], storage: list[str]) -> None:
    """Tokens on, a head without GPUs, GPU workers from zero, and the storage in every pod."""
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    launcher = yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())
    [worker] = spec["workerGroupSpecs"]
    assert (worker["minReplicas"], worker["maxReplicas"]) == (0, launcher["max_workers"])
    pods = [spec["headGroupSpec"]["template"]["spec"], worker["template"]["spec"]]
    limits = [pod["containers"][0]["resources"]["limits"] for pod in pods]
    assert ["nvidia.com/gpu" in each for each in limits] == [False, True]
    assert [pod["containers"][0]["image"].rpartition(":")[2] for pod in pods] == ["cpu", "gpu"]
    for pod in pods:
        [container] = pod["containers"]
        if "--secret" in storage:
            assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
        else:
            assert {"name": "storage", "mountPath": "/shared/runs"} in container["volumeMounts"]
            assert {"name": "storage", "persistentVolumeClaim": {"claimName": "runs"}} in pod["volumes"]


def test_the_strict_schema_refuses_what_kubernetes_would_drop(
    schemas: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the tests above would say nothing."""
    [found] = manifests(capsys, *STORAGES[0], "--", "cluster")
    for spoil in (
        lambda spec: spec.update(authOption={"mode": "token"}),
        lambda spec: spec["authOptions"].update(mode="on"),
        lambda spec: spec["workerGroupSpecs"][0].pop("maxReplicas"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(images="x"),
    ):
        spoilt = copy.deepcopy(found)
        spoil(spoilt["spec"])
        assert not schemas["RayCluster"].is_valid(spoilt)


def test_a_job_brings_its_experiment_and_knows_its_storage(capsys: pytest.CaptureFixture[str]) -> None:
    """The file lies in a ConfigMap, and the command names it where it is mounted."""
    files, job = manifests(capsys, *STORAGES[0], "--", "train", "experiments/tickets.yaml", "train.epochs=3")
    assert files["data"] == {"tickets.yaml": (REPOSITORY / "experiments/tickets.yaml").read_text()}
    assert job["spec"]["entrypoint"] == (
        "python -m jobs train /home/ray/files/tickets.yaml train.epochs=3 storage=s3://bucket/runs"
    )
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "files", "configMap": {"name": files["metadata"]["name"]}} in pod["volumes"]


def test_a_service_answers_others_in_its_cluster(capsys: pytest.CaptureFixture[str], configuration: str) -> None:
    """At the port that KubeRay's service leads to, with the checkpoint of the configuration."""
    [service] = manifests(capsys, *STORAGES[0], "--", "serve", configuration)
    found = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert (found["http_options"]["host"], found["http_options"]["port"]) == ("0.0.0.0", 8000)
    assert "s3://bucket/runs/tickets/best.json" in json.dumps(found["applications"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--storage", "runs", "--", "cluster"], "pods need an absolute path or a URI"),
        (["--storage", "/runs", "--", "cluster"], "--claim"),
        (["--storage", "s3://b/r", "--name", "My_Run", "--", "cluster"], "is no name of Kubernetes"),
        (["--storage", "s3://b/r", "--", "train", "none.yaml"], "none.yaml: cannot be read"),
        (["--storage", "s3://b/r", "--", "serve", "experiments/tickets.yaml"], "no Serve configuration"),
        (["--storage", "s3://b/r", "--", "evaluate", "runs"], "runs"),
        (["--storage", "s3://b/r", "--", "serve"], "say cluster, train"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And exit code 2."""
    monkeypatch.chdir(REPOSITORY)
    assert main([*AT, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_image_is_made_of_the_pinned_ray() -> None:
    """And nothing that a checkout holds beside the code goes into it."""
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    assert f"FROM rayproject/ray:{pinned[1]}-py311-" in (REPOSITORY / "Dockerfile").read_text()
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "runs", "data", "vectors"} <= set(ignored)
