"""Weights of a linear classifier: one verified file on a machine for all processes, next to the projection table."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobs.inference import linear_weights
from jobs.inference.classifier import Classifier
from jobs.inference.linear_weights import LinearWeights
from jobs.model.linear.tensors import SCALE, SQUARES, WEIGHT
from tests.support.checkpoints import WORDS, checkpoint_of

CHECKPOINT = checkpoint_of("rand", **{"model.linear": "words-and-pairs"})
TEXTS = ["", "word3", *(" ".join(WORDS[start : start + 30]) for start in range(0, 60, 7))]
ARRAYS = ("rows", "pairs", "filter")


def test_processes_share_all_that_grows_with_the_vocabulary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one maps the file of the first, which begins each array with a cache line; scores are those without.

    A checkpoint of the same run has another scale and the same file.
    """
    expected = Classifier(CHECKPOINT, share_table=False)
    assert list(folder.iterdir()) == []
    first = Classifier(CHECKPOINT)
    monkeypatch.setattr(linear_weights, "build_arrays", pytest.fail)
    second = Classifier(replace(CHECKPOINT, weights=CHECKPOINT.weights | {SCALE: np.full(3, 2, np.float32)}))
    for classifier in (first, second):
        for name in ARRAYS:
            array = getattr(classifier.linear, name)
            assert isinstance(array, np.memmap)
            assert not array.flags.writeable
            assert array.ctypes.data % 64 == 0
            np.testing.assert_array_equal(array, getattr(expected.linear, name))
    np.testing.assert_array_equal(first.predict_logits(TEXTS), expected.predict_logits(TEXTS))
    assert np.abs(second.predict_logits(TEXTS) - first.predict_logits(TEXTS)).max() > 0.1
    assert sorted(path.suffix for path in folder.iterdir()) == [".linear", ".table"]
    assert first.memory_bytes == expected.memory_bytes
    alone = Classifier(checkpoint_of("rand"), share_table=False)
    linear_bytes = sum(getattr(first.linear, name).nbytes for name in ARRAYS)
    assert 0 <= first.memory_bytes - alone.memory_bytes - linear_bytes < 200


def test_the_rows_have_the_type_of_the_table(folder: Path) -> None:
    """Each class has its own scale; int16 takes half of the memory. Each type has a file of its own."""
    scaled = CHECKPOINT.weights[WEIGHT] * np.array([1, 100, 0], np.float32)
    checkpoint = replace(CHECKPOINT, weights=CHECKPOINT.weights | {WEIGHT: scaled})
    small, whole = (LinearWeights(checkpoint, dtype, share=True) for dtype in ("int16", "float32"))
    assert len(list(folder.iterdir())) == 2
    assert (small.rows.dtype, whole.rows.dtype) == (np.int16, np.float32)
    assert small.rows.nbytes == whole.rows.nbytes / 2
    rows = np.arange(len(scaled))
    squares, weights = whole.read_rows(rows)
    np.testing.assert_array_equal(squares, small.read_rows(rows)[0])
    np.testing.assert_array_equal(squares, checkpoint.weights[SQUARES])
    np.testing.assert_allclose(weights, [1.5, 1, 0.5] * scaled, rtol=1e-6)
    differences = np.abs(small.read_rows(rows)[1] - weights).max(axis=0)
    assert (differences <= 0.505 * small.scales).all()
    assert small.max_rounding_error(1000)[2] == whole.max_rounding_error(1000).max() == 0
    assert small.scales[1] == pytest.approx(100 / 1.5 * small.scales[0], rel=0.5)


def test_sums_of_long_texts_do_not_overflow() -> None:
    """The largest weight of all in each of many tokens; texts that may be longer have coarser weights."""
    weights = {name: value.copy() for name, value in CHECKPOINT.weights.items()}
    weights[WEIGHT][2:] = 5
    text = " ".join([WORDS[0]] * 40_000)
    for max_tokens, limit in ((1000, 32767), (32_768, 32767), (40_000, (2**31 - 1) // 80_000)):
        experiment = CHECKPOINT.experiment.replace({"text.max_tokens": max_tokens})
        checkpoint = replace(CHECKPOINT, weights=weights, experiment=experiment)
        small, whole = (Classifier(checkpoint, table_dtype=dtype, share_table=False) for dtype in ("int16", "float32"))
        assert small.linear.rows[2:, 2:5].max() == limit
        logits = [classifier.predict_logits([text]) for classifier in (small, whole)]
        assert logits[1].min() > 1
        assert (np.abs(logits[0] - logits[1]) <= small.max_rounding_error + 1e-5 * np.abs(logits[1])).all()


def test_the_last_file_of_each_kind_stays(folder: Path) -> None:
    """So a service that starts again finds both its files; files in use stay too."""

    def checkpoint_with(factor: float) -> Classifier:
        weights = CHECKPOINT.weights
        changed = {name: weights[name] * np.float32(factor) for name in (WEIGHT, "vectors")}
        return Classifier(replace(CHECKPOINT, weights=weights | changed))

    used = checkpoint_with(1)
    files = set(folder.iterdir())
    for factor in (2, 3, 4):
        checkpoint_with(factor)
    newest = checkpoint_with(5)
    assert files < set(folder.iterdir())
    assert sorted(path.suffix for path in folder.iterdir()) == 3 * [".linear"] + 3 * [".table"]
    del used, newest
    checkpoint_with(6)
    assert sorted(path.suffix for path in folder.iterdir()) == 2 * [".linear"] + 2 * [".table"]
    assert not files & set(folder.iterdir())
