"""Checkpoints on the Hugging Face Hub: pushed with a model card, and loaded as any untrusted checkpoint."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from safetensors.numpy import load_file

import finetune_cnn
from cluster import UsageError
from cluster.storage import StorageError
from jobs.__main__ import main
from jobs.model.checkpoint import (
    CheckpointError,
    InitialVectors,
    RunConstants,
    load_checkpoint,
    load_initial_vectors,
    resolve_checkpoint,
    save_checkpoint,
    verify_checksums,
)
from jobs.model.checkpoint_leases import remove_lease, write_lease
from jobs.model.checkpoint_locations import locate_snapshot
from jobs.model.checkpoint_tensors import is_quantized
from jobs.portable.model_card import render_model_card
from jobs.portable.push import push_checkpoint
from serving.web.served_models import load_models, parse_user_config
from tests.support.checkpoints import checkpoint_of
from tests.support.commands import run_command
from tests.support.hub_server import TOKEN, HubServer, Repository

# huggingface_hub calls its HTTP library in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

NAME = "owner/tickets"
URI = f"hf://{NAME}"
TEXTS = ["word1 word2", "word7", ""]
METRICS = {
    "epoch": 2, "rows": 90, "validation_rows": 10, "accuracy": 0.9, "macro_f1": 0.85,
    "started_from": {"checkpoint": "/home/someone/runs/earlier", "manifest": "0" * 64},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with every kind of file, whose settings name folders of this machine."""
    settings = {
        "storage": "/home/someone/runs", "mlflow": "https://someone:password@mlflow:5000", "wandb": "someone-secret",
        "data.train": ["/home/someone/secret/train.csv"], "data.test": "s3://key:password@bucket/test.csv?x=1",
        "data.out_of_scope": "s3://key:password@bucket/", "tune.space": {
            "vectors.path": {"choice": ["/home/someone/a.bin", "s3://key:password@bucket/b.vec", None]},
            "model.dropout": {"grid": [0.2], "if": {"vectors.path": ["/home/someone/a.bin"], "wandb": "someone"}},
        },
    }  # fmt: skip
    checkpoint = checkpoint_of("non-static", name="tickets", **settings)
    vectors = checkpoint.weights["vectors"]
    initial = InitialVectors(vectors[:9], np.arange(9), np.ones(9, bool), np.ones(len(vectors), np.float32))
    constants = RunConstants(initial, {"vectors": vectors[9:]}, np.arange(3, dtype=np.uint64))
    checkpoint = replace(checkpoint, metrics=METRICS, weights=checkpoint.weights | {"vectors": vectors[:9]})
    card = render_model_card(checkpoint)
    state = {"steps": np.array([1, 1])}
    save_checkpoint(tmp_path / "run" / "c", checkpoint, state, {"epochs": []}, constants=constants, card=card)
    return tmp_path / "run" / "c"


def test_a_pushed_checkpoint_classifies_from_its_uri(hub: HubServer, folder: Path) -> None:
    """Also of a commit, and without the Hub once it is in the cache."""
    assert main(["push", str(folder), NAME, "--private"]) == 0
    assert hub.repositories[NAME].private
    expected = finetune_cnn.load(str(folder)).predict_logits(TEXTS)
    np.testing.assert_array_equal(finetune_cnn.load(URI).predict_logits(TEXTS), expected)
    commit = resolve_checkpoint(URI)
    assert commit == f"{URI}@{hub.repositories[NAME].resolve('main')}"
    assert load_checkpoint(URI).path == resolve_checkpoint(commit) == commit
    assert load_models(parse_user_config({"checkpoint": URI})).primary.info["checkpoint"] == commit
    hub.requests.clear()
    np.testing.assert_array_equal(finetune_cnn.load(commit).predict_logits(TEXTS), expected)
    assert hub.requests == []


def test_only_what_classifies_is_uploaded_and_no_folder_is_named(hub: HubServer, folder: Path) -> None:
    """The manifest lists the uploaded files."""
    push_checkpoint(str(folder), NAME)
    files = hub.files(NAME)
    manifest = json.loads(files["manifest.json"])
    assert sorted(files) == sorted(["manifest.json", *manifest["files"]]) == [
        "README.md", "experiment.yaml", "labels.json", "manifest.json", "metrics.json", "untrained.safetensors",
        "vocabulary.json", "weights.safetensors",
    ]  # fmt: skip
    for name, content in files.items():
        assert b"someone" not in content, name
        assert b"password" not in content, name
    experiment = load_checkpoint(URI).experiment
    assert (experiment.data.train, experiment.data.test, experiment.storage) == (["train.csv"], "test.csv", "runs")
    assert (experiment.data.out_of_scope, experiment.mlflow, experiment.wandb) == ("bucket", None, None)
    assert experiment.tune.space == {
        "vectors.path": {"choice": ["a.bin", "b.vec", None]},
        "model.dropout": {"grid": [0.2], "if": {"vectors.path": ["a.bin"]}},
    }
    assert load_checkpoint(URI).metrics["started_from"]["checkpoint"] == "earlier"
    verify_checksums(URI)
    assert load_initial_vectors(URI) is None


def test_the_card_names_the_repository_and_the_metrics_of_the_report(hub: HubServer, folder: Path) -> None:
    report: dict[str, object] = {
        "checkpoint": str(folder), "source": "/home/someone/test.csv", "rows": 500, "accuracy": 0.8,
        "accuracy_interval": [0.76, 0.83], "macro_f1": 0.7,
    }  # fmt: skip
    (folder.parent / "report").mkdir()
    report["confusion"] = [[0] * 400] * 400  # of many classes: as an earlier version wrote it, more than 1 MB
    (folder.parent / "report" / "evaluation.json").write_text(json.dumps(report, indent=1))
    push_checkpoint(str(folder), NAME)
    card = ModelCard(hub.files(NAME)["README.md"].decode())
    assert f'finetune_cnn.load("{URI}")' in card.text
    assert "| 500 of the test texts, `test.csv` | accuracy | 0.8000 | 0.7600 to 0.8300 |" in card.text
    assert {(item.dataset_split, item.metric_name, item.metric_value) for item in card.data.eval_results} == {
        ("test", "accuracy", 0.8), ("test", "macro F1", 0.7),
        ("validation", "accuracy", 0.9), ("validation", "macro F1", 0.85),
    }  # fmt: skip
    report["checkpoint"] = "another"
    (folder.parent / "report" / "evaluation.json").write_text(json.dumps(report))
    push_checkpoint(str(folder), NAME)
    assert "test texts" not in hub.files(NAME)["README.md"].decode()


def test_an_edited_card_is_uploaded_as_it_is(hub: HubServer, folder: Path) -> None:
    """The licence, for example; the checkpoint stays valid, and so it does if the card is edited on the Hub."""
    edited = (folder / "README.md").read_text().replace("# license: the owner", "license: mit\n# the owner")
    (folder / "README.md").write_text(edited)
    verify_checksums(str(folder))
    push_checkpoint(str(folder), NAME)
    assert hub.files(NAME)["README.md"].decode() == edited
    assert ModelCard(edited).data.license == "mit"
    hub.repositories[NAME].commit({"README.md": b"edited"})
    assert load_checkpoint(URI).labels == ["a", "b", "c"]


def test_a_checkpoint_without_a_card_gets_one(hub: HubServer, tmp_path: Path) -> None:
    """An earlier version wrote it."""
    save_checkpoint(tmp_path / "old", checkpoint_of("rand"))
    push_checkpoint(str(tmp_path / "old"), NAME)
    assert URI in hub.files(NAME)["README.md"].decode()


def test_what_a_checkpoint_refuses_is_refused_on_the_hub(hub: HubServer, folder: Path) -> None:
    push_checkpoint(str(folder), NAME)
    weights = hub.files(NAME)["weights.safetensors"]
    hub.repositories[NAME].commit({"weights.safetensors": weights[:-1] + b"X"})
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not match the manifest"):
        load_checkpoint(URI)
    hub.repositories[NAME].commit({"manifest.json": b"{"})
    with pytest.raises(CheckpointError, match=f"{URI}@.* has no readable manifest"):
        finetune_cnn.load(URI)


def test_the_weights_of_other_libraries_are_not_downloaded(hub: HubServer, folder: Path) -> None:
    push_checkpoint(str(folder), NAME)
    hub.repositories[NAME].commit({"model.safetensors": b"many gigabytes", "code.py": b"raise SystemExit"})
    cached = Path(constants.HF_HUB_CACHE)
    load_checkpoint(URI)
    assert not [path for path in cached.rglob("*") if path.name in ("model.safetensors", "code.py")]


Change = Callable[[dict[str, bytes]], Mapping[str, bytes | None]]


def change_manifest(name: str, **values: object) -> Change:
    """Return a function that returns files with other values of one file in the manifest."""

    def change(files: dict[str, bytes]) -> dict[str, bytes | None]:
        manifest = json.loads(files["manifest.json"])
        manifest["files"][name] |= values
        return {"manifest.json": json.dumps(manifest).encode()}

    return change


def change_settings(content: bytes) -> Change:
    """Return a function that returns files with another experiment.yaml, which the manifest lists."""
    change = change_manifest("experiment.yaml", bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return lambda files: {**change(files), "experiment.yaml": content}


NO_CHECKPOINTS: dict[str, tuple[Change, str]] = {
    "no JSON": (lambda files: {"manifest.json": b"{"}, "has no readable manifest"),
    "another format": (lambda files: {"manifest.json": b'{"format": 9, "files": {}}'}, "is of format 9"),
    "another manifest": (lambda files: {"manifest.json": b'{"format": 1, "files": {}}'}, "lacks experiment.yaml"),
    "a long manifest": (lambda files: {"manifest.json": b" " * (17 << 20)}, "manifest.json: is longer than 16,777,216"),
    "long settings": (lambda files: {"experiment.yaml": b"#" * (5 << 20)}, "experiment.yaml: is longer than"),
    "other settings": (lambda files: {"experiment.yaml": b"name: other"}, "experiment.yaml does not match"),
    "tensors of another size": (
        change_manifest("weights.safetensors", bytes=9),
        "weights.safetensors missing, or of another size than in the manifest",
    ),
    "settings that are none": (change_settings(b"- 1"), "1 validation error for Experiment"),
    "an unknown setting": (change_settings(b"model: {colour: red}"), "1 validation error for Experiment"),
    "a file that is missing, and has no size in the manifest": (
        lambda files: {**change_manifest("labels.json", bytes=None)(files), "labels.json": None},
        "labels.json missing",
    ),
    "a second part of the vectors that is missing": (
        lambda files: {"untrained.safetensors": None},
        "untrained.safetensors missing",
    ),
}


@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_no_large_file_is_downloaded_of_what_is_no_checkpoint(hub: HubServer, folder: Path, kind: str) -> None:
    """Neither the manifest nor the settings if they are too long, and in no case the tensors; also at the next try."""
    push_checkpoint(str(folder), NAME)
    change, message = NO_CHECKPOINTS[kind]
    hub.repositories[NAME].commit(change(hub.files(NAME)))
    for _ in range(2):
        hub.requests.clear()
        with pytest.raises(CheckpointError, match=f"{URI}@.*{message}"):
            finetune_cnn.load(URI)
        assert f"GET /api/models/{NAME}/revision/main" in hub.requests
        requested = {path.rpartition("/")[2] for path in hub.requests if path.startswith("GET /owner")}
        assert requested <= {"manifest.json", "experiment.yaml"}
        assert not ("long" in kind and requested)


def test_a_model_of_another_library_is_not_downloaded(hub: HubServer, folder: Path) -> None:
    hub.repositories[NAME] = Repository(private=False)
    hub.repositories[NAME].commit({"README.md": b"a model", "model.safetensors": b"many gigabytes"})
    with pytest.raises(CheckpointError, match=f"{URI}: is no checkpoint: it has no manifest.json"):
        finetune_cnn.load(URI)
    assert not [path for path in hub.requests if path.startswith("GET /owner")]


def test_a_checkpoint_in_the_cache_is_used_without_the_hub(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of a branch too; files that an earlier push left in the repository are not needed."""
    push_checkpoint(str(folder), NAME)
    hub.repositories[NAME].commit({"initial.safetensors": b"of an earlier push"})
    expected = load_checkpoint(URI)
    assert "GET" not in {path.split()[0] for path in hub.requests if path.endswith("initial.safetensors")}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_checkpoint(URI).path == load_checkpoint(expected.path).path == expected.path
    with pytest.raises(StorageError, match=r"hf://owner/other: cannot be downloaded: .*offline"):
        load_checkpoint("hf://owner/other")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://owner/none", "hf://owner/none: the Hub has no such repository, or it is private: `hf auth login`"),
        (f"{URI}@gone", f"{URI}@gone: the repository has no revision 'gone'"),
        ("hf://owner", "hf://owner: is not hf://OWNER/NAME or hf://OWNER/NAME@REVISION"),
        ("hf://../../x", "hf://../../x: is not hf://OWNER/NAME"),
    ],
)
def test_what_is_not_on_the_hub_is_an_error(hub: HubServer, folder: Path, uri: str, message: str) -> None:
    push_checkpoint(str(folder), NAME)
    with pytest.raises(UsageError) as caught:
        load_checkpoint(uri)
    assert str(caught.value).startswith(message)


def test_a_push_without_access_or_to_an_invalid_name_is_an_error(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StorageError, match="name the branch with --revision"):
        push_checkpoint(str(folder), f"{NAME}@v1")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(StorageError, match=f"{URI}: cannot be uploaded: .*401"):
        push_checkpoint(str(folder), NAME)
    assert hub.repositories == {}


def test_nothing_is_written_to_the_hub_by_a_service(hub: HubServer, folder: Path) -> None:
    """A lease protects from removal, which nothing does on the Hub."""
    push_checkpoint(str(folder), NAME)
    location = resolve_checkpoint(URI)
    hub.requests.clear()
    write_lease(location, "service", {})
    remove_lease(location, "service")
    assert hub.requests == []


def test_commands_read_a_quantized_checkpoint_of_the_hub(
    hub: HubServer,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Reports are written to the working directory: next to the checkpoint is the cache."""
    save_checkpoint(tmp_path / "c", replace(load_checkpoint(str(folder)), metrics=METRICS | {"versions": {}}))
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", "c", "small"]) == 0
    push_checkpoint("small", NAME)
    assert is_quantized(load_file(Path(locate_snapshot(URI), "weights.safetensors")))
    Path("texts.csv").write_text("text,label\nword1,a\nword2,b\nword3,c\n")
    assert main(["predict", URI, "texts.csv", "--out", "labelled.csv"]) == 0
    assert len(Path("labelled.csv").read_text().splitlines()) == 4
    capsys.readouterr()
    assert main(["evaluate", URI, "texts.csv", "--no-baseline", "--dry-run", "--json"]) == 0
    snapshot = Path(locate_snapshot(URI))
    checkpoint_bytes = sum(path.stat().st_size for path in snapshot.iterdir())
    assert json.loads(capsys.readouterr().out)["reads"][0]["bytes"] == checkpoint_bytes
    assert main(["evaluate", URI, "texts.csv", "--no-baseline"]) == 0
    [report] = Path.cwd().glob("report*/evaluation.json")
    assert report.parent.name.startswith("report-tickets-texts-")


@pytest.mark.slow
def test_the_variables_of_huggingface_hub_apply(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    """In a process of its own, with the console command: HF_ENDPOINT, HF_TOKEN and HF_HOME."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    pushed = run_command("python", "-m", "finetune_cnn", "push", str(folder), NAME, env=environment)
    assert pushed.returncode == 0, pushed.stderr
    assert f"to {hub.url}/{NAME}/commit/" in pushed.stdout
    script = f"import finetune_cnn; print(finetune_cnn.load('{URI}').predict(['word1']))"
    loaded = run_command("python", "-c", script, env=environment)
    assert loaded.stdout == f"{finetune_cnn.load(str(folder)).predict(['word1'])}\n", loaded.stderr
    assert list(Path(tmp_path, "home", "hub").glob("models--owner--tickets/snapshots/*/manifest.json"))
