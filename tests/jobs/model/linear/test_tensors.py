"""Tensors of the linear classifier: its words after a selection, and tensors that are refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.inference.classifier import Classifier
from jobs.inference.file_prediction import select_words
from jobs.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from jobs.model.linear.tensors import BIAS, PAIRS, SCALE, SQUARES, WEIGHT
from tests.support.checkpoints import WORDS, checkpoint_of

TEXTS = ["word3 word7 word3", "word199 word2 word190 word3", "", "unseen word7"]


def checkpoint_with(**changes: np.ndarray) -> Checkpoint:
    """Return a checkpoint with a linear classifier whose tensors are replaced, given by the end of their names."""
    checkpoint = checkpoint_of("rand", **{"model.linear": "words-and-pairs"})
    return replace(
        checkpoint, weights=checkpoint.weights | {f"linear.{name}": value for name, value in changes.items()}
    )


def test_selected_words_keep_their_scores() -> None:
    """A command that classifies few texts reads only the vectors of their words."""
    checkpoint = checkpoint_with()
    selected = select_words(checkpoint, TEXTS)
    assert len(selected.words) == 5
    assert 0 < len(selected.weights[PAIRS]) <= 4
    classifiers = [Classifier(part, 0, table_dtype="float32", share_table=False) for part in (selected, checkpoint)]
    logits = [classifier.predict_logits(TEXTS) for classifier in classifiers]
    np.testing.assert_allclose(*logits, atol=1e-5)


def damaged_tensors() -> dict[str, tuple[dict[str, np.ndarray], str]]:
    """Return tensors that a checkpoint must not have, and the error, by what is wrong with them."""
    weights = checkpoint_with().weights
    pairs, weight, squares = weights[PAIRS], weights[WEIGHT], weights[SQUARES]
    negative, padding, not_finite, tiny = squares.copy(), squares.copy(), weight.copy(), squares.copy()
    negative[5], padding[0], not_finite[7, 1], tiny[4] = -1, 1, np.nan, 1e-44
    unknown_word, huge = pairs.copy(), np.full(3, 3e38, np.float32)
    unknown_word[0, 0] = 1
    outside = pairs.copy()
    outside[-1] = len(WORDS) + 2
    return {
        "other classes": ({"weight": weight[:, :2].copy()}, "linear.weight is float32 of"),
        "too few rows": ({"weight": weight[:-1]}, "linear.weight is float32 of"),
        "no rows for pairs": ({"squares": squares[:10], "weight": weight[:10]}, "rows for -"),
        "more words than the vocabulary": (
            {"pairs": pairs[:0], "squares": squares, "weight": weight}, "the vocabulary has 202"
        ),
        "another type": ({"pairs": pairs.astype(np.int64)}, "linear.pairs is int64"),
        "a single column": ({"pairs": pairs[:, 0].copy()}, "linear.pairs is int32"),
        "descending": ({"pairs": pairs[::-1].copy()}, "not an ascending list"),
        "a pair of the unknown word": ({"pairs": unknown_word}, "not an ascending list"),
        "a word without a row": ({"pairs": outside}, "not an ascending list"),
        "negative squares": ({"squares": negative}, "negative values"),
        "a value of padding": ({"squares": padding}, "padding"),
        "a weight without a square": ({"squares": np.where(squares == squares[9], 0, squares)}, "whose linear.squares"),
        "not finite": ({"weight": not_finite}, "linear.weight holds values that are not finite"),
        "a negative scale": ({"scale": -np.ones(3, np.float32)}, "negative values"),
        "scales of other classes": ({"scale": np.ones(2, np.float32)}, "linear.scale is float32 of"),
        "a huge scale": ({"scale": huge}, "scores would not be finite"),
        "squares near 0": ({"squares": tiny, "weight": weight * 1e20}, "scores would not be finite"),
        "other biases": ({"bias": np.zeros(2, np.float32)}, "linear.bias is float32 of"),
    }  # fmt: skip


@pytest.mark.parametrize("damage", damaged_tensors())
def test_damaged_tensors_are_refused(damage: str) -> None:
    changes, message = damaged_tensors()[damage]
    with pytest.raises(CheckpointError, match=message):
        Classifier(checkpoint_with(**changes), 0, share_table=False)


@pytest.mark.parametrize("name", [PAIRS, WEIGHT, SQUARES, BIAS, SCALE])
def test_a_missing_tensor_is_an_error(name: str) -> None:
    checkpoint = checkpoint_with()
    del checkpoint.weights[name]
    with pytest.raises(CheckpointError, match=name):
        Classifier(checkpoint, 0, share_table=False)


def test_tensors_without_the_setting_are_an_error() -> None:
    """Kernels would read them unchecked, and an export would leave them out."""
    checkpoint = checkpoint_with()
    alone = replace(checkpoint, experiment=checkpoint.experiment.replace({"model.linear": "none"}))
    with pytest.raises(CheckpointError, match="the settings have no linear classifier"):
        Classifier(alone, 0, share_table=False)


def test_words_are_selected_of_valid_tensors_only() -> None:
    """A command that reads few texts selects their words before it builds the classifier."""
    checkpoint = checkpoint_with()
    del checkpoint.weights[SQUARES]
    with pytest.raises(CheckpointError, match=SQUARES):
        select_words(checkpoint, ["a text"])


def test_a_scale_of_an_earlier_version_is_that_of_all_classes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "earlier", checkpoint_with(scale=np.full(1, 0.7, np.float32)))
    loaded = load_checkpoint(str(tmp_path / "earlier"))
    expected = checkpoint_with(scale=np.full(3, 0.7, np.float32))
    assert loaded.weights.keys() == expected.weights.keys()
    for name, value in expected.weights.items():
        np.testing.assert_array_equal(loaded.weights[name], value, strict=True)
