"""Tensors of a checkpoint in safetensors files, quantized ones among them.

A quantized matrix NAME, `(rows, columns)`, is three tensors (format 3):

    NAME.codes   (rows, bytes) uint8: for each element a code of `bits` bits, the first one in the highest bits
    NAME.steps   (rows,) float32: distance between two codes of a row
    NAME.layout  (2,) int32: bits and columns

An element is `(code + 1/2 - 2**(bits - 1)) * step`, so a row of zeros has the step 0.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jobs.model.checkpoint_files import VerifiedFiles
from jobs.model.linear.tensors import BIAS, SCALE

UNTRAINED_VECTORS_FILE = "untrained.safetensors"
# Files that classification needs, except the small ones of settings and metrics.
CLASSIFICATION_FILES = ("labels.json", "vocabulary.json", "weights.safetensors", UNTRAINED_VECTORS_FILE)
MIN_BITS, MAX_BITS = 2, 8
CODES, STEPS, LAYOUT = ".codes", ".steps", ".layout"

_ROWS_AT_A_TIME = 2048  # so that little memory is needed for single bits
# Candidates for the range of a row's codes, as shares of its largest element: with few bits, the error is smaller if
# the largest elements are clipped.
_RANGES = {bits: np.linspace(1, 0.5 if bits < 4 else 0.65, 8) if bits < 7 else np.ones(1) for bits in range(2, 9)}


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write tensors; OSError if they cannot be written."""
    path.touch()
    mode = path.stat().st_mode  # that of the user's umask; safetensors sets another
    try:
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    except SafetensorError as error:  # for instance, the disk is full
        raise OSError(str(error)) from error
    path.chmod(mode)


def read_weights(files: VerifiedFiles) -> dict[str, np.ndarray]:
    """Return the network's tensors, with those that training did not change; quantized ones as float32.

    Raises:
        CheckpointError, ValueError, KeyError: a file is altered, or the files do not fit together.
    """
    weights = dequantize_tensors(files.read_tensors("weights.safetensors"))
    untrained = files.read_tensors(UNTRAINED_VECTORS_FILE) if UNTRAINED_VECTORS_FILE in files else {}
    if "vectors" in weights:
        rest = untrained.pop("vectors", None)
        if rest is None and "fixed_vectors" in untrained:
            rest = untrained["fixed_vectors"][len(weights["vectors"]) :]
        if rest is not None:
            weights["vectors"] = np.concatenate([weights["vectors"], rest])
    weights |= untrained
    if {SCALE, BIAS} <= weights.keys() and weights[SCALE].shape == (1,):  # that of all classes, of an earlier version
        weights[SCALE] = np.repeat(weights[SCALE], weights[BIAS].size)
    return weights


def is_quantized(tensors: dict[str, np.ndarray]) -> bool:
    """Return whether tensors have a quantized matrix among them."""
    return any(name.endswith(CODES) for name in tensors)


def quantize_matrix(name: str, matrix: np.ndarray, bits: int) -> dict[str, np.ndarray]:
    """Return the three tensors of a quantized matrix.

    Args:
        matrix: `(rows, columns)` float32, all finite. bits: of each element, from MIN_BITS to MAX_BITS.
    """
    rows, columns = matrix.shape
    codes = np.empty((rows, -(-columns * bits // 8)), np.uint8)
    steps = np.empty(rows, np.float32)
    for part in _slices(rows):
        steps[part] = _choose_steps(matrix[part], bits)
        codes[part] = _pack(_encode(matrix[part], steps[part], bits).astype(np.uint8), bits)
    return {name + CODES: codes, name + STEPS: steps, name + LAYOUT: np.array([bits, columns], np.int32)}


def dequantize_tensors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return tensors in which each quantized matrix is one of float32, `(rows, columns)`.

    Raises:
        ValueError: the tensors of a matrix do not fit together.
    """
    plain = dict(tensors)
    for key in [key for key in tensors if key.endswith(CODES)]:
        name = key.removesuffix(CODES)
        codes, steps, layout = (plain.pop(name + suffix, np.empty(0)) for suffix in (CODES, STEPS, LAYOUT))
        bits, columns = layout.tolist() if layout.shape == (2,) and layout.dtype == np.int32 else (0, 0)
        if (
            not MIN_BITS <= bits <= MAX_BITS
            or columns < 0
            or codes.dtype != np.uint8
            or codes.shape != (len(steps), -(-columns * bits // 8))
            or steps.dtype != np.float32
            or steps.ndim != 1
        ):
            raise ValueError(f"{name}: is not a quantized matrix: its codes, steps and layout do not fit together")
        matrix = plain[name] = np.empty((len(codes), columns), np.float32)
        for part in _slices(len(codes)):
            matrix[part] = _unpack(codes[part], bits, columns)
            matrix[part] += np.float32(0.5 - 2 ** (bits - 1))
            matrix[part] *= steps[part, None]
    return plain


def _slices(rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_A_TIME) for start in range(0, rows, _ROWS_AT_A_TIME))


def _encode(matrix: np.ndarray, steps: np.ndarray, bits: int) -> np.ndarray:
    """Return the codes of rows, `(rows, columns)` float32."""
    half = 2 ** (bits - 1)
    codes: np.ndarray = np.floor(matrix / np.where(steps > 0, steps, 1)[:, None])
    np.clip(codes, -half, half - 1, out=codes)
    codes += np.float32(half)
    return codes


def _choose_steps(matrix: np.ndarray, bits: int) -> np.ndarray:
    """Return the step of each row with the least squared error, `(rows,)` float32."""
    half = 2 ** (bits - 1)
    whole = np.abs(matrix).max(axis=1, initial=0) / np.float32(half)
    best: np.ndarray = whole
    least = np.full(len(matrix), np.inf, np.float32)
    for share in _RANGES[bits]:
        steps = whole * np.float32(share)
        errors = (_encode(matrix, steps, bits) + np.float32(0.5 - half)) * steps[:, None] - matrix
        squares = np.einsum("ij,ij->i", errors, errors)
        best = np.where(squares < least, steps, best)
        least = np.minimum(squares, least)
    return best


def _pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return codes `(rows, columns)` uint8 as bytes, `(rows, bytes)` uint8."""
    single = np.unpackbits(codes[:, :, None], axis=2)[:, :, 8 - bits :]
    return np.packbits(single.reshape(len(codes), -1), axis=1)


def _unpack(packed: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """Return the codes of `_pack`, `(rows, columns)` uint16."""
    offsets = np.arange(columns) * bits
    first, ends = offsets // 8, offsets % 8 + bits
    pairs: np.ndarray = packed[:, first].astype(np.uint16)
    pairs <<= 8  # a code is in one byte or in two
    pairs |= packed[:, np.minimum(first + 1, packed.shape[1] - 1)]
    pairs >>= (16 - ends).astype(np.uint16)
    pairs &= np.uint16(2**bits - 1)
    return pairs
