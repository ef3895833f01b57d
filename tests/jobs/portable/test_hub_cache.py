"""Checkpoints in the cache of huggingface_hub: what is asked of the Hub, and when the cache is used instead."""

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import enable_progress_bars

from cluster.storage import StorageError
from jobs.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from jobs.portable.push import push_checkpoint
from tests.support.checkpoints import checkpoint_of
from tests.support.hub_server import HubServer, Repository

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

NAME = "owner/tickets"
URI = f"hf://{NAME}@v1"


@pytest.fixture
def repository(hub: HubServer, tmp_path: Path) -> Repository:
    """A repository whose tag v1 is in the cache."""
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    push_checkpoint(str(tmp_path / "c"), NAME)
    repository = hub.repositories[NAME]
    repository.tags["v1"] = next(reversed(repository.commits))
    load_checkpoint(URI)
    hub.requests.clear()
    return repository


def test_a_tag_that_was_withdrawn_is_not_loaded_from_the_cache(repository: Repository) -> None:
    commit = repository.tags.pop("v1")
    with pytest.raises(StorageError, match=f"{URI}: the repository has no revision 'v1'"):
        load_checkpoint(URI)
    assert load_checkpoint(f"hf://{NAME}@{commit}").path == f"hf://{NAME}@{commit}"


@pytest.mark.parametrize("reason", ["no network", "no access"])
def test_a_hub_that_is_not_reached_or_refuses_access_is_one_warning(
    hub: HubServer,
    repository: Repository,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the commit that is used."""
    if reason == "no access":
        hub.repositories.clear()
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    caplog.set_level(logging.WARNING, "jobs")
    commit = repository.tags["v1"]
    assert load_checkpoint(URI).path == f"hf://{NAME}@{commit}"
    [message] = [record.getMessage() for record in caplog.records if record.name.startswith("jobs")]
    assert message.startswith(f"{URI}: ")
    assert message.endswith(f"; using commit {commit} of the cache")


def test_a_proxy_that_fails_is_an_error(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a reason to load what is in the cache."""
    import httpx2

    def fail(*_: object, **__: object) -> Any:
        raise httpx2.ProxyError("407 Proxy Authentication Required")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", fail)
    with pytest.raises(StorageError, match=f"{URI}: cannot be downloaded: 407 Proxy"):
        load_checkpoint(URI)


def test_a_cached_checkpoint_is_listed_once_and_shows_no_progress(
    hub: HubServer, repository: Repository, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A commit is not looked up at all."""
    calls = []
    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *words, **options: (calls.append(options), download(*words, **options))[1],
    )
    enable_progress_bars()
    commit = load_checkpoint(URI).path
    assert [call["dry_run"] for call in calls] == [True]
    assert hub.requests == [f"GET /api/models/{NAME}/revision/v1"]
    load_checkpoint(commit)
    assert len(calls) == 1
    repository.commit({"README.md": b"another"})
    load_checkpoint(f"hf://{NAME}")
    assert len(calls) == 4
    assert capfd.readouterr().err == ""


def test_an_incomplete_checkpoint_in_the_cache_is_completed(repository: Repository, tmp_path: Path) -> None:
    """As an interrupted download leaves it."""
    [weights] = (tmp_path / "hub-cache").rglob("snapshots/*/weights.safetensors")
    weights.unlink()
    load_checkpoint(f"hf://{NAME}@{repository.tags['v1']}")
    assert weights.is_file()


def test_a_file_of_unknown_size_is_not_downloaded(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    push_checkpoint(str(tmp_path / "c"), NAME)
    download = huggingface_hub.snapshot_download

    def list_without_sizes(*words: Any, **options: Any) -> Any:
        files = download(*words, **options)
        for file in files:
            file.file_size = None
        return files

    monkeypatch.setattr(huggingface_hub, "snapshot_download", list_without_sizes)
    with pytest.raises(CheckpointError, match=r"hf://owner/tickets@\w{40}: .*: the Hub does not know its size"):
        load_checkpoint(f"hf://{NAME}")
