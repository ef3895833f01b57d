"""Loading of the served checkpoints, and refusal of harmful ones."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster import UsageError
from jobs.model import checkpoint as checkpoint_module
from jobs.model.checkpoint import Checkpoint, save_checkpoint
from serving.web import served_models
from serving.web.served_models import load_models, parse_user_config
from tests.support.checkpoints import checkpoint_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    return tmp_path / "c"


def change_file(folder: Path, name: str, content: bytes) -> None:
    """Change a file of a checkpoint and its checksum in the manifest, like an attacker."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def make_tensor_file(shape: list[int], end: int) -> bytes:
    """Return a safetensors file that declares a tensor but has no data."""
    header = json.dumps({"vectors": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header


def fill_weights(folder: Path, name: str, value: float) -> None:
    """Set all elements of a tensor to a value."""
    checkpoint = checkpoint_of("rand")
    checkpoint.weights[name] = np.full_like(checkpoint.weights[name], value)
    shutil.rmtree(folder)
    save_checkpoint(folder, checkpoint)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)

HARM: dict[str, Callable[[Path], object]] = {
    "altered": lambda folder: (folder / "labels.json").write_text('["x"]'),
    "truncated": lambda folder: (folder / "weights.safetensors").write_bytes(b"x"),
    "incomplete": lambda folder: (folder / "vocabulary.json").unlink(),
    "newer format": lambda folder: (folder / "manifest.json").write_text('{"format": 99, "files": {}}'),
    "no manifest": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "giant shape": lambda folder: change_file(
        folder, "weights.safetensors", make_tensor_file([1 << 40, 1 << 20], 1 << 62)
    ),
    "giant shape without data": lambda folder: change_file(
        folder, "weights.safetensors", make_tensor_file([1 << 60, 0], 0)
    ),
    "giant header": lambda folder: change_file(folder, "weights.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
    "giant settings": lambda folder: change_file(
        folder, "experiment.yaml", b"model: {feature_maps: 1000000000, filter_widths: [1000000000]}"
    ),
    "settings that swell": lambda folder: change_file(folder, "experiment.yaml", BOMB.encode()),
    "settings that run code": lambda folder: change_file(
        folder, "experiment.yaml", f"name: !!python/object/apply:os.mkdir ['{folder.parent / 'harmed'}']".encode()
    ),
    "words that are none": lambda folder: change_file(folder, "vocabulary.json", b'{"a": 1}'),
    "weights that overflow": lambda folder: fill_weights(folder, "output.weight", 1e38),
    "deep lists": lambda folder: change_file(folder, "labels.json", b"[" * 200_000),
}


@pytest.mark.parametrize("harm", list(HARM))
def test_a_harmful_checkpoint_is_refused_with_a_reason(folder: Path, harm: str) -> None:
    """The error is short and names the checkpoint."""
    HARM[harm](folder)
    with pytest.raises(UsageError) as caught:
        load_models(parse_user_config({"checkpoint": str(folder)}))
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert not (folder.parent / "harmed").exists()


def test_a_best_json_can_name_only_a_checkpoint(tmp_path: Path) -> None:
    """Other folders are refused, and their content is not part of the error."""
    (tmp_path / "best.json").write_text('{"checkpoint": "../../../../../../etc"}')
    with pytest.raises(UsageError, match="manifest"):
        load_models(parse_user_config({"checkpoint": str(tmp_path)}))
    (tmp_path / "best.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="cannot be read"):
        load_models(parse_user_config({"checkpoint": str(tmp_path)}))


def test_a_loaded_checkpoint_is_not_read_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new candidate leaves the primary model as it is, unless its files have changed."""
    loaded_paths = []

    def load_checkpoint(path: str, *arguments: Any) -> Checkpoint:
        loaded_paths.append(path)
        return checkpoint_module.load_checkpoint(path, *arguments)

    monkeypatch.setattr(served_models, "load_checkpoint", load_checkpoint)
    before = load_models(parse_user_config({"checkpoint": str(folder)}))
    save_checkpoint(tmp_path / "d", checkpoint_of("static"))
    both = {"checkpoint": str(folder), "candidate": {"checkpoint": str(tmp_path / "d"), "weight": 0.2}}
    after = load_models(parse_user_config(both), before)
    assert after.primary is before.primary
    assert after.candidate is not None
    assert loaded_paths == [str(folder), str(tmp_path / "d")]
    shutil.rmtree(folder)
    save_checkpoint(folder, checkpoint_of("static"))
    assert load_models(parse_user_config(both), after).primary is not before.primary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda other: other.labels.__setitem__(0, "z"), "/d: its labels differ from those of "),
        (lambda other: None, "/d: assigns one label per text, or several, unlike the current checkpoint"),
    ],
)
def test_a_candidate_with_other_labels_is_refused_before_its_tensors_are_read(
    folder: Path, tmp_path: Path, change: Callable[[Checkpoint], None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service tries it again and again."""
    other = checkpoint_of("static", **{"data.multi_label": "assigns" in message})
    change(other)
    save_checkpoint(tmp_path / "d", other)
    before = load_models(parse_user_config({"checkpoint": str(folder)}))
    monkeypatch.setattr(checkpoint_module, "read_weights", None)
    config = {"checkpoint": str(folder), "candidate": {"checkpoint": str(tmp_path / "d"), "weight": 0.2}}
    models = load_models(parse_user_config(config), before)
    assert models.loaded() == (before.primary,)
    assert message in str(models.candidate_error)


def test_a_loaded_candidate_with_other_labels_than_a_new_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "d", checkpoint_of("static"))
    config = {"checkpoint": str(folder), "candidate": {"checkpoint": str(tmp_path / "d"), "weight": 0.2}}
    before = load_models(parse_user_config(config))
    assert before.candidate is not None
    other = checkpoint_of("static")
    other.labels[0] = "z"
    save_checkpoint(tmp_path / "e", other)
    models = load_models(parse_user_config(config | {"checkpoint": str(tmp_path / "e")}), before)
    assert models.loaded() == (models.primary,)
    assert "/d: its labels differ from those of " in str(models.candidate_error)


@pytest.mark.parametrize("is_loaded", [False, True])
def test_the_error_names_a_candidate_whose_path_begins_that_of_the_checkpoint(tmp_path: Path, is_loaded: bool) -> None:
    candidate, primary = str(tmp_path / "tickets"), str(tmp_path / "tickets-2" / "epoch-0001")
    save_checkpoint(Path(candidate), checkpoint_of("static"))
    other = checkpoint_of("static")
    other.labels[0] = "z"
    save_checkpoint(Path(primary), other)
    before = load_models(parse_user_config({"checkpoint": candidate})) if is_loaded else None
    config = {"checkpoint": primary, "candidate": {"checkpoint": candidate, "weight": 0.2}}
    error = load_models(parse_user_config(config), before).candidate_error
    assert str(error) == f"{candidate}: its labels differ from those of {primary}"


def test_a_candidate_is_refused_before_its_vocabulary_is_read(folder: Path, tmp_path: Path) -> None:
    other = checkpoint_of("static")
    other.labels[0] = "z"
    save_checkpoint(tmp_path / "d", other)
    (tmp_path / "d" / "vocabulary.json").unlink()
    config = {"checkpoint": str(folder), "candidate": {"checkpoint": str(tmp_path / "d"), "weight": 0.2}}
    assert "/d: its labels differ" in str(load_models(parse_user_config(config)).candidate_error)


def test_each_checkpoint_has_a_table_of_its_own(folder: Path, tmp_path: Path) -> None:
    """The memory limit is that of one checkpoint, not of a checkpoint and its candidate together."""
    save_checkpoint(tmp_path / "d", checkpoint_of("static"))
    limit = 20_000
    candidate = {"checkpoint": str(tmp_path / "d"), "weight": 0.2}
    models = load_models(parse_user_config({"checkpoint": str(folder), "candidate": candidate}), table_bytes=limit)
    tables = [model.classifier.table_bytes for model in models.loaded()]
    assert max(tables) <= limit < sum(tables)
