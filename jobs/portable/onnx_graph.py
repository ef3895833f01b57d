"""ONNX graph of a checkpoint's network, from token ids to logits and probabilities.

    token_ids (batch, length) int64, padded with 0 at the end
    logits (batch, classes) float32; probabilities (batch, classes) float32, of the logits divided by the temperature

Batch and length are dynamic, and a text's scores do not depend on the length of the others: windows that touch no token
of a text have no effect. A text without tokens is one token of padding. The metadata have the labels and what a reader
needs to make token ids; see `build_metadata`.

The linear classifier next to the network (`model.linear`) sums the rows of words and pairs. A hash table finds the row
of a pair: pairs are ordered by bucket, and as many are compared as the largest bucket has. A binary search would need
five operators for each step, and for a short text each operator costs more than its numbers; a TfIdfVectorizer would
return a number for each text and each pair that has a row.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.datasets.tokenizer import PADDING
from jobs.inference.network_validation import validate_network
from jobs.model.checkpoint import Checkpoint, CheckpointError
from jobs.model.linear.tensors import BIAS, PAIRS, SCALE, SQUARES, WEIGHT, compute_keys
from jobs.portable.metadata import describe_model

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET, IR_VERSION = 17, 8  # those of 2022, so that older runtimes read the file
MAX_BYTES = 2_000_000_000  # Protocol Buffers have no larger messages
LOWEST = -1e30  # less than any feature
PAIRS_PER_BUCKET = 2  # on average; fewer take more memory and little less time
# Of a pair's words in its hash. Word ids have 31 bits, so the sum of the products has 63.
HASH_FACTORS = 0x5BD1E995, 0x27D4EB2F


def build_model(checkpoint: Checkpoint) -> "ModelProto":
    """Return the ONNX model of a checkpoint.

    Raises:
        CheckpointError: its tensors do not fit its settings, or are too large for one file.
    """
    from onnx import TensorProto, helper

    validate_network(checkpoint)
    if sum(tensor.nbytes for tensor in checkpoint.weights.values()) > MAX_BYTES:
        raise CheckpointError(f"{checkpoint.path}: has more than 2 GB of weights, which an ONNX file cannot hold")
    graph = _Graph()
    _add_network(graph, checkpoint)
    output: list[str | int | None] = ["batch", len(checkpoint.labels)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "text_cnn",
            [helper.make_tensor_value_info("token_ids", TensorProto.INT64, ["batch", "length"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, output) for name in ("logits", "probabilities")],
            [_to_tensor(name, value) for name, value in graph.constants.items()],
        ),
        producer_name="finetune-cnn",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, build_metadata(checkpoint))
    return model


def build_metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the metadata of the model: labels and settings as JSON, by name."""
    return {name: json.dumps(value, ensure_ascii=False) for name, value in describe_model(checkpoint).items()}


class _Graph:
    """Nodes and constants of a graph, in the order of computation."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, name: str, value: object, dtype: type[np.generic] = np.int64) -> str:
        """Add a constant, and return its name."""
        self.constants[name] = np.asarray(value, dtype)
        return name

    def add(self, operator: str, output: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def _add_network(graph: _Graph, checkpoint: Checkpoint) -> None:
    weights, model = checkpoint.weights, checkpoint.experiment.model
    channels = [weights[name] for name in ("fixed_vectors", "vectors") if name in weights]
    vectors = graph.constant("vectors", np.concatenate(channels, axis=1), np.float32)
    zero, one = graph.constant("zero", [0]), graph.constant("one", [1])
    # One column of padding at the end, so that texts without tokens have one.
    graph.add("Pad", "padded", "token_ids", graph.constant("column", [0, 0, 0, 1]))
    graph.add("Gather", "rows", vectors, "padded")  # (batch, length + 1, columns)
    graph.add("Transpose", "columns", "rows", perm=[0, 2, 1])  # (batch, columns, length + 1)
    graph.add("Equal", "is_padding", "padded", graph.constant("padding", PADDING))
    graph.add("Not", "is_token", "is_padding")
    graph.add("Cast", "tokens", "is_token", to=7)  # int64
    graph.add("ReduceSum", "token_counts", "tokens", one, keepdims=1)  # (batch, 1)
    graph.add("Max", "lengths", "token_counts", one)
    graph.add("Unsqueeze", "lengths_3d", "lengths", one)  # (batch, 1, 1)
    features = []
    for index, width in enumerate(model.filter_widths):
        features.append(_add_filters(graph, index, width, weights, zero))
    graph.add("Concat", "features", *features, axis=1)
    output = graph.constant("output.weight", weights["output.weight"], np.float32)
    bias = graph.constant("output.bias", weights["output.bias"], np.float32)
    if WEIGHT in weights:
        bias = graph.add("Add", "text_biases", bias, _add_linear_scores(graph, weights))  # (batch, classes)
    graph.add("Gemm", "logits", "features", output, bias, transB=1)
    graph.add("Div", "calibrated", "logits", graph.constant("temperature", checkpoint.temperature, np.float32))
    if checkpoint.is_multi_label:
        graph.add("Sigmoid", "probabilities", "calibrated")
    else:
        graph.add("Softmax", "probabilities", "calibrated", axis=1)


def _add_filters(graph: _Graph, index: int, width: int, weights: dict[str, np.ndarray], zero: str) -> str:
    """Add the filters of one width; return the name of their features, `(batch, maps)`."""

    def name(part: str) -> str:
        return f"{part}.{index}"

    # A checkpoint has the rows (position, map); ONNX has (map, column, position).
    filters = weights[f"filters.{index}"]
    kernel = filters.reshape(width, -1, filters.shape[1]).transpose(1, 2, 0)
    graph.constant(name("filters"), kernel, np.float32)
    graph.constant(name("biases"), weights[f"biases.{index}"], np.float32)
    graph.add("Conv", name("products"), "columns", name("filters"), pads=[width - 1, width - 1])
    # Window i starts at token i - width + 1, so those before `length + width - 1` touch the text.
    graph.add("Shape", name("shape"), name("products"), start=2)
    graph.add("Squeeze", name("windows"), name("shape"), zero)
    graph.add("Range", name("positions"), graph.constant("first", 0), name("windows"), graph.constant("next", 1))
    graph.add("Add", name("ends"), "lengths_3d", graph.constant(name("reach"), width - 1))
    graph.add("Less", name("touches"), name("positions"), name("ends"))  # (batch, 1, windows)
    graph.add("Where", name("kept"), name("touches"), name("products"), graph.constant("lowest", LOWEST, np.float32))
    graph.add("ReduceMax", name("maxima"), name("kept"), axes=[2], keepdims=0)
    graph.add("Add", name("shifted"), name("maxima"), name("biases"))
    return graph.add("Relu", name("features"), name("shifted"))


def _add_linear_scores(graph: _Graph, weights: dict[str, np.ndarray]) -> str:
    """Add the linear classifier; return the name of its scores, multiplied by the scale, `(batch, classes)`."""
    weight, squares = weights[WEIGHT], weights[SQUARES]
    num_words, num_pairs = len(squares) - len(weights[PAIRS]), len(weights[PAIRS])
    graph.constant("no_row", 0)  # that of padding, which is all zero
    graph.add("Less", "has_row", "token_ids", graph.constant("linear.words", num_words))
    rows = graph.add("Where", "word_rows", "has_row", "token_ids", "no_row")  # (batch, length)
    if num_pairs:
        order = _add_pair_rows(graph, compute_keys(weights[PAIRS]), num_words)
        all_rows = np.concatenate([np.arange(num_words), num_words + order])
        weight, squares = weight[all_rows], squares[all_rows]
        rows = graph.add("Concat", "linear_rows", rows, "pair_rows", axis=1)  # (batch, 2 * length)
    graph.add("Gather", "row_weights", graph.constant(WEIGHT, weight, np.float32), rows)
    graph.add("ReduceSum", "weight_sums", "row_weights", "one", keepdims=0)  # (batch, classes)
    graph.add("Gather", "row_squares", graph.constant(SQUARES, squares, np.float32), rows)
    graph.add("ReduceSum", "square_sums", "row_squares", "one", keepdims=1)  # (batch, 1)
    graph.add("Sqrt", "norms", "square_sums")
    graph.add("Div", "scaled", graph.constant(SCALE, weights[SCALE], np.float32), "norms")
    graph.add("Greater", "has_norm", "square_sums", graph.constant("zero_norm", 0, np.float32))
    graph.add("Where", "factors", "has_norm", "scaled", "zero_norm")
    graph.add("Mul", "linear_products", "weight_sums", "factors")
    bias = graph.constant(BIAS, weights[SCALE] * weights[BIAS], np.float32)
    return graph.add("Add", "linear_scores", "linear_products", bias)


def _add_pair_rows(graph: _Graph, keys: np.ndarray, first_row: int) -> np.ndarray:
    """Add the rows of the pairs that begin at each token, `pair_rows`, `(batch, length)`, 0 where there is none.

    Args:
        keys: of the pairs, `(pairs,)` int64.
        first_row: of the pairs, in the order that is returned.

    Returns:
        The order of the pairs by bucket, `(pairs,)` int64.
    """
    num_buckets = len(keys) // PAIRS_PER_BUCKET | 1
    buckets = ((keys >> 32) * HASH_FACTORS[0] + (keys & 0xFFFFFFFF) * HASH_FACTORS[1]) % num_buckets
    order = np.argsort(buckets, kind="stable")
    largest = int(np.bincount(buckets).max())
    starts = np.searchsorted(buckets[order], np.arange(num_buckets))
    # Those after the end are compared too, and equal no pair.
    padded_keys = np.concatenate([keys[order], np.full(largest, -1)])
    last = graph.constant("last_axis", [-1])
    graph.add("Slice", "next_ids", "padded", "one", graph.constant("end", [np.iinfo(np.int64).max]), "one")
    graph.add("Mul", "high_keys", "token_ids", graph.constant("high", 1 << 32))
    graph.add("Add", "keys", "high_keys", "next_ids")
    for name, factor in zip(("token_ids", "next_ids"), HASH_FACTORS, strict=True):
        graph.add("Mul", f"{name}.hash", name, graph.constant(f"{name}.factor", factor))
    graph.add("Add", "hashes", "token_ids.hash", "next_ids.hash")
    graph.add("Mod", "buckets", "hashes", graph.constant("num_buckets", num_buckets))
    graph.add("Gather", "bucket_starts", graph.constant("linear.bucket_starts", starts), "buckets")
    graph.add("Unsqueeze", "bucket_starts_3d", "bucket_starts", last)
    graph.add("Add", "candidates", "bucket_starts_3d", graph.constant("bucket_indices", np.arange(largest)))
    graph.add("Gather", "candidate_keys", graph.constant("linear.keys", padded_keys), "candidates")
    graph.add("Unsqueeze", "keys_3d", "keys", last)
    graph.add("Equal", "is_pair", "candidate_keys", "keys_3d")  # (batch, length, largest)
    graph.add("Add", "candidate_rows", "candidates", graph.constant("first_row", first_row))
    graph.add("Where", "possible_rows", "is_pair", "candidate_rows", "no_row")
    graph.add("ReduceMax", "pair_rows", "possible_rows", axes=[2], keepdims=0)
    return order


def _to_tensor(name: str, value: np.ndarray) -> "TensorProto":
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(value), name)
