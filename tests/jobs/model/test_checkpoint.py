"""Checkpoints: read whole or refused, and nothing in them is executed."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.config.abstention import AbstentionRule, MissingThreshold, require_rule
from jobs.config.experiment import Experiment
from jobs.model import checkpoint_files
from jobs.model.checkpoint import (
    Checkpoint,
    CheckpointError,
    InitialVectors,
    RunConstants,
    load_checkpoint,
    load_initial_vectors,
    load_training_state,
    resolve_checkpoint,
    save_checkpoint,
    verify_checksums,
)
from tests.support.installed_tokenizer import NAME, install_tokenizer

CHECKPOINT = Checkpoint(
    Experiment(name="x"),
    ["a", "b|\n"],
    ["w\u2028", "東京", "\u00a0"],
    {"vectors": np.arange(10, dtype=np.float32).reshape(5, 2), "output.bias": np.zeros(2, np.float32)},
    {"epoch": 3, "accuracy": 0.5},
)
INITIAL_VECTORS = InitialVectors(
    np.ones((4, 2), np.float32), np.arange(4), np.array([False, False, True, False, True]), np.ones(5, np.float32)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "checkpoint"
    constants = RunConstants(INITIAL_VECTORS, {}, None, files=None)
    save_checkpoint(folder, CHECKPOINT, {"steps": np.array([3, 2])}, {"epochs": [], "best": 0}, constants)
    return folder


def test_a_checkpoint_with_thousands_of_labels_and_files_is_loaded(tmp_path: Path) -> None:
    """The refit of a search with several labels per text writes a threshold for each label."""
    labels = [f"label number {index}" for index in range(3000)]
    thresholds = {label: 0.1 + index / 30_011 for index, label in enumerate(labels)}
    files = [f"s3://bucket/folder/part-{index:06d}.parquet" for index in range(2000)]
    experiment = Experiment().replace({"train.thresholds": thresholds, "data.train": files})
    metrics = {"label_thresholds": {"values": [0.123456789012345678] * 60_000}}
    save_checkpoint(tmp_path / "c", replace(CHECKPOINT, experiment=experiment, labels=labels, metrics=metrics))
    loaded = load_checkpoint(str(tmp_path / "c"))
    assert (loaded.experiment, loaded.metrics) == (experiment, metrics)


def test_a_file_that_no_reader_would_accept_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoint_files.MAX_TEXT_BYTES, "labels.json", 20)
    with pytest.raises(CheckpointError, match=r"labels\.json: would have 30 bytes; a reader accepts 20"):
        save_checkpoint(tmp_path / "c", replace(CHECKPOINT, labels=["a label that is longer"]))
    assert not (tmp_path / "c" / "manifest.json").exists()


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, and its entry in the manifest."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_saved_checkpoint_is_loaded(folder: Path) -> None:
    """A loaded checkpoint has the same weights bit for bit, words with any characters, and all settings."""
    loaded = load_checkpoint(str(folder))
    assert (loaded.experiment, loaded.labels, loaded.words) == (
        CHECKPOINT.experiment,
        CHECKPOINT.labels,
        CHECKPOINT.words,
    )
    assert loaded.metrics == CHECKPOINT.metrics
    assert loaded.path == str(folder)
    assert loaded.weights.keys() == CHECKPOINT.weights.keys()
    assert all(np.array_equal(loaded.weights[name], value) for name, value in CHECKPOINT.weights.items())
    state = load_training_state(folder)
    assert state.optimizer_state["steps"].tolist() == [3, 2]
    assert state.progress == {"epochs": [], "best": 0}
    assert state.weights.keys() == CHECKPOINT.weights.keys()
    initial_vectors = load_initial_vectors(str(folder))
    assert initial_vectors is not None
    for name, value in vars(INITIAL_VECTORS).items():
        np.testing.assert_array_equal(getattr(initial_vectors, name), value)
    verify_checksums(str(folder))


def test_files_have_the_mode_of_the_umask(folder: Path) -> None:
    """So a service of another user reads all of them, or none."""
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_a_checkpoint_without_initial_vectors_has_none(tmp_path: Path) -> None:
    """Earlier versions did not write initial vectors."""
    save_checkpoint(tmp_path, CHECKPOINT)
    assert load_initial_vectors(str(tmp_path)) is None


def test_the_versions_that_wrote_a_checkpoint_are_read_as_they_are(tmp_path: Path) -> None:
    """Those of an earlier version lack the project's."""
    save_checkpoint(tmp_path, replace(CHECKPOINT, metrics={"epoch": 1, "versions": {"python": "3.11.1"}}))
    assert load_checkpoint(str(tmp_path)).metrics["versions"] == {"python": "3.11.1"}


def test_a_checkpoint_of_an_earlier_version_has_the_temperature_1(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "old", CHECKPOINT)
    save_checkpoint(tmp_path / "new", replace(CHECKPOINT, metrics={"epoch": 1, "temperature": 1.25}))
    assert load_checkpoint(str(tmp_path / "old")).temperature == 1
    assert load_checkpoint(str(tmp_path / "new")).temperature == 1.25


def test_thresholds_of_abstention_are_read_or_their_lack_is_explained(tmp_path: Path) -> None:
    """An earlier version wrote none; few validation rows may show no precision."""
    save_checkpoint(tmp_path / "old", CHECKPOINT)
    with pytest.raises(MissingThreshold, match=r"has no thresholds of abstention.*train it again"):
        require_rule(load_checkpoint(str(tmp_path / "old")).metrics, "retention")
    abstention = {"rows": 9, "thresholds": {"retention": 0.25, "precision": None}, "out_of_scope": 1}
    save_checkpoint(tmp_path / "new", replace(CHECKPOINT, metrics={"epoch": 1, "abstention": abstention}))
    metrics = load_checkpoint(str(tmp_path / "new")).metrics
    assert require_rule(metrics, "retention") == AbstentionRule(0.25, 1)
    with pytest.raises(MissingThreshold, match=r"no threshold for 'precision': its 9 validation rows do not show"):
        require_rule(metrics, "precision")
    with pytest.raises(MissingThreshold, match=r"no threshold for 'balanced'; train with data.out_of_scope"):
        require_rule(metrics, "balanced")


def test_a_checkpoint_of_an_earlier_version_has_its_tokenizer_and_no_linear_classifier(folder: Path) -> None:
    assert load_checkpoint(str(folder)).experiment.text.tokenizer == "unicode"
    settings = (folder / "experiment.yaml").read_bytes()
    older = re.sub(rb"tokenizer: unicode, |  linear: [a-z-]+\n", b"", settings)
    assert b"linear: " in settings
    assert b"linear: " not in older
    replace_file(folder, "experiment.yaml", older)
    experiment = load_checkpoint(str(folder)).experiment
    assert (experiment.text.tokenizer, experiment.model.linear) == ("words", "none")


def test_a_path_may_be_a_folder_a_best_json_or_its_folder(folder: Path, tmp_path: Path) -> None:
    """best.json names the checkpoint relative to itself, so runs can be moved."""
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": "run/checkpoint"}))
    assert resolve_checkpoint(str(folder)) == str(folder)
    assert resolve_checkpoint(str(tmp_path / "best.json")) == resolve_checkpoint(str(tmp_path)) == str(folder)
    (tmp_path / "best.json").write_text(json.dumps({"checkpoint": str(folder)}))
    assert resolve_checkpoint(str(tmp_path)) == str(folder)


def test_a_checkpoint_without_optimizer_state_classifies_but_does_not_resume(folder: Path) -> None:
    """The state may be deleted to save space."""
    (folder / "state.safetensors").unlink()
    assert load_checkpoint(str(folder)).labels
    with pytest.raises(CheckpointError, match=r"lacks state\.safetensors"):
        load_training_state(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "vocabulary.json", "labels.json", "experiment.yaml"])
def test_a_missing_truncated_or_altered_file_is_refused(folder: Path, name: str) -> None:
    """The error names the file."""
    whole = (folder / name).read_bytes()
    for content in (whole[:-1], whole[:-1] + b"X", b""):
        (folder / name).write_bytes(content)
        for read in (load_checkpoint, verify_checksums):
            with pytest.raises(CheckpointError, match=f"{name} does not match the manifest"):
                read(str(folder))
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("weights.safetensors", load_checkpoint),
        ("initial.safetensors", load_initial_vectors),
        ("state.safetensors", lambda path: load_training_state(Path(path))),
    ],
)
def test_a_file_of_tensors_that_is_none_is_refused(folder: Path, name: str, read: object) -> None:
    """The file is refused even if its checksum in the manifest is correct."""
    replace_file(folder, name, b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read(str(folder))


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "no readable manifest"),
        ("[]", "no readable manifest"),
        ('{"format": 1}', "no readable manifest"),
        ('{"format": 1, "files": {"labels.json": {}}}', "no readable manifest"),
        ('{"format": 4, "files": []}', "is of format 4; this version reads formats 1, 2, 3"),
        ('{"format": 1, "files": {}}', "lacks experiment.yaml"),
    ],
)
def test_a_broken_or_newer_manifest_is_refused(folder: Path, manifest: str, message: str) -> None:
    """The error states the reason."""
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(folder))


def test_a_path_without_a_checkpoint_names_what_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of all runs, the name of an experiment, or anything else."""
    monkeypatch.chdir(tmp_path)
    for name in ("tickets", "trec", "zoo", "zz"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "best.json").write_text("{}")
    (tmp_path / "file").touch()
    for path, hint in {
        "runs": f"did you mean {tmp_path}/runs/tickets or {tmp_path}/runs/trec or {tmp_path}/runs/zoo?",
        f"file://{tmp_path}/runs": f"did you mean file://{tmp_path}/runs/tickets or ",
        "tickets": "did you mean runs/tickets?",
        "file": "name the folder of an experiment, such as runs/NAME; `finetune-cnn runs` lists what there is",
        "nowhere": "name the folder of an experiment, such as runs/NAME",
    }.items():
        with pytest.raises(CheckpointError, match=re.escape(f"neither a checkpoint nor a best.json; {hint}")):
            load_checkpoint(path)


def test_a_path_without_a_checkpoint_is_an_error(tmp_path: Path) -> None:
    """The path is a folder without a checkpoint, or a best.json that names none."""
    with pytest.raises(CheckpointError, match=r"contains neither a checkpoint nor a best\.json"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "best.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not name a checkpoint"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "best.json").write_text('{"checkpoint": "gone"}')
    with pytest.raises(CheckpointError, match="gone"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:os.mkdir [{path}]",
        "!!python/object/apply:os.mkdir [{path}]: 1",
        "name: !!python/object/new:os.mkdir [{path}]",
    ],
)
def test_settings_that_would_run_code_are_refused_and_run_nothing(folder: Path, tmp_path: Path, text: str) -> None:
    """The code would make a folder, which is not there afterwards."""
    evidence = tmp_path / "evidence"
    replace_file(folder, "experiment.yaml", text.format(path=json.dumps(str(evidence))).encode())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(folder))
    assert not evidence.exists()
    assert "could not determine a constructor" in str(caught.value)


def test_settings_with_yaml_aliases_are_refused(folder: Path) -> None:
    """Even a single alias is refused: a few nested ones expand to gigabytes."""
    replace_file(folder, "experiment.yaml", b"name: &name x\nstorage: *name\n")
    with pytest.raises(CheckpointError, match=r"experiment\.yaml: contains a YAML alias"):
        load_checkpoint(str(folder))


def test_another_version_of_a_tokenizers_package_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """By any spelling of its name. Not where the package, its version, or that of the training is unknown; the package
    is not imported."""
    site = install_tokenizer(tmp_path)
    Path(site, "sample_tokens.py").write_text("raise AssertionError\n")
    experiment = CHECKPOINT.experiment.replace({"text.tokenizer": NAME})
    for name, versions in (("same", {"sample-tokens": "1"}), ("other", {"Sample_Tokens": "0.9"}), ("unknown", {})):
        metrics = CHECKPOINT.metrics | {"versions": versions}
        save_checkpoint(tmp_path / name, replace(CHECKPOINT, experiment=experiment, metrics=metrics))
    load_checkpoint(str(tmp_path / "other"))
    monkeypatch.syspath_prepend(site)
    for name in ("same", "other", "unknown"):
        load_checkpoint(str(tmp_path / name))
    assert messages == [
        f"{tmp_path}/other: its texts were divided by sample-tokens 0.9, and 1 is installed, which may differ"
    ]


def test_a_vocabulary_of_an_earlier_tokenizer_is_a_warning(tmp_path: Path, messages: list[str]) -> None:
    """It divided words at combining marks; one mark by itself may be a token of the texts."""
    marks = ["\u093e", "\u093f", "\u0947", "\ufe0f"]
    for name, words in (("old", ["न", *marks]), ("new", ["नमस्ते", marks[0], "❤", marks[-1], "b"])):
        vectors = np.zeros((len(words) + 2, 2), np.float32)
        weights = CHECKPOINT.weights | {"vectors": vectors}
        save_checkpoint(tmp_path / name, replace(CHECKPOINT, words=words, weights=weights))
        load_checkpoint(str(tmp_path / name))
    [message] = messages
    assert message.startswith(f"{tmp_path}/old: 3 words begin with a combining mark")
