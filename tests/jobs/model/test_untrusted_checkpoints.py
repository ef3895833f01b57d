"""Untrusted checkpoints: every command that opens one refuses harmful files with a short error."""

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster import UsageError
from jobs.__main__ import main
from jobs.model import checkpoint_files
from jobs.model.checkpoint import (
    CheckpointError,
    InitialVectors,
    RunConstants,
    load_checkpoint,
    load_training_state,
    save_checkpoint,
    verify_checksums,
    verify_sizes,
)
from serving.web.served_models import load_models, parse_user_config
from tests.support.checkpoints import WORDS, checkpoint_of
from tests.support.stored_checkpoints import change_file

NUM_TRAINED = 50
METRICS = {"epoch": 1, "rows": 9, "accuracy": 0.5, "versions": {}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete checkpoint, with every kind of file."""
    checkpoint = replace(checkpoint_of("non-static"), metrics=METRICS)
    vectors = checkpoint.weights["vectors"]
    counts = np.arange(NUM_TRAINED)
    initial = InitialVectors(vectors[:NUM_TRAINED] + 1, counts, counts > 9, np.ones(len(vectors), np.float32))
    constants = RunConstants(initial, {"vectors": vectors[NUM_TRAINED:]}, np.arange(3, dtype=np.uint64))
    checkpoint = replace(checkpoint, weights=checkpoint.weights | {"vectors": vectors[:NUM_TRAINED]})
    save_checkpoint(tmp_path / "c", checkpoint, {"steps": np.array([1, 1])}, {"epochs": []}, constants=constants)
    return tmp_path / "c"


def tensor_file(name: str, dtype: str, shape: list[int], num_bytes: int) -> bytes:
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, num_bytes]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(num_bytes)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DEEP = 100_000
ALIASES = b"name: &name x\nstorage: *name\n"
HARM: dict[str, Callable[[Path], object]] = {
    "aliases": lambda folder: change_file(folder, "experiment.yaml", ALIASES),
    "deep settings": lambda folder: change_file(folder, "experiment.yaml", b"name: " + b"[" * DEEP + b"]" * DEEP),
    "long settings": lambda folder: change_file(folder, "experiment.yaml", b"#" * (5 << 20)),
    "settings that run code": lambda folder: change_file(
        folder, "experiment.yaml", f"!!python/object/apply:os.mkdir ['{folder.parent / 'harmed'}']".encode()
    ),
    "settings that are none": lambda folder: change_file(folder, "experiment.yaml", b"- 1"),
    "settings in another encoding": lambda folder: change_file(folder, "experiment.yaml", b"name: \xff"),
    "a long wrong value": lambda folder: change_file(folder, "experiment.yaml", b"seed: " + b"x" * 100_000),
    "a long number": lambda folder: change_file(folder, "experiment.yaml", b"seed: " + b"9" * 100_000),
    "deep labels": lambda folder: change_file(folder, "labels.json", b"[" * DEEP),
    "labels that are none": lambda folder: change_file(folder, "labels.json", b'{"a": 1}'),
    "equal labels": lambda folder: change_file(folder, "labels.json", b'["a", "a", "b"]'),
    "a number as a word": lambda folder: change_file(folder, "vocabulary.json", json.dumps([1, *WORDS[1:]]).encode()),
    "too few words": lambda folder: change_file(folder, "vocabulary.json", b'["a"]'),
    "deep metrics": lambda folder: change_file(folder, "metrics.json", b'{"rows":' * DEEP),
    "long metrics": lambda folder: change_file(folder, "metrics.json", b" " * (17 << 20) + b"{}"),
    "metrics that are none": lambda folder: change_file(folder, "metrics.json", b"[]"),
    "metrics of another type": lambda folder: change_file(folder, "metrics.json", b'{"rows": "many"}'),
    "a temperature of 0": lambda folder: change_file(
        folder, "metrics.json", json.dumps(METRICS | {"temperature": 0}).encode()
    ),
    **{
        f"abstention {abstention}": lambda folder, abstention=abstention: change_file(
            folder, "metrics.json", json.dumps(METRICS | {"abstention": abstention}).encode()
        )
        for abstention in (
            [],
            {"thresholds": [0.5]},
            {"thresholds": {"retention": "x"}},
            {"thresholds": {"retention": float("nan")}},
            {"thresholds": {}, "out_of_scope": 3},
            {"thresholds": {}, "out_of_scope": -1},
        )
    },
    "deep manifest": lambda folder: (folder / "manifest.json").write_text('{"files":' * DEEP),
    "long manifest": lambda folder: (folder / "manifest.json").write_text(" " * (17 << 20)),
    "a manifest that is a pipe": lambda folder: replace_by_pipe(folder / "manifest.json"),
    "a manifest of numbers": lambda folder: (folder / "manifest.json").write_text('{"format": 2, "files": [1]}'),
    "numbers that numpy lacks": lambda folder: change_file(
        folder, "weights.safetensors", tensor_file("vectors", "BF16", [2], 4)
    ),
    "small numbers": lambda folder: change_file(
        folder, "weights.safetensors", tensor_file("vectors", "F8_E4M3", [4], 4)
    ),
    "quantized vectors without a scale": lambda folder: change_file(
        folder, "weights.safetensors", tensor_file("vectors.codes", "U8", [4, 1], 4)
    ),
    "no vectors": lambda folder: change_file(folder, "weights.safetensors", tensor_file("other", "F32", [1], 4)),
    "vectors of another size": lambda folder: change_file(
        folder, "untrained.safetensors", tensor_file("vectors", "F32", [4, 1], 16)
    ),
    "vectors without those of the other channel": lambda folder: change_file(
        folder, "untrained.safetensors", tensor_file("other", "F32", [1], 4)
    ),
}


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    """The commands that open a checkpoint; CHECKPOINT is its place."""
    (tmp_path / "rows.csv").write_text("text,label\nword1 word2,a\n")
    rows, out = str(tmp_path / "rows.csv"), str(tmp_path / "out")
    return [
        ["evaluate", "CHECKPOINT", rows, "--out", out],
        ["evaluate", "CHECKPOINT", f"data.test={rows}", "--out", out],
        ["predict", "CHECKPOINT", rows],
        ["predict", "CHECKPOINT", "word1"],
        ["vectors", "export", "CHECKPOINT", f"{out}.bin"],
        ["vectors", "drift", "CHECKPOINT", "--out", out],
    ]


def test_a_harmless_checkpoint_is_accepted_by_every_command(folder: Path, commands: list[list[str]]) -> None:
    """Otherwise the other tests here would show nothing."""
    for command in commands:
        assert main([str(folder) if word == "CHECKPOINT" else word for word in command]) == 0
    load_models(parse_user_config({"checkpoint": str(folder)}))
    assert load_training_state(folder).progress == {"epochs": []}
    verify_checksums(str(folder))
    verify_sizes(str(folder))


@pytest.mark.parametrize("harm", list(HARM))
def test_a_harmful_checkpoint_is_refused_by_every_command(
    folder: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    """Each error is one short line; nothing is written and no code is run."""
    HARM[harm](folder)
    for command in commands:
        assert main([str(folder) if word == "CHECKPOINT" else word for word in command]) == 2, command
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert len(error) < 2000
    with pytest.raises(UsageError):
        load_models(parse_user_config({"checkpoint": str(folder)}))
    assert sorted(os.listdir(folder.parent)) == ["c", "rows.csv"]


@pytest.mark.parametrize("name", ["manifest.json", "progress.json", "state.safetensors", "weights.safetensors"])
@pytest.mark.parametrize("content", [b'{"a":' * DEEP, b"[]", b"\xff"])
def test_harmful_files_are_not_resumed_from(folder: Path, name: str, content: bytes) -> None:
    """A damaged state is a CheckpointError, so that a run resumes from an earlier checkpoint."""
    if name == "manifest.json":
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            verify_sizes(str(folder))
    else:
        change_file(folder, name, content)
    if (name, content) != ("progress.json", b"[]"):
        with pytest.raises(CheckpointError):
            load_training_state(folder)


@pytest.mark.parametrize("content", ["[" * DEEP, " " * (17 << 20), "[1]", "null", '{"checkpoint": ["c"]}', "{"])
def test_a_harmful_best_json_is_refused_by_every_command(
    folder: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """The error is one line, and does not contain the file."""
    (folder.parent / "best.json").write_text(content)
    for command in commands:
        assert main([str(folder.parent) if word == "CHECKPOINT" else word for word in command]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert len(error) < 2000


def test_texts_up_to_the_limits_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are of bytes, by file."""
    size = (folder / "vocabulary.json").stat().st_size
    monkeypatch.setitem(checkpoint_files.MAX_TEXT_BYTES, "vocabulary.json", size)
    assert load_checkpoint(str(folder)).words == WORDS
    monkeypatch.setitem(checkpoint_files.MAX_TEXT_BYTES, "vocabulary.json", size - 1)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json: is longer than 2,\d+ bytes"):
        load_checkpoint(str(folder))
