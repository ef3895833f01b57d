"""Fine-tuned vectors as a file that gensim opens; the original stays as it was."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors

from jobs.checkpoint import Checkpoint, write
from jobs.experiment import Experiment
from jobs.export import export
from jobs.word2vec import VectorsError
from tests.conftest import write_word2vec

ORIGINAL = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
TUNED = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """Vectors of the, New, film, rest."""
    return write_word2vec(tmp_path / "original.bin", ["the", "New", "film", "rest"], ORIGINAL)


@pytest.fixture
def saved(tmp_path: Path, original: Path) -> Callable[..., str]:
    """Make a checkpoint with film, new, naïve; returns its folder."""

    def make(**weights: np.ndarray) -> str:
        settings = {"vectors.path": str(original)}
        weights = weights or {"vectors": TUNED, "fixed_vectors": TUNED * 0}
        found = Checkpoint(Experiment().replace(settings), ["a", "b"], ["film", "new", "naïve"], weights, {})
        write(tmp_path / "checkpoint", found)
        return str(tmp_path / "checkpoint")

    return make


def opened(path: Path) -> KeyedVectors:
    return KeyedVectors.load_word2vec_format(str(path), binary=True)


def test_gensim_opens_the_tuned_vectors(saved: Callable[..., str], original: Path, tmp_path: Path) -> None:
    """The trained channel's, bit for bit; the file they came from is not touched."""
    before = hashlib.sha256(original.read_bytes()).digest()
    export(saved(), str(tmp_path / "out.bin"), None, False, print)
    found = opened(tmp_path / "out.bin")
    assert found.index_to_key == ["film", "new", "naïve"]
    np.testing.assert_array_equal(found.vectors, TUNED[2:])
    assert hashlib.sha256(original.read_bytes()).digest() == before


def test_the_others_are_merged_as_they_are(saved: Callable[..., str], original: Path, tmp_path: Path) -> None:
    """In the original's order, tuned words in their place, new ones behind."""
    before = hashlib.sha256(original.read_bytes()).digest()
    export(saved(), str(tmp_path / "out.bin"), None, True, print)
    found = opened(tmp_path / "out.bin")
    assert found.index_to_key == ["the", "New", "film", "rest", "new", "naïve"]
    np.testing.assert_array_equal(found.vectors, [*ORIGINAL[:2], TUNED[2], ORIGINAL[3], *TUNED[3:]])
    assert hashlib.sha256(original.read_bytes()).digest() == before


def test_the_original_is_never_written_over(saved: Callable[..., str], original: Path, tmp_path: Path) -> None:
    """Under whatever name it is given."""
    before = original.read_bytes()
    link = tmp_path / "link.bin"
    link.symlink_to(original)
    for out in (original, link):
        with pytest.raises(VectorsError, match="is the file that the vectors started from"):
            export(saved(), str(out), None, True, print)
    assert original.read_bytes() == before


def test_static_vectors_are_said_to_be_the_original_ones(saved: Callable[..., str], tmp_path: Path) -> None:
    """They can be exported all the same."""
    told: list[str] = []
    export(saved(fixed_vectors=TUNED), str(tmp_path / "out.bin"), None, False, told.append)
    assert "were not trained" in told[0]
    assert len(opened(tmp_path / "out.bin")) == 3


def test_an_original_that_does_not_fit_is_an_error(saved: Callable[..., str], tmp_path: Path) -> None:
    """Of other dimensions, or missing; nothing is written."""
    other = write_word2vec(tmp_path / "other.bin", ["a"], np.ones((1, 4), np.float32))
    with pytest.raises(VectorsError, match="has 4 dimensions, the checkpoint 3"):
        export(saved(), str(tmp_path / "out.bin"), str(other), True, print)
    with pytest.raises(VectorsError, match="no such vectors file"):
        export(saved(), str(tmp_path / "out.bin"), str(tmp_path / "none"), True, print)
    assert not (tmp_path / "out.bin").exists()
