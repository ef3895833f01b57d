"""Upload of checkpoints to an S3-compatible store, which copies what a run does not change."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.storage import join, remove_folder, write_bytes
from jobs.model.checkpoint import (
    InitialVectors,
    RunConstants,
    load_checkpoint,
    load_initial_vectors,
    save_checkpoint,
    verify_checksums,
)
from jobs.model.checkpoint_uploads import upload_checkpoint
from tests.s3_server import BUCKET, S3Server, run_s3_server
from tests.support.checkpoints import checkpoint_of

NUM_TRAINED = 20
NUM_WORDS = 3000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with run_s3_server() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        yield server


def make_constants(seed: int) -> RunConstants:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(NUM_WORDS, 12)).astype(np.float32)
    counts = np.arange(NUM_TRAINED)
    initial = InitialVectors(vectors[:NUM_TRAINED], counts, counts > 9, np.ones(NUM_WORDS, np.float32))
    return RunConstants(initial, {"vectors": vectors[NUM_TRAINED:]}, None)


def upload(target: str, constants: RunConstants, value: float) -> None:
    """Upload a checkpoint whose trained vectors all have this value."""
    checkpoint = checkpoint_of("non-static")
    trained = np.full((NUM_TRAINED, 12), value, np.float32)
    checkpoint = replace(checkpoint, weights=checkpoint.weights | {"vectors": trained})
    upload_checkpoint(target, lambda folder: save_checkpoint(folder, checkpoint, constants=constants))


def test_the_store_copies_what_does_not_change(server: S3Server) -> None:
    """No bytes of it are sent, and every checkpoint is complete, also after the others are removed."""
    constants, root = make_constants(0), f"s3://{BUCKET}/run"
    upload(f"{root}/epoch-0001", constants, 1)
    before = len(server.requests)
    sent_before = server.bytes_received
    assert sent_before > constants.untrained["vectors"].nbytes
    upload(f"{root}/epoch-0002", constants, 2)
    assert server.bytes_received - sent_before < 60_000 < constants.untrained["vectors"].nbytes
    assert any(path.endswith("epoch-0002/untrained.safetensors") for _, path in server.requests[before:])
    remove_folder(f"{root}/epoch-0001")
    verify_checksums(f"{root}/epoch-0002")
    loaded = load_checkpoint(f"{root}/epoch-0002").weights["vectors"]
    np.testing.assert_array_equal(loaded[:NUM_TRAINED], np.full((NUM_TRAINED, 12), 2))
    np.testing.assert_array_equal(loaded[NUM_TRAINED:], constants.untrained["vectors"])
    assert load_initial_vectors(f"{root}/epoch-0002") is not None


@pytest.mark.parametrize("damage", ["removed", "replaced", "refused"])
def test_what_cannot_be_copied_is_sent(server: S3Server, damage: str) -> None:
    """The earlier checkpoint was removed or altered, or the store refuses to copy."""
    constants, root = make_constants(1), f"s3://{BUCKET}/run"
    upload(f"{root}/epoch-0001", constants, 1)
    if damage == "removed":
        remove_folder(f"{root}/epoch-0001")
    elif damage == "replaced":
        write_bytes(join(root, "epoch-0001", "untrained.safetensors"), b"other")
    else:
        refused = iter([403])
        server.fault = lambda method, path: (
            next(refused, None) if method == "PUT" and path.endswith("untrained.safetensors") else None
        )
    upload(f"{root}/epoch-0002", constants, 2)
    verify_checksums(f"{root}/epoch-0002")


def test_a_file_that_the_store_does_not_describe_is_sent_again(server: S3Server) -> None:
    """The checkpoint is complete nevertheless."""
    constants, root = make_constants(4), f"s3://{BUCKET}/run"
    server.fault = lambda method, path: 403 if method == "HEAD" and path.endswith("untrained.safetensors") else None
    upload(f"{root}/epoch-0001", constants, 1)
    server.fault = None
    verify_checksums(f"{root}/epoch-0001")
    sent_before = server.bytes_received
    upload(f"{root}/epoch-0002", constants, 2)
    assert server.bytes_received - sent_before > constants.untrained["vectors"].nbytes
    verify_checksums(f"{root}/epoch-0002")


def test_the_files_of_another_run_are_not_copied(server: S3Server, tmp_path: Path) -> None:
    """Files are identified by their content."""
    root = f"s3://{BUCKET}/run"
    for seed in (2, 3):
        upload(f"{root}/epoch-{seed:04}", make_constants(seed), 1)
    vectors = load_checkpoint(f"{root}/epoch-0003").weights["vectors"]
    np.testing.assert_array_equal(vectors[NUM_TRAINED:], make_constants(3).untrained["vectors"])
