"""Quantized checkpoints: a quarter of the size, and read as any other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.storage import StorageError
from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.estimator.training import build_memory_corpus
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint, verify_checksums
from jobs.model.linear.tensors import PAIRS, SQUARES
from jobs.portable.quantization import quantize_checkpoint
from jobs.training.continuation import load_start_weights
from jobs.training.loop import create_loop
from serving.web.served_models import load_models, parse_user_config
from tests.support.checkpoints import checkpoint_of
from tests.support.loops import train_checkpoint

TEXTS = ["word1 word2 word3 word4", "word7", "", "unknown word9", " ".join(f"word{number}" for number in range(50))]


def save(checkpoint: Checkpoint, folder: Path) -> str:
    save_checkpoint(folder, checkpoint)
    return str(folder)


def widen(checkpoint: Checkpoint, columns: int) -> Checkpoint:
    """Return a checkpoint with vectors and filters of as many times their dimensions."""
    names = ("vectors", "fixed_vectors")
    wide = {
        name: np.tile(value, (1, columns)) if name in names or name.startswith("filters") else value
        for name, value in checkpoint.weights.items()
    }
    return replace(checkpoint, weights=wide)


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_a_quantized_checkpoint_is_small_and_scores_nearly_the_same(tmp_path: Path, embedding: str) -> None:
    path = save(widen(checkpoint_of(embedding), 50), tmp_path / "c")
    share = quantize_checkpoint(path, str(tmp_path / "small"))
    assert share < 0.25
    verify_checksums(str(tmp_path / "small"))
    small, original = (load_checkpoint(str(tmp_path / name)) for name in ("small", "c"))
    assert {name: value.shape for name, value in small.weights.items()} == {
        name: value.shape for name, value in original.weights.items()
    }
    logits = [
        Classifier(checkpoint, table_dtype="float32", share_table=False).predict_logits(TEXTS)
        for checkpoint in (small, original)
    ]
    spread = np.ptp(logits[1], axis=0).mean()
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.05 * spread
    assert small.metrics["quantization"] == {"bits": 6, "words": 200, "manifest": original.manifest_sha256}


def test_words_beyond_the_limit_count_as_unknown(tmp_path: Path) -> None:
    path = save(checkpoint_of("non-static"), tmp_path / "c")
    quantize_checkpoint(path, str(tmp_path / "small"), max_words=20)
    small = load_checkpoint(str(tmp_path / "small"))
    assert small.words == [f"word{number}" for number in range(20)]
    classifier = Classifier(small, share_table=False)
    assert classifier.score_texts(["word3 word19 word20"])[1:] == (3, 1)


def test_the_linear_classifier_has_only_rows_of_the_remaining_words(tmp_path: Path) -> None:
    """Its weights have eight bits; scores are nearly those of the words that remain."""
    original = checkpoint_of("non-static", **{"model.linear": "words-and-pairs"})
    quantize_checkpoint(save(original, tmp_path / "c"), str(tmp_path / "small"), bits=8, max_words=20)
    small = load_checkpoint(str(tmp_path / "small"))
    assert len(small.weights[SQUARES]) - len(small.weights[PAIRS]) == 22
    assert 0 < len(small.weights[PAIRS]) < 20 * 20
    texts = ["word3 word19 word4", "word7 word2 word2"]
    logits = [Classifier(checkpoint, share_table=False).predict_logits(texts) for checkpoint in (small, original)]
    np.testing.assert_allclose(*logits, atol=0.1)


def test_the_service_reads_it_and_its_card_says_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are tested with the Hub (test_push.py)."""
    monkeypatch.chdir(tmp_path)
    save(checkpoint_of("non-static"), tmp_path / "c")
    assert main(["quantize", "c", "small", "--bits", "8"]) == 0
    assert "quantized to 8 bits" in Path("small/README.md").read_text()
    assert load_models(parse_user_config({"checkpoint": "small"})).primary.info["labels"] == ["a", "b", "c"]


def test_training_starts_from_it(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """From the numbers that it is read with."""
    experiment = make_experiment()
    train_checkpoint(experiment, tmp_path / "c", epochs=1)
    quantize_checkpoint(str(tmp_path / "c"), str(tmp_path / "small"))
    start = make_experiment(train__start_from=str(tmp_path / "small"))
    start, corpus = build_memory_corpus(start, load_dataset(start))
    loop, small = create_loop(start, corpus), load_checkpoint(str(tmp_path / "small"))
    load_start_weights(loop.network, corpus, small)
    weights = loop.network.weights()
    for name in ("filters.1", "output.weight"):
        np.testing.assert_array_equal(weights[name].numpy(), small.weights[name])
    assert not np.array_equal(small.weights["filters.1"], load_checkpoint(str(tmp_path / "c")).weights["filters.1"])


def test_its_tokenizer_need_not_be_installed(tmp_path: Path) -> None:
    """On the machine that quantizes."""
    path = save(checkpoint_of("rand", **{"text.tokenizer": "none_such"}), tmp_path / "c")
    assert quantize_checkpoint(path, str(tmp_path / "small")) < 1


def test_what_cannot_be_quantized_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(checkpoint_of("rand"), tmp_path / "c")
    Path("file").touch()
    with pytest.raises(StorageError, match="file is no folder that this user can write"):
        quantize_checkpoint("c", "file")
    with pytest.raises(StorageError, match="c: is not empty; name a new folder"):
        quantize_checkpoint("c", "c")
    quantize_checkpoint("c", "small")
    with pytest.raises(CheckpointError, match="small: is quantized; quantize the checkpoint that it was made of"):
        quantize_checkpoint("small", "smaller")
    assert main(["vectors", "export", "small", "vectors.bin"]) == 2
    assert "`quantize` or `push` left them out" in capsys.readouterr().err
    wrong = checkpoint_of("rand")
    save(replace(wrong, labels=["a", "b"]), tmp_path / "wrong")
    with pytest.raises(CheckpointError, match=r"output\.weight is float32"):
        quantize_checkpoint("wrong", "other")
    assert not Path("other").exists()
