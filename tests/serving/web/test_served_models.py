"""Which checkpoints are taken, and which are refused."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster import UsageError
from jobs.model.checkpoint import save_checkpoint
from serving.web.served_models import load_models, parse_user_config
from tests.support.checkpoints import checkpoint_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    return tmp_path / "c"


def changed(folder: Path, name: str, content: bytes) -> None:
    """Change a file of a checkpoint, and the manifest with it, as who wants to do harm would."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def tensors(shape: list[int], end: int) -> bytes:
    """Return a safetensors file that declares a tensor and holds no data."""
    header = json.dumps({"vectors": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
    return struct.pack("<Q", len(header)) + header


def with_weights(folder: Path, name: str, value: float) -> None:
    """Give all elements of a tensor a value."""
    checkpoint = checkpoint_of("rand")
    checkpoint.weights[name] = np.full_like(checkpoint.weights[name], value)
    shutil.rmtree(folder)
    save_checkpoint(folder, checkpoint)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)

HARM: dict[str, Callable[[Path], object]] = {
    "altered": lambda folder: (folder / "labels.json").write_text('["x"]'),
    "cut off": lambda folder: (folder / "weights.safetensors").write_bytes(b"x"),
    "incomplete": lambda folder: (folder / "vocabulary.json").unlink(),
    "newer format": lambda folder: (folder / "manifest.json").write_text('{"format": 99, "files": {}}'),
    "no manifest": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "giant shape": lambda folder: changed(folder, "weights.safetensors", tensors([1 << 40, 1 << 20], 1 << 62)),
    "giant shape without data": lambda folder: changed(folder, "weights.safetensors", tensors([1 << 60, 0], 0)),
    "giant header": lambda folder: changed(folder, "weights.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
    "giant settings": lambda folder: changed(
        folder, "experiment.yaml", b"model: {feature_maps: 1000000000, filter_widths: [1000000000]}"
    ),
    "settings that swell": lambda folder: changed(folder, "experiment.yaml", BOMB.encode()),
    "settings that run code": lambda folder: changed(
        folder, "experiment.yaml", b"name: !!python/object/apply:os.system ['touch /tmp/harmed']"
    ),
    "words that are none": lambda folder: changed(folder, "vocabulary.json", b'{"a": 1}'),
    "a half of a letter": lambda folder: changed(
        folder, "vocabulary.json", json.dumps(["\ud800", *(f"word{number}" for number in range(199))]).encode()
    ),
    "weights that overflow": lambda folder: with_weights(folder, "output.weight", 1e38),
    "deep lists": lambda folder: changed(folder, "labels.json", b"[" * 200_000),
}


@pytest.mark.parametrize("harm", list(HARM))
def test_a_checkpoint_that_does_harm_is_refused_with_a_reason(folder: Path, harm: str) -> None:
    """Quickly, and with an error that is no traceback."""
    HARM[harm](folder)
    with pytest.raises(UsageError) as caught:
        load_models(parse_user_config({"checkpoint": str(folder)}))
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_a_best_json_names_only_a_checkpoint(tmp_path: Path) -> None:
    """What lies elsewhere and is none is refused, and not told."""
    (tmp_path / "best.json").write_text('{"checkpoint": "../../../../../../etc"}')
    with pytest.raises(UsageError, match="manifest"):
        load_models(parse_user_config({"checkpoint": str(tmp_path)}))
    (tmp_path / "best.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="cannot be read"):
        load_models(parse_user_config({"checkpoint": str(tmp_path)}))


def test_what_is_loaded_is_not_read_again(folder: Path, tmp_path: Path) -> None:
    """A new candidate leaves the main model as it is; one with other labels is refused."""
    before = load_models(parse_user_config({"checkpoint": str(folder)}))
    other = checkpoint_of("static")
    save_checkpoint(tmp_path / "d", other)
    both = {"checkpoint": str(folder), "candidate": {"checkpoint": str(tmp_path / "d"), "weight": 0.2}}
    after = load_models(parse_user_config(both), before)
    assert after.primary is before.primary
    assert after.candidate is not None
    other.labels[0] = "z"
    save_checkpoint(tmp_path / "e", other)
    with pytest.raises(UsageError, match="has other labels"):
        load_models(parse_user_config(both | {"candidate": {"checkpoint": str(tmp_path / "e"), "weight": 0.2}}))


def test_each_checkpoint_has_a_table_of_its_own(folder: Path, tmp_path: Path) -> None:
    """The limit of its memory is that of one, not of a checkpoint and its candidate together."""
    save_checkpoint(tmp_path / "d", checkpoint_of("static"))
    limit = 20_000
    candidate = {"checkpoint": str(tmp_path / "d"), "weight": 0.2}
    found = load_models(parse_user_config({"checkpoint": str(folder), "candidate": candidate}), table_bytes=limit)
    assert found.candidate is not None
    tables = [each.classifier.table_bytes for each in (found.primary, found.candidate)]
    assert max(tables) <= limit < sum(tables)
