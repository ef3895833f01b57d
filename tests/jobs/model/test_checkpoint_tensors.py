"""Quantized tensors of a checkpoint: their error, their size, and files that do not fit together."""

import numpy as np
import pytest

from jobs.model.checkpoint_tensors import CODES, LAYOUT, MAX_BITS, MIN_BITS, STEPS, dequantize_tensors, quantize_matrix

MATRIX = np.random.default_rng(0).normal(size=(50, 37)).astype(np.float32)
# Of normally distributed numbers, relative to their length: that of the best uniform quantizer (Max 1960) is 0.345 with
# two bits and 0.107 with four.
LARGEST_ERRORS = {2: 0.36, 4: 0.11, 6: 0.03, 8: 0.008}


def quantize(matrix: np.ndarray, bits: int) -> np.ndarray:
    """Return a matrix as it is after quantization."""
    return dequantize_tensors(quantize_matrix("m", matrix, bits))["m"]


@pytest.mark.parametrize("bits", range(MIN_BITS, MAX_BITS + 1))
def test_a_quantized_matrix_has_its_shape_and_few_bits(bits: int) -> None:
    tensors = quantize_matrix("m", MATRIX, bits)
    assert tensors["m" + CODES].shape == (50, -(-37 * bits // 8))
    restored = dequantize_tensors(tensors | {"other": MATRIX})
    assert restored.keys() == {"m", "other"}
    assert (restored["m"].shape, restored["m"].dtype) == (MATRIX.shape, np.float32)
    error = np.linalg.norm(restored["m"] - MATRIX) / np.linalg.norm(MATRIX)
    assert error < LARGEST_ERRORS.get(bits, LARGEST_ERRORS[bits // 2 * 2])


def test_rows_of_zeros_stay_zero_and_each_row_has_its_own_scale() -> None:
    """The first row is padding; vectors of rare words may be a thousand times as short as others."""
    matrix = MATRIX * np.logspace(-6, 6, 50, dtype=np.float32)[:, None]
    matrix[0] = 0
    restored = quantize(matrix, 8)
    assert (restored[0] == 0).all()
    relative = np.linalg.norm(restored - matrix, axis=1)[1:] / np.linalg.norm(matrix, axis=1)[1:]
    assert relative.max() < 0.02


def test_many_rows_are_quantized_as_few() -> None:
    """They are processed in parts."""
    many = np.tile(MATRIX, (90, 1))
    np.testing.assert_array_equal(quantize(many, 5), np.tile(quantize(MATRIX, 5), (90, 1)))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
def test_small_matrices_are_quantized(shape: tuple[int, int]) -> None:
    assert quantize(np.ones(shape, np.float32), 4).shape == shape


@pytest.mark.parametrize(
    "change",
    [
        {STEPS: np.ones(49, np.float32)},
        {STEPS: np.ones(50)},
        {STEPS: np.ones((50, 1), np.float32)},
        {CODES: np.zeros((50, 18), np.uint8)},
        {CODES: np.zeros((50, 19), np.int8)},
        {LAYOUT: np.array([4, 1 << 30], np.int32)},
        {LAYOUT: np.array([0, 37], np.int32)},
        {LAYOUT: np.array([9, 37], np.int32)},
        {LAYOUT: np.array([4, -1], np.int32)},
        {LAYOUT: np.array([4.0, 37.0])},
        {LAYOUT: np.array([4], np.int32)},
    ],
)
def test_tensors_that_do_not_fit_together_are_an_error(change: dict[str, np.ndarray]) -> None:
    """A small file must not ask for much memory."""
    tensors = quantize_matrix("m", MATRIX, 4) | {"m" + suffix: value for suffix, value in change.items()}
    with pytest.raises(ValueError, match="m: is not a quantized matrix"):
        dequantize_tensors(tensors)


@pytest.mark.parametrize("suffix", [STEPS, LAYOUT])
def test_a_missing_tensor_is_an_error(suffix: str) -> None:
    tensors = quantize_matrix("m", MATRIX, 4)
    del tensors["m" + suffix]
    with pytest.raises(ValueError, match="m: is not a quantized matrix"):
        dequantize_tensors(tensors)
