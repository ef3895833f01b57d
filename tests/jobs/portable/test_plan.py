"""Plans of quantize, export and push: what the command then writes, with its sizes."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import main
from jobs.model.checkpoint import save_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.hub_server import HubServer

# huggingface_hub calls its HTTP library in a way that is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a checkpoint."""
    save_checkpoint(tmp_path / "c", checkpoint_of("rand", name="tickets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    code = main([*words, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == (2 if "error" in result else 0), result
    return result


def list_sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [["quantize", "c", "new"], ["export", "c", "--browser", "new"], ["export", "c", "--onnx", "new/model.onnx"]],
    ids=["quantize", "browser", "onnx"],
)
def test_a_command_writes_what_its_plan_says(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = call(capsys, *words, "--dry-run")
    assert not (folder / "new").exists()
    assert [file["path"] for file in planned["reads"]] == [str(folder / "c")]
    result = call(capsys, *words)
    assert result["path"] == words[-1]
    sizes = list_sizes(folder / "new")
    assert {Path(file["path"]).name: file["bytes"] for file in planned["writes"]} == sizes
    if words[0] == "export":
        assert result["bytes"] == sum(sizes.values())
    error = call(capsys, *words)["error"]
    assert call(capsys, *words, "--dry-run")["error"] == error


@pytest.mark.parametrize("words", [["quantize", "c"], ["export", "c", "--browser"], ["export", "c", "--onnx"]])
def test_a_path_that_cannot_be_written_is_an_error_of_the_plan(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("")
    for command in ([*words, "file/new"], [*words, "file/new", "--dry-run"]):
        assert f"{folder / 'file'} is no folder that this user can write" in call(capsys, *command)["error"]


def test_a_quantized_copy_is_a_share_of_the_original(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = call(capsys, "quantize", "c", "new copy")
    names = ("labels.json", "vocabulary.json", "weights.safetensors")
    small, original = (sum(list_sizes(folder / path)[name] for name in names) for path in ("new copy", "c"))
    assert (result["bytes"], result["share"]) == (small, small / original)
    assert result["next"] == ["finetune-cnn evaluate 'new copy'"]


def test_push_uploads_what_its_plan_says(hub: HubServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a request, and with what is published of the training texts."""
    planned = call(capsys, "push", "c", "owner/tickets", "--private", "--dry-run")
    assert hub.requests == []
    assert planned["starts"] == {"repository": "owner/tickets", "branch": "main", "access_if_new": "private"}
    assert call(capsys, "push", "c", "owner/tickets", "--dry-run")["starts"]["access_if_new"] == "public"
    uses = {file["path"]: file["use"] for file in planned["writes"]}
    assert uses["hf://owner/tickets/vocabulary.json"] == "words of the training texts"
    result = call(capsys, "push", "c", "owner/tickets", "--private")
    sizes = {f"hf://owner/tickets/{name}": len(content) for name, content in hub.files("owner/tickets").items()}
    assert {file["path"]: file["bytes"] for file in planned["writes"]} == sizes
    assert result == {
        "commit_url": f"{hub.url}/owner/tickets/commit/{hub.repositories['owner/tickets'].resolve('main')}",
        "files": len(sizes), "bytes": sum(sizes.values()), "next": ["finetune-cnn serve hf://owner/tickets"],
    }  # fmt: skip
