"""Triton kernels of the output layer: scores, losses and all gradients down to the features, in one pass over the rows.

One program for a block of rows computes the scores, the losses, the gradient of the features before dropout and ReLU,
and its part of the sums over the rows: the gradients of output weights and biases. A second kernel adds the parts in
their order, without atomics, and takes the step of AdamW. The weights of a class that are longer than `max_norm` are
shortened before both, as `jobs.training.loop` does it.

Layout of the parts, `(row blocks, classes + 1, features + 1)` float32: row c has the gradients of the weights of class
c, and in the last column that of its bias; the last row has those of the features' biases.
"""

# Triton's kernels look like Python, but their arguments have no Python types; Triton itself has no annotations.
# mypy: disable-error-code="no-untyped-def, untyped-decorator, import-untyped, no-any-return"

from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

from jobs.model.gpu.adam import RATES, adam
from jobs.model.gpu.chunk import Chunk, round_to_power
from jobs.model.gpu.windows import FIRST_ROW, NUM_COLUMNS, NUM_ROWS

BLOCK_ROWS = 16
BLOCK_FEATURES = 64
BLOCK_WEIGHTS = 2048  # of the classes and features that a program has at a time
BLOCK_PARTS = 16
BLOCK_LOSSES = 256


@triton.jit
def row_losses(scores, labels, label_weights, text, classes, CLASSES: tl.constexpr, IS_MULTI: tl.constexpr):
    """Return the losses of rows and the gradients of their scores, as `jobs.model.network.compute_loss_sum`.

    Args:
        scores: `(rows, CLASSES)`; text: `(rows,)`, numbers of the rows in the chunk.
    """
    index = tl.arange(0, CLASSES)
    is_class = (index < classes)[None, :]
    if IS_MULTI:
        label = tl.load(labels + text[:, None] * classes + index[None, :], mask=is_class, other=0.0)
        weight = 1 + (tl.load(label_weights + index, mask=index < classes, other=1.0) - 1)[None, :] * label
        exponential = tl.exp(-tl.abs(scores))
        softplus = tl.log(1 + exponential) + tl.where(scores < 0, -scores, 0.0)  # log(1 + exp(-score))
        losses = (1 - label) * scores + weight * softplus
        losses = tl.sum(tl.where(is_class, losses, 0.0), axis=1)
        negative = tl.where(scores < 0, 1.0, exponential) / (1 + exponential)  # sigmoid(-score)
        gradient = (1 - label) - weight * negative
    else:
        label = tl.load(labels + text)
        is_label = label[:, None] == index[None, :]
        scores = tl.where(is_class, scores, float("-inf"))
        highest = tl.max(scores, axis=1)
        exponential = tl.exp(scores - highest[:, None])
        total = tl.sum(exponential, axis=1)
        losses = tl.log(total) + highest - tl.sum(tl.where(is_label, scores, 0.0), axis=1)
        gradient = exponential / total[:, None] - is_label.to(tl.float32)
    return losses, tl.where(is_class, gradient, 0.0)


@triton.jit
def rows_kernel(
    hidden, output, output_bias, labels, label_weights, weights, plans, counter, losses, gradient, scales, parts,
    rows, classes, features, limit, dropout_scale, HAS_LIMIT: tl.constexpr, IS_MULTI: tl.constexpr,
    CLASSES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_FEATURES: tl.constexpr,
):  # fmt: skip
    """Write a block of rows' losses, gradients of the features, and parts; the first program writes `scales`."""
    block = tl.program_id(0)
    plan = plans + tl.load(counter).to(tl.int64) * NUM_COLUMNS
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_row = row < tl.load(plan + NUM_ROWS)
    text = tl.where(is_row, tl.load(plan + FIRST_ROW) + row, 0)
    index = tl.arange(0, CLASSES)
    is_class = index < classes
    row_start = row.to(tl.int64) * features

    scores = tl.full([BLOCK_ROWS, CLASSES], 0.0, tl.float32)
    squares = tl.full([CLASSES], 0.0, tl.float32)
    for first in range(0, features, BLOCK_FEATURES):
        feature = first + tl.arange(0, BLOCK_FEATURES)
        is_feature = feature < features
        values = tl.load(
            hidden + row_start[:, None] + feature[None, :], mask=is_row[:, None] & is_feature[None, :], other=0.0
        )
        class_weights = tl.load(
            output + index[:, None] * features + feature[None, :], mask=is_class[:, None] & is_feature[None, :],
            other=0.0,
        )  # fmt: skip
        scores += tl.dot(values, tl.trans(class_weights), input_precision="ieee")
        squares += tl.sum(class_weights * class_weights, axis=1)
    scale = tl.full([CLASSES], 1.0, tl.float32)
    if HAS_LIMIT:
        norm = tl.sqrt(squares)
        scale = limit / tl.where(norm > limit, norm, limit)
    tl.store(scales + index, scale, mask=is_class & (block == 0))
    bias = tl.load(output_bias + index, mask=is_class, other=0.0)
    scores = scores * scale[None, :] + bias[None, :]

    row_loss, score_gradient = row_losses(scores, labels, label_weights, text, classes, CLASSES, IS_MULTI)
    loss_weight = tl.load(weights + 2 * text, mask=is_row, other=0.0)
    gradient_weight = tl.load(weights + 2 * text + 1, mask=is_row, other=0.0)
    tl.store(losses + row, tl.where(is_row, row_loss * loss_weight, 0.0), mask=row < rows)
    score_gradient = tl.where(is_row[:, None], score_gradient * gradient_weight[:, None], 0.0)

    columns = features + 1
    part = parts + block.to(tl.int64) * (classes + 1) * columns
    tl.store(part + index * columns + features, tl.sum(score_gradient, axis=0), mask=is_class)
    for first in range(0, features, BLOCK_FEATURES):
        feature = first + tl.arange(0, BLOCK_FEATURES)
        is_feature = feature < features
        values = tl.load(
            hidden + row_start[:, None] + feature[None, :], mask=is_row[:, None] & is_feature[None, :], other=0.0
        )
        class_weights = tl.load(
            output + index[:, None] * features + feature[None, :], mask=is_class[:, None] & is_feature[None, :],
            other=0.0,
        )  # fmt: skip
        part_columns = part + index[:, None] * columns + feature[None, :]
        weights_part = tl.dot(tl.trans(score_gradient), values, input_precision="ieee")
        tl.store(part_columns, weights_part, mask=is_class[:, None] & is_feature[None, :])
        feature_gradient = tl.dot(score_gradient, class_weights * scale[:, None], input_precision="ieee")
        # A feature is 0 if it was dropped, or not above 0 before.
        feature_gradient = tl.where(values > 0, feature_gradient * dropout_scale, 0.0)
        tl.store(
            gradient + row_start[:, None] + feature[None, :], feature_gradient,
            mask=(row < rows)[:, None] & is_feature[None, :],
        )  # fmt: skip
        tl.store(part + classes * columns + feature, tl.sum(feature_gradient, axis=0), mask=is_feature)


@triton.jit
def update_kernel(
    parts, scales, losses, loss_sum, output, output_mean, output_square, output_bias, output_bias_mean,
    output_bias_square, biases, biases_mean, biases_square, rates, counter, rows, num_parts, classes, features,
    BLOCK_PARTS: tl.constexpr, BLOCK_FEATURES: tl.constexpr, BLOCK_LOSSES: tl.constexpr,
):  # fmt: skip
    """Add the parts of a class or of the features' biases, and take their step; one program adds the losses."""
    class_index = tl.program_id(0)
    feature = tl.program_id(1) * BLOCK_FEATURES + tl.arange(0, BLOCK_FEATURES)
    rates += tl.load(counter).to(tl.int64) * RATES
    factor, correction, decay = tl.load(rates), tl.load(rates + 1), tl.load(rates + 2)
    columns = features + 1
    # The last column of the last row is not written.
    is_part = feature < columns - (class_index == classes).to(tl.int32)
    total = tl.full([BLOCK_FEATURES], 0.0, tl.float32)
    for first in range(0, num_parts, BLOCK_PARTS):
        part = first + tl.arange(0, BLOCK_PARTS)
        elements = (part.to(tl.int64)[:, None] * (classes + 1) + class_index) * columns + feature[None, :]
        total += tl.sum(
            tl.load(parts + elements, mask=(part < num_parts)[:, None] & is_part[None, :], other=0.0),
            axis=0,
        )
    is_feature = feature < features
    if class_index < classes:
        elements = class_index * features + feature
        value = tl.load(output + elements, mask=is_feature, other=0.0) * tl.load(scales + class_index) * decay
        value = adam(value, output_mean, output_square, elements, is_feature, total, factor, correction)
        tl.store(output + elements, value, mask=is_feature)
        is_bias = feature == features
        elements = feature - features + class_index
        value = tl.load(output_bias + elements, mask=is_bias, other=0.0)
        value = adam(value, output_bias_mean, output_bias_square, elements, is_bias, total, factor, correction)
        tl.store(output_bias + elements, value, mask=is_bias)
    else:
        value = tl.load(biases + feature, mask=is_feature, other=0.0)
        value = adam(value, biases_mean, biases_square, feature, is_feature, total, factor, correction)
        tl.store(biases + feature, value, mask=is_feature)
        if tl.program_id(1) == 0:
            loss = tl.full([BLOCK_LOSSES], 0.0, tl.float32)
            for first in range(0, rows, BLOCK_LOSSES):
                row = first + tl.arange(0, BLOCK_LOSSES)
                loss += tl.load(losses + row, mask=row < rows, other=0.0)
            tl.store(loss_sum, tl.load(loss_sum) + tl.sum(loss, axis=0).to(tl.float64))


def compute_gradients(
    hidden: Tensor, output: Tensor, output_bias: Tensor, chunk: Chunk, label_weights: Tensor | None,
    max_norm: float | None, dropout: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return what a step needs of its rows' losses.

    Args:
        hidden: `(rows, features)`, after ReLU and dropout.

    Returns:
        losses: `(rows,)`, times their weights. gradient: of the features before ReLU, `(rows, features)`.
        scales: factors of the output weights of each class. parts: see the layout above. All float32.
    """
    rows, features = hidden.shape
    classes = len(output)
    padded = round_to_power(classes, 16)
    losses, gradient, scales = hidden.new_empty(rows), torch.empty_like(hidden), hidden.new_empty(classes)
    blocks = -(-rows // BLOCK_ROWS)
    parts = hidden.new_empty(blocks, classes + 1, features + 1)
    rows_kernel[(blocks,)](
        hidden, output, output_bias, chunk.labels, output_bias if label_weights is None else label_weights,
        chunk.weights, chunk.plans, chunk.counter, losses, gradient, scales, parts, rows, classes, features,
        max_norm or 0.0, 1 / (1 - dropout), HAS_LIMIT=max_norm is not None, IS_MULTI=chunk.labels.dim() == 2,
        CLASSES=padded, BLOCK_ROWS=BLOCK_ROWS, BLOCK_FEATURES=max(16, BLOCK_WEIGHTS // padded),
        num_warps=8,
    )  # fmt: skip
    return losses, gradient, scales, parts


def update_parameters(
    parts: Tensor, scales: Tensor, losses: Tensor, loss_sum: Tensor, parameters: Mapping[str, Tensor],
    states: Mapping[str, Mapping[str, Tensor]], chunk: Chunk,
) -> None:  # fmt: skip
    """Take a step of AdamW on output weights and biases, in place, and add the losses to `loss_sum`, `(1,)` float64.

    Args:
        parameters, states: of `output`, `output_bias` and `biases`.
    """
    classes, features = parameters["output"].shape
    arguments = [
        tensor
        for name in ("output", "output_bias", "biases")
        for tensor in (parameters[name], states[name]["exp_avg"], states[name]["exp_avg_sq"])
    ]
    update_kernel[classes + 1, -(-(features + 1) // BLOCK_FEATURES)](
        parts, scales, losses, loss_sum, *arguments, chunk.rates, chunk.counter, len(losses), len(parts), classes,
        features, BLOCK_PARTS=BLOCK_PARTS, BLOCK_FEATURES=BLOCK_FEATURES, BLOCK_LOSSES=BLOCK_LOSSES,
    )  # fmt: skip
