"""Checkpoints at a URI of an S3-compatible store: what is read of them, and errors of their files."""

from collections.abc import Iterator

import numpy as np
import pytest

from cluster.storage import join, remove_file, write_bytes, write_text
from jobs.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, verify_checksums
from jobs.model.checkpoint_leases import write_lease
from jobs.model.checkpoint_uploads import upload_checkpoint
from tests.s3_server import BUCKET, S3Server, run_s3_server
from tests.support.checkpoints import checkpoint_of

LOCATION = f"s3://{BUCKET}/run/epoch-0001"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server with a checkpoint that a run could resume from, and that a service uses."""
    with run_s3_server() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        state = {"moments": np.zeros(1_000_000, np.float32)}
        upload_checkpoint(
            LOCATION, lambda folder: save_checkpoint(folder, checkpoint_of("non-static"), state, {"epoch": 1})
        )
        write_lease(LOCATION, "service", {})
        server.requests.clear()
        yield server


def list_reads(server: S3Server) -> set[str]:
    """Return the names of the files whose content was requested."""
    return {path.rpartition("/")[2] for method, path in server.requests if method == "GET" and "epoch-0001/" in path}


def test_only_what_classification_needs_is_read(server: S3Server) -> None:
    """Not the state to resume from, which is the largest file, nor a lease, which may appear or disappear."""
    checkpoint = load_checkpoint(LOCATION)
    assert checkpoint.labels == checkpoint_of("non-static").labels
    needed = {
        "manifest.json", "experiment.yaml", "labels.json", "metrics.json", "vocabulary.json", "weights.safetensors",
    }  # fmt: skip
    assert list_reads(server) == needed
    server.requests.clear()
    verify_checksums(LOCATION)
    assert list_reads(server) == needed


def test_of_a_refused_checkpoint_only_what_decides_is_read(server: S3Server) -> None:
    """A service tries a candidate again and again."""

    def refuse(labels: list[str], is_multi_label: bool) -> None:
        raise CheckpointError("its labels differ")

    with pytest.raises(CheckpointError, match=f"^{LOCATION}: its labels differ$"):
        load_checkpoint(LOCATION, refuse)
    assert list_reads(server) == {"manifest.json", "experiment.yaml", "labels.json"}


def test_a_damaged_file_is_an_error(server: S3Server) -> None:
    """It is compared with the manifest; a missing one and storage without a response are other errors."""
    write_bytes(join(LOCATION, "weights.safetensors"), b"")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors does not match the manifest"):
        load_checkpoint(LOCATION)
    remove_file(join(LOCATION, "weights.safetensors"))
    with pytest.raises(CheckpointError, match=f"^{LOCATION}: lacks weights.safetensors$"):
        load_checkpoint(LOCATION)
    write_text(join(LOCATION, "labels.json"), "[]")
    with pytest.raises(CheckpointError, match=r"labels\.json does not match the manifest"):
        load_checkpoint(LOCATION)
    server.fault = lambda method, path: 403 if path.endswith("/experiment.yaml") else None
    with pytest.raises(CheckpointError, match=f"^{LOCATION}: cannot be read: .*ACCESS_DENIED"):
        load_checkpoint(LOCATION)
