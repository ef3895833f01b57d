"""Export of fine-tuned vectors to a file that gensim opens; the original file is unchanged."""

import dataclasses
import gzip
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors

from cluster.storage import StorageError
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.embeddings.word2vec import VectorsError
from jobs.evaluation.export import export_vectors
from jobs.model.checkpoint import (
    Checkpoint,
    InitialVectors,
    RunConstants,
    load_checkpoint,
    load_initial_vectors,
    save_checkpoint,
)
from jobs.training.corpora.building import build_corpus
from jobs.training.loop import create_loop
from jobs.training.run_files.snapshot import capture
from tests.support.stored_checkpoints import MakeFolder
from tests.support.toy_data import write_word2vec

ORIGINAL = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
TUNED = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A vectors file of the words the, New, film and rest."""
    return write_word2vec(tmp_path / "original.bin", ["the", "New", "film", "rest"], ORIGINAL)


@pytest.fixture
def saved(tmp_path: Path, original: Path) -> Callable[..., str]:
    """Make a checkpoint with the words film, new and naïve, and return its folder."""

    def make(**weights: np.ndarray) -> str:
        settings = {"vectors.path": str(original)}
        weights = weights or {"vectors": TUNED, "fixed_vectors": TUNED * 0}
        words = ["film", "new", "naïve"]
        checkpoint = Checkpoint(Experiment().replace(settings), ["a", "b"], words, weights, {})
        scale = np.ones(5, np.float32)
        if "vectors" in weights:  # film and new are in the training texts, but new's vector did not change
            before = np.stack([TUNED[0], TUNED[1], ORIGINAL[2], TUNED[3]])
            initial = InitialVectors(before, np.array([0, 0, 4, 2]), np.array([0, 0, 1, 1], bool), scale)
        else:
            initial = InitialVectors(TUNED[:0], np.zeros(0, int), np.zeros(0, bool), scale)
        constants = RunConstants(initial, {}, None, files=None)
        save_checkpoint(tmp_path / "checkpoint", checkpoint, constants=constants)
        return str(tmp_path / "checkpoint")

    return make


def open_vectors(path: Path) -> KeyedVectors:
    return KeyedVectors.load_word2vec_format(str(path), binary=True)


def test_gensim_opens_the_tuned_vectors(saved: Callable[..., str], original: Path, tmp_path: Path) -> None:
    """The exported vectors are those of the trained channel, bit for bit; the original file is unchanged."""
    before = hashlib.sha256(original.read_bytes()).digest()
    export_vectors(saved(), str(tmp_path / "out.bin"), None, False)
    vectors = open_vectors(tmp_path / "out.bin")
    assert vectors.index_to_key == ["film", "new", "naïve"]
    np.testing.assert_array_equal(vectors.vectors, TUNED[2:])
    assert hashlib.sha256(original.read_bytes()).digest() == before


@pytest.mark.parametrize("name", ["out.txt", "out.vec", "out.TXT.gz", "out.bin.gz", "out"])
@pytest.mark.parametrize("merge", [False, True])
def test_the_name_of_the_file_decides_its_form(
    saved: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, merge: bool
) -> None:
    """Text or binary, gzipped or not, at a path, in the home folder, or at a URI: gensim reads the same vectors."""
    monkeypatch.setenv("HOME", str(tmp_path))
    export_vectors(saved(), f"~/{name}", None, merge)
    is_text = ".txt" in name.lower() or ".vec" in name
    content = (tmp_path / name).read_bytes()
    assert content.startswith(b"\x1f\x8b") == name.endswith(".gz")
    plain = gzip.decompress(content) if name.endswith(".gz") else content
    assert plain.startswith(b"6 3\n" if merge else b"3 3\n")
    vectors = KeyedVectors.load_word2vec_format(str(tmp_path / name), binary=not is_text)
    np.testing.assert_array_equal(vectors["film"], TUNED[2])
    export_vectors(saved(), f"file://{tmp_path}/uri/{name}", None, merge)
    assert (tmp_path / "uri" / name).read_bytes() == content


def test_other_words_are_merged_unchanged(saved: Callable[..., str], original: Path, tmp_path: Path) -> None:
    """Words are in the original's order, with the tuned vectors; new words follow."""
    before = hashlib.sha256(original.read_bytes()).digest()
    export_vectors(saved(), str(tmp_path / "out.bin"), None, True)
    vectors = open_vectors(tmp_path / "out.bin")
    assert vectors.index_to_key == ["the", "New", "film", "rest", "new", "naïve"]
    np.testing.assert_array_equal(vectors.vectors, [*ORIGINAL[:2], TUNED[2], ORIGINAL[3], *TUNED[3:]])
    assert hashlib.sha256(original.read_bytes()).digest() == before


def test_the_original_is_never_overwritten(
    saved: Callable[..., str], original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original is recognized by any path or URI that leads to it."""
    before = original.read_bytes()
    link = tmp_path / "link.bin"
    link.symlink_to(original)
    for out in (original, link):
        with pytest.raises(VectorsError, match="is the file of the initial vectors"):
            export_vectors(saved(), str(out), None, True)
    other = write_word2vec(tmp_path / "other.bin", ["the"], ORIGINAL[:1])
    with pytest.raises(VectorsError, match="is the file of the initial vectors"):
        export_vectors(saved(), str(original), str(other), True)
    for name in (str(other), f"file://{other}", "~/other.bin"):
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(VectorsError, match="is the file of the initial vectors"):
            export_vectors(saved(), str(other), name, True)
    assert original.read_bytes() == before


def test_targets_and_originals_that_cannot_be_used_are_errors(saved: Callable[..., str], tmp_path: Path) -> None:
    """A folder, an unknown storage, the checkpoint, no word2vec file, an older checkpoint: nothing is written."""
    with pytest.raises(StorageError, match="is a folder; name a file"):
        export_vectors(saved(), str(tmp_path), None, False)
    with pytest.raises(StorageError, match=r"nosuch://bucket/x\.bin: the storage cannot be opened"):
        export_vectors(saved(), "nosuch://bucket/x.bin", None, False)
    with pytest.raises(VectorsError, match=r"x\.parquet: is written as word2vec; the name must end in \.bin"):
        export_vectors(saved(), str(tmp_path / "x.parquet"), None, False)
    weights = Path(saved(), "weights.safetensors")
    content = weights.read_bytes()
    with pytest.raises(StorageError, match="is in a checkpoint"):
        export_vectors(saved(), str(weights), None, False)
    assert weights.read_bytes() == content
    (tmp_path / "v.kv").write_bytes(pickle.dumps(1))
    with pytest.raises(VectorsError, match="only word2vec and GloVe files"):
        export_vectors(saved(), str(tmp_path / "out.bin"), str(tmp_path / "v.kv"), True)
    save_checkpoint(tmp_path / "old", load_checkpoint(saved()))
    with pytest.raises(VectorsError, match="an earlier version made it"):
        export_vectors(str(tmp_path / "old"), str(tmp_path / "out.bin"), None, False)
    assert not (tmp_path / "out.bin").exists()


def test_random_vectors_are_not_merged(saved: Callable[..., str], tmp_path: Path) -> None:
    """Random vectors have nothing to do with the vectors of the file."""
    loaded = load_checkpoint(saved())
    random = loaded.experiment.replace({"model.embedding": "rand"})
    constants = RunConstants(load_initial_vectors(saved()), {}, None, files=None)
    save_checkpoint(tmp_path / "rand", dataclasses.replace(loaded, experiment=random), constants=constants)
    with pytest.raises(VectorsError, match="no vector came from a file"):
        export_vectors(str(tmp_path / "rand"), str(tmp_path / "out.bin"), None, True)


def test_static_vectors_are_exported_with_a_note(
    saved: Callable[..., str], tmp_path: Path, messages: list[str]
) -> None:
    export_vectors(saved(fixed_vectors=TUNED), str(tmp_path / "out.bin"), None, False)
    assert "were not trained" in messages[0]
    assert len(open_vectors(tmp_path / "out.bin")) == 3


def test_an_original_that_does_not_fit_is_an_error(saved: Callable[..., str], tmp_path: Path) -> None:
    """The original has other dimensions, or is missing; nothing is written."""
    other = write_word2vec(tmp_path / "other.bin", ["a"], np.ones((1, 4), np.float32))
    with pytest.raises(VectorsError, match="has 4 dimensions, the checkpoint 3"):
        export_vectors(saved(), str(tmp_path / "out.bin"), str(other), True)
    with pytest.raises(VectorsError, match="no such vectors file"):
        export_vectors(saved(), str(tmp_path / "out.bin"), str(tmp_path / "none"), True)
    assert not (tmp_path / "out.bin").exists()


def test_vectors_are_exported_with_the_norms_of_the_file(
    make_experiment: Callable[..., Experiment], original: Path, tmp_path: Path
) -> None:
    """This holds for any norm in training; vectors that did not change are the original's, bit for bit when merged."""
    words = ["film", "great", "unseen", "elsewhere"]
    matrix = np.arange(1, 21, dtype=np.float32).reshape(4, 5)
    source = write_word2vec(tmp_path / "long.bin", words, matrix)
    experiment = make_experiment(
        model__embedding="non-static", vectors__path=str(source), vectors__norm=2.0, vectors__dimensions=5
    )
    corpus = build_corpus(experiment, load_dataset(experiment), use_pretrained=True)
    assert np.linalg.norm(corpus.vectors[2:], axis=1) == pytest.approx(2)
    loop = create_loop(experiment, corpus)
    next(loop.train_epochs())
    capture(experiment, corpus, loop, resumable=False)(tmp_path / "trained")
    export_vectors(str(tmp_path / "trained"), str(tmp_path / "out.bin"), None, False)
    export_vectors(str(tmp_path / "trained"), str(tmp_path / "merged.bin"), None, True)
    alone, merged = open_vectors(tmp_path / "out.bin"), open_vectors(tmp_path / "merged.bin")
    np.testing.assert_allclose(alone["unseen"], matrix[2], rtol=1e-5)
    np.testing.assert_array_equal(merged["unseen"], matrix[2])
    assert merged.index_to_key[:4] == words
    assert not np.array_equal(merged["film"], matrix[0])
    np.testing.assert_allclose(merged["film"], matrix[0], rtol=0.3)
    np.testing.assert_array_equal(merged["film"], alone["film"])


@pytest.mark.parametrize("format", ["auto", "keyed-vectors"])
def test_a_pickle_that_a_checkpoint_names_is_not_loaded(saved: Callable[..., str], tmp_path: Path, format: str) -> None:
    """Its code would run, although the user allowed none; a checkpoint may come from anywhere."""
    (tmp_path / "v.kv").write_bytes(pickle.dumps(MakeFolder(tmp_path / "harmed")))
    loaded = load_checkpoint(saved())
    hostile = {"vectors.path": str(tmp_path / "v.kv"), "vectors.allow_pickle": True, "vectors.format": format}
    constants = RunConstants(load_initial_vectors(saved()), {}, None, files=None)
    experiment = loaded.experiment.replace(hostile)
    save_checkpoint(tmp_path / "c", dataclasses.replace(loaded, experiment=experiment), constants=constants)
    with pytest.raises(VectorsError, match="only word2vec and GloVe files are read whole"):
        export_vectors(str(tmp_path / "c"), str(tmp_path / "out.bin"), None, True)
    assert not (tmp_path / "harmed").exists()
