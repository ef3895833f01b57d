"""Checks that the tensors of a checkpoint fit its settings, words and labels, and that its scores are finite."""

from collections.abc import Sequence

import numpy as np

from jobs.model.checkpoint import Checkpoint, CheckpointError, validate_names
from jobs.model.linear.tensors import BIAS, FIRST_WORD, PAIRS, SCALE, SQUARES, WEIGHT, compute_keys

# Far below the largest float32, so that no intermediate sum overflows.
MAX_ABS_LOGIT = 1e30


def validate_network(checkpoint: Checkpoint) -> list[str]:
    """Return the names of the channels; CheckpointError unless labels, words and weights are what the settings need."""
    labels, words, weights = checkpoint.labels, checkpoint.words, checkpoint.weights
    validate_names("labels.json", labels)
    validate_names("vocabulary.json", words)
    if not labels:
        raise CheckpointError("labels.json: is empty")
    if len(checkpoint.label_thresholds) != len(labels):
        raise CheckpointError(f"metrics.json: label_thresholds has not {len(labels)} values, one for each label")
    model = checkpoint.experiment.model
    channels = {"static": ["fixed_vectors"], "multichannel": ["fixed_vectors", "vectors"]}.get(
        model.embedding, ["vectors"]
    )
    first = weights.get(channels[0])
    dimensions = first.shape[-1] if first is not None and first.ndim == 2 else 0
    shapes: dict[str, tuple[int, ...]] = {name: (len(words) + 2, dimensions) for name in channels}
    for index, width in enumerate(model.filter_widths):
        shapes[f"filters.{index}"] = (width * model.feature_maps, len(channels) * dimensions)
        shapes[f"biases.{index}"] = (model.feature_maps,)
    shapes["output.weight"] = (len(labels), len(model.filter_widths) * model.feature_maps)
    shapes["output.bias"] = (len(labels),)
    for name, shape in shapes.items():
        _validate_tensor(name, weights.get(name), shape)
    bound = _bound_abs_logit(weights, channels, model.filter_widths)
    if model.linear != "none":
        _validate_linear(weights, len(labels), len(words) + FIRST_WORD)
        bound += _bound_abs_linear_logit(weights, checkpoint.experiment.text.max_tokens)
    elif WEIGHT in weights:
        raise CheckpointError(f"{WEIGHT}: the settings have no linear classifier (model.linear=none)")
    if bound > MAX_ABS_LOGIT:
        raise CheckpointError("weights.safetensors: holds values so large that scores would not be finite")
    return channels


def _validate_linear(weights: dict[str, np.ndarray], classes: int, vocabulary: int) -> None:
    pairs, squares = weights.get(PAIRS), weights.get(SQUARES)
    rows = len(squares) if squares is not None and squares.ndim == 1 else 0
    _validate_tensor(PAIRS, pairs, (len(pairs) if pairs is not None and pairs.ndim else 0, 2), np.int32)
    assert pairs is not None
    num_words = rows - len(pairs)
    shapes: dict[str, tuple[int, ...]] = {SQUARES: (rows,), WEIGHT: (rows, classes)}
    shapes |= dict.fromkeys((BIAS, SCALE), (classes,))
    for name, shape in shapes.items():
        _validate_tensor(name, weights.get(name), shape)
    if not FIRST_WORD <= num_words <= vocabulary:
        raise CheckpointError(f"{SQUARES}: has rows for {num_words} words; the vocabulary has {vocabulary}")
    is_ascending = (np.diff(compute_keys(pairs)) > 0).all()
    if len(pairs) and (pairs.min() < FIRST_WORD or pairs.max() >= num_words or not is_ascending):
        raise CheckpointError(f"{PAIRS}: is not an ascending list of pairs of words")
    if weights[SQUARES].min() < 0 or weights[SCALE].min() < 0:
        raise CheckpointError(f"{SQUARES}, {SCALE}: hold negative values")
    if weights[SQUARES][0] or weights[WEIGHT][0].any():
        raise CheckpointError(f"{SQUARES}, {WEIGHT}: hold values for padding, which has none")
    if weights[WEIGHT][weights[SQUARES] == 0].any():  # there would be no bound of the errors of rounding
        raise CheckpointError(f"{WEIGHT}: holds values for words whose {SQUARES} is 0")


def _validate_tensor(
    name: str, value: np.ndarray | None, shape: tuple[int, ...], dtype: type[np.generic] = np.float32
) -> None:
    if value is None or value.shape != shape or value.dtype != dtype:
        actual = "missing" if value is None else f"{value.dtype} of {value.shape}"
        raise CheckpointError(
            f"weights.safetensors: {name} is {actual}; the settings call for {dtype.__name__} of {shape}"
        )
    if not np.isfinite(value).all():
        raise CheckpointError(f"weights.safetensors: {name} holds values that are not finite")


def _bound_abs_logit(weights: dict[str, np.ndarray], channels: list[str], widths: Sequence[int]) -> float:
    """Return an upper bound of any text's absolute logits: a product of vectors is at most that of their norms."""

    def max_norm(name: str) -> float:
        value = weights[name]
        # Unlike a sum of squares, this makes no copy in float64.
        return float(np.sqrt(np.einsum("ij,ij->i", value, value, dtype=np.float64).max(initial=0.0)))

    vectors = sum(max_norm(name) for name in channels)
    feature = max(
        width * vectors * max_norm(f"filters.{index}") + float(np.abs(weights[f"biases.{index}"]).max(initial=0.0))
        for index, width in enumerate(widths)
    )
    output = np.abs(weights["output.weight"]).sum(axis=1, dtype=np.float64).max()
    return float(output) * feature + float(np.abs(weights["output.bias"]).max())


def _bound_abs_linear_logit(weights: dict[str, np.ndarray], max_tokens: int) -> float:
    """Return an upper bound of the absolute scores that the linear classifier adds to any text's logits."""
    squares = weights[SQUARES].astype(np.float64)
    scale = float(weights[SCALE].max())
    factor = scale / np.sqrt(squares[squares > 0].min(initial=np.inf))
    rows = 2.0 * max_tokens  # a word and a pair for each token
    largest = max(1.0, float(np.abs(weights[WEIGHT]).max(initial=0.0)))
    return float(factor * rows * largest + scale * float(np.abs(weights[BIAS]).max(initial=0.0)))
