"""Training steps of static shapes, each shape captured once as a CUDA graph and then replayed.

The first step of a shape runs as it is, which compiles the kernels; the second one is captured. The capture is a thin
layer: without it, and on a CPU, the same steps run one operation after another. `jobs.model.gpu.chunk` has the batches,
`jobs.model.gpu.step` the steps.

One worker only: the exchange of several workers sends as many words as a batch has, so the host must know the number in
each step. Several workers train without graphs, with `jobs.training.loop.Loop.step`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jobs.model.batches import Collator, copy_to_device
from jobs.model.dense_adamw import DenseAdamW
from jobs.model.gpu.chunk import CHUNK_TOKENS, PLAN, Chunk, ChunkCollator, StepShape, round_size, round_to_power
from jobs.model.gpu.rates import LearningRates
from jobs.model.gpu.step import FusedStep, Step, StepOptions, TorchStep, supports_fused_step
from jobs.model.lazy_adam import LazyAdam
from jobs.model.network import Network


class StaticSteps:
    """Steps of one worker.

    Args:
        network, dense, words: the network and its optimizers.
        collator: of the training texts; its device is the network's.
        labels: of the training texts on the device, `(texts,)` int64 or `(texts, labels)`.
        row_weights: of the texts in the loss, `(texts,)` float32; None if they are equal.
        batch_size: rows of a step; the last step of an epoch may have fewer.
        seed: of the dropout masks.
        use_triton: with fused kernels; by default where `supports_fused_step`. use_graphs: capture the steps; by
            default on a GPU.
    """

    def __init__(
        self, network: Network, dense: DenseAdamW, words: LazyAdam | None, collator: Collator, labels: Tensor,
        row_weights: Tensor | None, batch_size: int, seed: int, options: StepOptions, *,
        use_triton: bool | None = None, use_graphs: bool | None = None,
    ) -> None:  # fmt: skip
        self.loss_sum = torch.zeros(1, dtype=torch.float64, device=collator.device)
        self.use_graphs = collator.device.type == "cuda" if use_graphs is None else use_graphs
        if use_triton is None:
            use_triton = collator.device.type == "cuda" and supports_fused_step(network)
        self.step: Step = (FusedStep if use_triton else TorchStep)(network, dense, words, options, self.loss_sum)
        self._collator = ChunkCollator(*collator.device_texts, collator.lengths, len(network.initial_vectors))
        self._lengths, self._labels, self._batch_size, self._seed = collator.lengths, labels, batch_size, seed
        self._row_weights = None if row_weights is None else row_weights.cpu().numpy()
        longest = np.sort(self._lengths)[-batch_size:].sum()
        self._chunk_tokens = int(min(self._lengths.sum(), max(CHUNK_TOKENS, longest)))
        self._chunk: Chunk | None = None
        # By the shape of a step, and whether it trains vectors; None before the capture.
        self.graphs: dict[tuple[StepShape, bool], torch.cuda.CUDAGraph | None] = {}
        self._pool: Any = None  # memory of all graphs, of which one runs at a time
        self._addresses: tuple[int, ...] = ()

    def iter_steps(
        self, batches: Sequence[np.ndarray], first: int, epoch: int, rates: LearningRates, train_loss: float
    ) -> Iterator[None]:
        """Take the steps of an epoch from number `first` on, and yield after each.

        Args:
            batches: of the complete epoch; rates: of all of its steps.
            train_loss: of the steps before; `loss_sum` becomes the sum.
        """
        network, dense, words = self.step.network, self.step.dense, self.step.words
        trains_vectors = network.vectors is not None and network.vectors.requires_grad
        dense.create_state()
        self.step.prepare()
        self.loss_sum.fill_(train_loss)
        while first < len(batches):
            last = self._find_end(batches, first)
            shapes = self._collate(batches[first:last], first, epoch, rates.select(first, last), len(batches))
            for shape in shapes:
                self._take(shape, trains_vectors)
                if words is not None and trains_vectors:
                    words.steps += 1
                yield
            first = last

    def _find_end(self, batches: Sequence[np.ndarray], first: int) -> int:
        """Return the number of the step after the chunk that begins with step `first`."""
        tokens, last = 0, first
        while last < len(batches):
            tokens += int(self._lengths[batches[last]].sum())
            if tokens > self._chunk_tokens:
                break
            last += 1
        return last

    def _collate(
        self, batches: Sequence[np.ndarray], first: int, epoch: int, rates: LearningRates, num_steps: int
    ) -> list[StepShape]:
        """Write batches into the chunk, and return their shapes."""
        rows, device, label_shape = np.concatenate(batches), self.loss_sum.device, self._labels.shape[1:]
        if self._chunk is None or len(self._chunk.plans) < num_steps:
            self._chunk = Chunk.allocate(num_steps, len(self._labels), self._chunk_tokens, label_shape, device)
        chunk = self._chunk
        counts = self._collator.collate(batches, chunk)
        for name, value in (("seed", self._seed), ("epoch", epoch)):
            chunk.plans[: len(batches), PLAN.index(name)] = value
        chunk.plans[: len(batches), PLAN.index("number")] = torch.arange(first, first + len(batches), device=device)
        chunk.write("labels", self._labels[copy_to_device(rows, device)])
        chunk.write("weights", copy_to_device(self._weigh(batches), device))
        words = self.step.words
        state = self.step.dense.state[self.step.network.filters]
        factors = rates.compute_factors(int(state["step"].item()), 0 if words is None else words.steps)
        chunk.write("rates", copy_to_device(factors, device))
        chunk.counter.zero_()
        self._check_addresses(chunk)
        return [
            self.step.select_shape(
                self._batch_size, round_size(num_words), round_to_power(extras, 16) if extras else 0,
                round_size(int(lengths.sum())), round_size(int(lengths.max(initial=1))),
            )
            for (num_words, extras), lengths in zip(counts, (self._lengths[batch] for batch in batches), strict=True)
        ]  # fmt: skip

    def _weigh(self, batches: Sequence[np.ndarray]) -> np.ndarray:
        """Return the weights of the rows' losses and gradients, `(rows, 2)` float32."""
        weights = []
        for batch in batches:
            loss = np.ones(len(batch), np.float32) if self._row_weights is None else self._row_weights[batch]
            weights.append(np.stack([loss, loss / max(loss.sum(), np.finfo(np.float32).tiny)], axis=1))
        return np.concatenate(weights)

    def _check_addresses(self, chunk: Chunk) -> None:
        """Drop the graphs if a tensor that they contain is at another address, as after a restored checkpoint."""
        words, dense = self.step.words, self.step.dense
        tensors: list[Tensor] = [*self.step.network.dense_parameters().values()]
        tensors += [tensor for state in dense.state.values() for tensor in state.values()]
        if words is not None:
            tensors += [words.table, *words.moments.values()]
        addresses = (*chunk.addresses(), *(tensor.data_ptr() for tensor in tensors))
        if addresses != self._addresses:
            # The pool of memory goes with its last graph.
            self.graphs, self._pool, self._addresses = {}, None, addresses

    def _take(self, shape: StepShape, trains_vectors: bool) -> None:
        """Take a step, with the graph of its shape if it was captured."""
        assert self._chunk is not None
        key = (shape, trains_vectors)
        graph = self.graphs.get(key)
        if graph is None and key in self.graphs and self.use_graphs:
            graph = self.graphs[key] = self._capture(shape, trains_vectors)
        self.graphs.setdefault(key, None)
        if graph is None:
            self.step.take(self._chunk, shape, trains_vectors=trains_vectors)
        else:
            graph.replay()

    def _capture(self, shape: StepShape, trains_vectors: bool) -> torch.cuda.CUDAGraph:
        """Return the graph of a shape's steps; capturing takes no step."""
        assert self._chunk is not None
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Another thread writes checkpoints meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self.step.take(self._chunk, shape, trains_vectors=trains_vectors)
        return graph
