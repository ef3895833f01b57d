"""Quantized checkpoint: a smaller copy, which every command, the service and `load` read as the original.

    finetune-cnn quantize runs/tickets small

Word vectors have a few bits for each number instead of 32, filters and output weights have eight; see
`jobs.model.checkpoint_tensors`. The copy has neither the state that a run resumes from nor the vectors before training.
"""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.plan import Plan
from cluster.input_files import check_output_file
from cluster.storage import StorageError, absolute_path, join, list_file_sizes
from jobs.inference.network_validation import validate_network
from jobs.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from jobs.model.checkpoint_locations import locate_snapshot
from jobs.model.checkpoint_tensors import CLASSIFICATION_FILES, MAX_BITS, MIN_BITS, quantize_matrix
from jobs.model.linear.tensors import select_words
from jobs.portable.model_card import render_model_card
from jobs.portable.plan import plan_files
from jobs.portable.whole_folder import fill_folder

logger = logging.getLogger(__name__)

DEFAULT_BITS = 6
DENSE_BITS = 8  # of filters and output weights, which are few
VECTORS = ("vectors", "fixed_vectors")


def quantize_checkpoint(path: str, out: str, bits: int = DEFAULT_BITS, max_words: int | None = None) -> float:
    """Write a quantized copy of a checkpoint, and return its size as a share of the original's.

    Args:
        path: a checkpoint, a best.json, or a folder with one.
        out: new or empty folder, a path or URI.
        bits: of each number of a word vector, from MIN_BITS to MAX_BITS.
        max_words: number of words that remain, the most frequent first; others count as unknown. None for all.

    Raises:
        CheckpointError: the checkpoint cannot be read, or is quantized.
        StorageError: `out` is not empty, or cannot be written.
    """
    checkpoint, small = _load_quantized(path, out, bits, max_words)
    with fill_folder(absolute_path(out), "manifest.json") as folder:
        _save(folder, checkpoint, small)
        size = _measure_size(str(folder))
    share = size / _measure_size(checkpoint.path)
    logger.log(
        RESULT, f"wrote {out}: {len(small.words):,} words, {size / 1e6:.2f} MB, {share:.1%} of {checkpoint.path}"
    )
    report_result({"path": out, "words": len(small.words), "bytes": size, "share": share})
    return share


def plan_quantization(path: str, out: str, bits: int = DEFAULT_BITS, max_words: int | None = None) -> Plan:
    """Return the plan of `quantize_checkpoint`, which raises the same exceptions; `out` is not written."""
    checkpoint, small = _load_quantized(path, out, bits, max_words)
    with tempfile.TemporaryDirectory() as folder:
        _save(Path(folder), checkpoint, small)
        return plan_files("quantize", checkpoint, out, list_file_sizes(folder))


def _load_quantized(path: str, out: str, bits: int, max_words: int | None) -> tuple[Checkpoint, Checkpoint]:
    """Return a checkpoint, and its quantized copy."""
    check_output_file(join(out, "manifest.json"))
    if list_file_sizes(out):
        raise StorageError(f"{out}: is not empty; name a new folder")
    checkpoint = load_checkpoint(path)
    if "quantization" in checkpoint.metrics:
        raise CheckpointError(f"{path}: is quantized; quantize the checkpoint that it was made of")
    validate_network(checkpoint)
    return checkpoint, quantize(checkpoint, bits, max_words)


def _save(folder: Path, checkpoint: Checkpoint, small: Checkpoint) -> None:
    save_checkpoint(folder, small, card=render_model_card(replace(checkpoint, metrics=small.metrics)))


def quantize(checkpoint: Checkpoint, bits: int = DEFAULT_BITS, max_words: int | None = None) -> Checkpoint:
    """Return a checkpoint with quantized tensors, which `save_checkpoint` writes; see `quantize_checkpoint`."""
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ValueError(f"bits must be from {MIN_BITS} to {MAX_BITS}, not {bits}")
    words = checkpoint.words[:max_words]
    weights: dict[str, np.ndarray] = {}
    ids = np.arange(len(words) + 2)  # after padding and the unknown word
    for name, tensor in (checkpoint.weights | select_words(checkpoint.weights, ids)).items():
        if name in VECTORS:
            weights |= quantize_matrix(name, tensor[: len(ids)], bits)
        elif tensor.ndim == 2 and tensor.dtype == np.float32:
            weights |= quantize_matrix(name, tensor, DENSE_BITS)
        else:
            weights[name] = tensor
    source = {"bits": bits, "words": len(checkpoint.words), "manifest": checkpoint.manifest_sha256}
    return replace(checkpoint, words=words, weights=weights, metrics=checkpoint.metrics | {"quantization": source})


def _measure_size(folder: str) -> int:
    """Return the bytes of the files that classification needs."""
    sizes = list_file_sizes(locate_snapshot(folder))
    return sum(sizes.get(name, 0) for name in CLASSIFICATION_FILES)
