"""Snapshots of a loop as checkpoints: what does not change in a run is stored once, and every copy is complete."""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from cluster import UsageError, __version__
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.embeddings.word2vec import write_binary
from jobs.evaluation.abstention import select_balanced_threshold, select_retention_threshold
from jobs.evaluation.metrics import LogitSample, fit_temperature
from jobs.inference.classifier import Classifier
from jobs.model import checkpoint_files
from jobs.model.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_initial_vectors,
    load_train_texts,
    load_training_state,
    verify_checksums,
)
from jobs.training.corpora.building import build_corpus
from jobs.training.loop import Loop, create_loop
from jobs.training.run_files import checkpoint_store
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.run_files.snapshot import VECTORS_DIGEST, capture, collect_versions, gather_weights, restore
from jobs.training.worker import resume
from tests.support.loops import make_loop
from tests.support.torch_network import predict_logits
from tests.support.toy_data import make_test_corpus, make_toy_rows

EXTRA_WORDS = [f"other{number}" for number in range(3000)]
SHARED_FILES = (
    "experiment.yaml", "initial.safetensors", "train-texts.safetensors", "untrained.safetensors", "vocabulary.json"
)  # fmt: skip


@pytest.fixture
def make_pretrained_loop(make_experiment: Callable[..., Experiment], tmp_path: Path) -> Callable[[str], Loop]:
    """Function that returns a loop whose vectors file has 3,000 words that are not in the training texts."""
    words = sorted({word for _, text in make_toy_rows(120) for word in text.split()} | set(EXTRA_WORDS))
    matrix = np.random.default_rng(0).normal(size=(len(words), 12)).astype(np.float32)
    with (tmp_path / "vectors.bin").open("wb") as stream:
        write_binary(stream, len(words), 12, zip(words, matrix, strict=True))

    def make(embedding: str) -> Loop:
        vectors = str(tmp_path / "vectors.bin")
        experiment = make_experiment(model__embedding=embedding, model__linear="none", vectors__path=vectors)
        return create_loop(experiment, build_corpus(experiment, load_dataset(experiment), use_pretrained=True))

    return make


def train_and_store(loop: Loop, experiment: Experiment, path: Path) -> dict[str, np.ndarray]:
    """Store a checkpoint of each of three epochs; return the weights after the last one."""
    store = CheckpointStore(str(path))
    weights: dict[str, np.ndarray] = {}
    for epoch, _ in loop.train_epochs():
        tensors = gather_weights(loop) | loop.network.vectors_by_channel()
        weights = {name: value.clone().numpy() for name, value in tensors.items()}
        store.write(checkpoint_name(epoch.epoch), capture(experiment, loop.corpus, loop, resumable=True), 1)
    return weights


@pytest.mark.parametrize("embedding", ["non-static", "static", "multichannel"])
def test_vectors_of_words_outside_the_texts_are_stored_once(
    make_pretrained_loop: Callable[[str], Loop],
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    embedding: str,
) -> None:
    """A copy of any checkpoint has all weights, bit for bit, also to resume; deleting another one changes nothing."""
    loop = make_pretrained_loop(embedding)
    expected = train_and_store(
        loop, make_experiment(model__embedding=embedding, model__linear="none"), tmp_path / "run"
    )
    first, second, last = sorted((tmp_path / "run").iterdir())
    for name in SHARED_FILES:
        assert (first / name).stat().st_ino == (second / name).stat().st_ino == (last / name).stat().st_ino
    vector_bytes = 4 * 12 * (len(loop.corpus.words) + 2)
    stored = sum(
        {path.stat().st_ino: path.stat().st_size for path in (tmp_path / "run").rglob("*.safetensors")}.values()
    )
    assert (last / "untrained.safetensors").stat().st_size < 1.1 * vector_bytes
    assert stored < 2 * vector_bytes
    shutil.copytree(last, tmp_path / "copy")
    shutil.rmtree(tmp_path / "run")
    for weights in (load_checkpoint(str(tmp_path / "copy")).weights, load_training_state(tmp_path / "copy").weights):
        assert weights.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(weights[name], value)
    initial = load_initial_vectors(str(tmp_path / "copy"))
    assert initial is not None
    np.testing.assert_array_equal(initial.counts, loop.corpus.word_counts()[: len(initial.vectors)])
    digests = load_train_texts(str(tmp_path / "copy"))
    assert digests is not None
    assert 0 < len(digests) <= len(loop.corpus.train)


def test_trials_share_what_their_training_does_not_change(
    make_pretrained_loop: Callable[[str], Loop], make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Trials with different embeddings share the vocabulary only, and every checkpoint is complete."""
    for number, embedding in enumerate(("non-static", "non-static", "static")):
        experiment = make_experiment(model__embedding=embedding, model__feature_maps=number + 2)
        train_and_store(make_pretrained_loop(embedding), experiment, tmp_path / "search" / f"trial-{number}")
    folders = [tmp_path / "search" / f"trial-{number}" / checkpoint_name(3) for number in range(3)]
    for name, num_files in {"untrained.safetensors": 2, "vocabulary.json": 1, "experiment.yaml": 3}.items():
        assert len({(folder / name).stat().st_ino for folder in folders}) == num_files
    shutil.rmtree(folders[0].parent)
    for folder in folders[1:]:
        verify_checksums(str(folder))


def test_a_file_system_without_links_stores_every_checkpoint_in_full(
    make_pretrained_loop: Callable[[str], Loop],
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A truncated file of another checkpoint is not linked either."""
    link = os.link

    def fail(*paths: Path) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", fail)
    loop = make_pretrained_loop("non-static")
    experiment = make_experiment(model__embedding="non-static")
    expected = train_and_store(loop, experiment, tmp_path / "run")
    folders = sorted((tmp_path / "run").iterdir())
    assert len({(folder / "untrained.safetensors").stat().st_ino for folder in folders}) == 3
    monkeypatch.setattr(os, "link", link)
    for folder in folders:
        (folder / "untrained.safetensors").write_bytes(b"")
    capture(experiment, loop.corpus, loop, resumable=False)(tmp_path / "run" / "other")
    np.testing.assert_array_equal(
        load_checkpoint(str(tmp_path / "run" / "other")).weights["vectors"], expected["vectors"]
    )


@pytest.mark.parametrize("name", [name for name in SHARED_FILES if name.endswith(".safetensors")])
def test_a_damaged_file_of_an_earlier_process_is_not_linked(
    make_pretrained_loop: Callable[[str], Loop], make_experiment: Callable[..., Experiment], tmp_path: Path, name: str
) -> None:
    """The checkpoints of a restarted run are complete; the damaged ones are recognized."""
    experiment = make_experiment(model__embedding="non-static")
    train_and_store(make_pretrained_loop("non-static"), experiment, tmp_path / "run")
    for number in range(8):  # the order in which the folders are listed does not matter
        damaged = tmp_path / "run" / f"epoch-copy-{number}"
        shutil.copytree(tmp_path / "run" / "epoch-0001", damaged)
        content = bytearray((damaged / name).read_bytes())
        content[-1] ^= 1
        (damaged / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} does not match the manifest"):
            verify_checksums(str(damaged))
    train_and_store(make_pretrained_loop("non-static"), experiment, tmp_path / "run")
    for epoch in (1, 2, 3):
        verify_checksums(str(tmp_path / "run" / checkpoint_name(epoch)))


def test_files_in_the_temporary_folder_are_not_linked(
    make_pretrained_loop: Callable[[str], Loop],
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another user may have written them; a checkpoint for an object store is written there before the upload."""
    loop, experiment = make_pretrained_loop("non-static"), make_experiment(model__embedding="non-static")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(checkpoint_store, "local_path", lambda path: None)  # as for an object store
    searched: list[Path] = []
    iglob = glob.iglob

    def record_iglob(pattern: str, *, root_dir: Path) -> Iterator[str]:
        searched.append(root_dir)
        return iglob(pattern, root_dir=root_dir)

    monkeypatch.setattr(glob, "iglob", record_iglob)
    store = CheckpointStore(f"file://{tmp_path}/run")
    store.write(checkpoint_name(1), capture(experiment, loop.corpus, loop, resumable=False), 1)
    assert store.has(checkpoint_name(1))
    assert searched
    assert temporary not in searched


@pytest.mark.parametrize("embedding", ["non-static", "static"])
def test_a_run_is_not_resumed_with_other_word_vectors(
    make_pretrained_loop: Callable[[str], Loop],
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    embedding: str,
) -> None:
    """The rows that training does not change would be the new ones. A state without the digest is resumed."""
    loop = make_pretrained_loop(embedding)
    train_and_store(loop, make_experiment(model__embedding=embedding, model__linear="none"), tmp_path / "run")
    store = CheckpointStore(str(tmp_path / "run"))
    resume(make_pretrained_loop(embedding), store)
    corpus = loop.corpus
    other = create_loop(
        make_experiment(model__embedding=embedding), replace(corpus, vectors=corpus.vectors[:, ::-1].copy())
    )
    with pytest.raises(UsageError, match=r"run: the run was started with other word vectors: .* delete the folder"):
        resume(other, store)
    state = load_training_state(tmp_path / "run" / checkpoint_name(3))
    del state.optimizer_state[VECTORS_DIGEST]
    restore(other, state)


def test_a_checkpoint_whose_vectors_are_all_trained_has_the_earlier_format(
    make_pretrained_loop: Callable[[str], Loop], make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Only a checkpoint with untrained vectors needs this version to be read."""
    loop = make_pretrained_loop("rand")
    experiment = make_experiment(model__linear="none")
    random = create_loop(experiment, build_corpus(experiment, load_dataset(experiment), use_pretrained=False))
    for name, trained, version in (("a", loop, 2), ("b", random, 1)):
        next(trained.train_epochs())
        capture(experiment, trained.corpus, trained, resumable=False)(tmp_path / name)
        assert json.loads((tmp_path / name / "manifest.json").read_text())["format"] == version
        assert version in checkpoint_files.READABLE_FORMATS


def test_the_versions_are_those_of_this_project_and_its_libraries() -> None:
    """And of the package of an installed tokenizer."""
    versions = collect_versions("unicode")
    assert versions["finetune-cnn"] == __version__
    assert {"python", "torch", "ray", "gensim", "numpy"} < versions.keys()
    assert collect_versions("jieba") == versions | {"jieba": metadata.version("jieba")}


def test_folders_that_vanish_while_files_are_shared_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial writes its best checkpoint while another thread writes the one it resumes from."""
    (tmp_path / ".epoch-0002.x.part").mkdir()
    scan = os.scandir

    def scan_without_parts(path: str = ".") -> Iterator[os.DirEntry[str]]:
        if str(path).endswith(".part"):
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_without_parts)
    files = checkpoint_files.SharedFiles()
    paths = [tmp_path / "unfinished" / f"epoch-000{number}" / "labels.json" for number in (1, 2)]
    for path in paths:
        path.parent.mkdir(parents=True)
        files.write(path, lambda path: checkpoint_files.write_json(path, ["a"]))
    assert paths[0].stat().st_ino == paths[1].stat().st_ino


def test_a_checkpoint_of_an_epoch_has_the_temperature_of_its_validation_part(
    make_experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One within an epoch has none; a setting replaces the fitted one, and only for a checkpoint one is fitted."""
    experiment = make_experiment(train__epochs=2, train__batch_size=2)
    loop = make_loop(experiment)
    for number, epoch in enumerate(loop.train_with_intervals(interval_s=0)):
        folder = tmp_path / f"{number}"
        capture(experiment, loop.corpus, loop, resumable=False)(folder)
        temperature = load_checkpoint(str(folder)).metrics.get("temperature")
        if epoch is None:
            assert temperature is None
            continue
        validation = loop.corpus.validation
        logits = predict_logits(loop.network, validation.tokens).numpy()
        assert temperature == pytest.approx(fit_temperature(logits, validation.labels), rel=1e-4)
        assert temperature != 1
    monkeypatch.delattr(LogitSample, "fit_temperature")
    list(make_loop(experiment).train_epochs())
    fixed = experiment.replace({"train.temperature": 1.5})
    capture(fixed, loop.corpus, loop, resumable=False)(tmp_path / "fixed")
    assert load_checkpoint(str(tmp_path / "fixed")).temperature == 1.5


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_a_restored_state_that_is_saved_again_has_the_same_metrics(
    make_experiment: Callable[..., Experiment], tmp_path: Path, is_multi_label: bool
) -> None:
    """Intervals of F1, temperature, thresholds, distribution: a trial may be paused twice without an epoch between."""
    own = {"data.multi_label": True, "data.label_separator": ";", "train.metric": "micro_f1"} if is_multi_label else {}
    experiment = make_experiment(**own)
    first, second = make_loop(experiment), make_loop(experiment)
    next(first.train_epochs())
    capture(experiment, first.corpus, first, resumable=True)(tmp_path / "first")
    restore(second, load_training_state(tmp_path / "first"))
    capture(experiment, second.corpus, second, resumable=True)(tmp_path / "second")
    metrics = load_checkpoint(str(tmp_path / "first")).metrics
    assert load_checkpoint(str(tmp_path / "second")).metrics == metrics
    assert {"macro_f1_interval", "temperature", "label_thresholds" if is_multi_label else "abstention"} <= set(metrics)
    for _ in first.train_epochs():
        pass
    restore(first, load_training_state(tmp_path / "first"))  # the scores of the last epoch are not those of this state
    capture(experiment, first.corpus, first, resumable=True)(tmp_path / "third")
    assert load_checkpoint(str(tmp_path / "third")).metrics == metrics


def test_a_checkpoint_of_an_epoch_has_the_thresholds_of_its_validation_part(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Those of the classifier's own scores on the validation rows and on the out-of-scope texts."""
    others = tmp_path / "other.csv"
    others.write_text("text\n" + "the weather is a cold story\nmusic\nwarm and cold\n" * 4)
    settings = {"data__out_of_scope": str(others), "data__out_of_scope_use": "threshold", "data__validation_share": 0.3}
    experiment = make_experiment(train__epochs=1, **settings)
    loop = make_loop(experiment)
    list(loop.train_epochs())
    capture(experiment, loop.corpus, loop, resumable=False)(tmp_path / "checkpoint")
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint"))
    dataset = load_dataset(experiment)
    classifier = Classifier(checkpoint, share_table=False)
    scores = classifier.predict_proba(dataset.validation.texts).max(axis=1)
    correct = np.array(classifier.predict(dataset.validation.texts)) == np.array(dataset.validation.labels)
    assert dataset.out_of_scope is not None
    other_scores = classifier.predict_proba(dataset.out_of_scope.texts).max(axis=1)
    abstention = checkpoint.metrics["abstention"]
    assert (abstention["rows"], abstention["out_of_scope_rows"]) == (len(scores), 12)
    assert abstention["thresholds"]["retention"] == pytest.approx(select_retention_threshold(scores, 0.95), abs=1e-5)
    balanced = select_balanced_threshold(scores, correct, other_scores)
    assert (abstention["thresholds"]["balanced"], abstention["balanced_accuracy"]) == pytest.approx(balanced, abs=1e-5)
    plain = make_test_corpus(make_experiment(data__validation_share=0.3))
    assert plain.key != loop.corpus.key
