"""Training steps with static shapes on the texts of a chunk: with torch's operations, or with fused kernels.

Both take the step that the chunk's counter names, with all rows, words and tokens padded to a `StepShape`, and change
the same parameters and states. They read nothing from the host and return nothing to it, so both can be captured as a
CUDA graph; on a CPU they run as they are. `TorchStep` is the reference, and the fallback without Triton.

A padded row has no tokens and a weight of zero in the loss, a padded word is the padding word with a gradient of zero,
so padding changes no result but the order of sums.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from jobs.model.batches import Batch
from jobs.model.convolution import supports_triton
from jobs.model.dense_adamw import DenseAdamW
from jobs.model.dropout import draw_mask_of_step
from jobs.model.gpu.chunk import PLAN, Chunk, StepShape
from jobs.model.lazy_adam import BETAS, EPS, LazyAdam
from jobs.model.network import Network, compute_row_losses, limit_norm

MAX_CLASSES = 256  # of a program of `jobs.model.gpu.output_layer`


@dataclass(frozen=True)
class StepOptions:
    """Options of the training steps of a run.

    precision: setting of `train`. label_weights: as of `compute_row_losses`. float32_products: torch's precision of
    float32 matrix products on a GPU; `high` is TF32.
    """

    precision: str = "float32"
    label_weights: Tensor | None = None
    float32_products: str = "high"


class Step(ABC):
    """A training step.

    Args:
        network: its parameters are changed, and the states of the optimizers.
        loss_sum: `(1,)` float64, to which the losses of all rows are added.
    """

    def __init__(
        self, network: Network, dense: DenseAdamW, words: LazyAdam | None, options: StepOptions, loss_sum: Tensor
    ) -> None:
        self.network, self.dense, self.words, self.options, self.loss_sum = network, dense, words, options, loss_sum

    def take(self, chunk: Chunk, shape: StepShape, *, trains_vectors: bool) -> None:
        """Take the next step of a chunk, and count it."""
        with torch.no_grad(), self._set_product_precision():
            self._take(chunk, shape, trains_vectors)
            steps = [self.dense.state[parameter]["step"] for parameter in self.network.dense_parameters().values()]
            torch._foreach_add_([chunk.counter, *steps], 1.0)

    def prepare(self) -> None:  # noqa: B027  # most have nothing to prepare
        """Prepare for parameters that were changed since the last step."""

    @abstractmethod
    def _take(self, chunk: Chunk, shape: StepShape, trains_vectors: bool) -> None: ...

    @abstractmethod
    def select_shape(self, rows: int, words: int, extras: int, tokens: int, length: int) -> StepShape:
        """Return the sizes of a step, of which those are zero that it does not need."""

    @contextmanager
    def _set_product_precision(self) -> Iterator[None]:
        if not self.loss_sum.is_cuda:
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.options.float32_products)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


class TorchStep(Step):
    """A step with torch's operations, as `jobs.training.loop.Loop.step` takes it."""

    def select_shape(self, rows: int, words: int, extras: int, tokens: int, length: int) -> StepShape:
        """Return the sizes without further slots."""
        return StepShape(rows, words, 0, tokens, length)

    def _take(self, chunk: Chunk, shape: StepShape, trains_vectors: bool) -> None:
        network, device = self.network, chunk.counter.device
        plan = dict(zip(PLAN, chunk.plans.index_select(0, chunk.counter.long())[0].unbind(), strict=True))
        rates = chunk.rates.index_select(0, chunk.counter.long())[0].unbind()
        row = torch.arange(shape.rows, device=device)
        text = torch.where(row < plan["num_rows"], plan["first_row"] + row, len(chunk.weights) - 1)
        batch = self._read_batch(chunk, shape, plan)
        vectors = network.lookup_trained_vectors(batch.word_ids)
        with torch.enable_grad():
            if vectors is not None:
                vectors.requires_grad_(trains_vectors)
            hidden = network.forward_features(batch, vectors, bfloat16=self.options.precision == "bfloat16")
            if dropout := network.settings.dropout:
                numbers = (plan["seed"], plan["epoch"], plan["number"])
                hidden = hidden * draw_mask_of_step(row, hidden.shape[1], dropout, numbers)
        limit_norm(network)
        scores = (hidden.detach() @ network.output.T + network.output_bias).requires_grad_()
        with torch.enable_grad():
            labels = chunk.labels.index_select(0, text)
            if labels.dim() == 2:
                losses = compute_row_losses(scores, labels, self.options.label_weights)
            else:
                losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
        weights = chunk.weights.index_select(0, text)
        [gradient] = torch.autograd.grad(losses, [scores], weights[:, 1])
        network.filters.grad = network.biases.grad = None
        torch.autograd.backward(hidden, gradient @ network.output)
        network.output.grad, network.output_bias.grad = gradient.T @ hidden.detach(), gradient.sum(dim=0)
        self.loss_sum += losses.detach() @ weights[:, 0]
        for group in self.dense.param_groups:
            for parameter in group["params"]:
                if group["weight_decay"]:
                    parameter.mul_(rates[2])
                assert parameter.grad is not None
                _step_adam(parameter, self.dense.state[parameter], parameter.grad, rates[0], rates[1])
                parameter.grad = None  # other graphs use its memory
        if trains_vectors:
            assert vectors is not None
            assert vectors.grad is not None
            self._step_words(batch.word_ids, vectors.grad, rates[3], rates[4])

    def _read_batch(self, chunk: Chunk, shape: StepShape, plan: dict[str, Tensor]) -> Batch:
        """Return the step's texts, followed by empty ones."""
        device = chunk.counter.device
        row = torch.minimum(torch.arange(shape.rows + 1, device=device), plan["num_rows"])
        word = torch.arange(shape.words, device=device)
        word_ids = chunk.word_ids[(plan["first_word"] + word).clamp(max=len(chunk.word_ids) - 1)]
        token = plan["first_token"] + torch.arange(shape.tokens, device=device)
        return Batch(
            torch.where(word < plan["num_words"], word_ids, 0),
            chunk.token_words[token.clamp(max=len(chunk.token_words) - 1)],
            chunk.offsets[plan["first_row"] + row] - plan["first_token"],
            shape.length,
        )

    def _step_words(self, word_ids: Tensor, gradient: Tensor, factor: Tensor, correction: Tensor) -> None:
        assert self.words is not None
        tables = (self.words.table, *self.words.moments.values())
        rows = [table.index_select(0, word_ids) for table in tables]
        gradient = self.words.pull_gradient(word_ids, gradient)
        if self.words.trained is not None:
            gradient = gradient * self.words.trained.index_select(0, word_ids)[:, None]
        _step_adam(rows[0], dict(zip(self.words.moments, rows[1:], strict=True)), gradient, factor, correction)
        for table, updated in zip(tables, rows, strict=True):
            table.index_copy_(0, word_ids, updated)  # repeated are only rows of padding, which are equal


def _step_adam(value: Tensor, state: dict[str, Tensor], gradient: Tensor, factor: Tensor, correction: Tensor) -> None:
    """Take a step of Adam in place, with factors on the device; see `jobs.model.gpu.rates`."""
    state["exp_avg"].lerp_(gradient, 1 - BETAS[0])
    state["exp_avg_sq"].mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    value.sub_(factor * state["exp_avg"] / (state["exp_avg_sq"].sqrt() * correction + EPS))


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return a matrix product in float32; the factors may be bfloat16, and sums are float32."""
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


class FusedStep(Step):
    """A step with Triton's kernels and three matrix products, of a network in float32."""

    def __init__(
        self, network: Network, dense: DenseAdamW, words: LazyAdam | None, options: StepOptions, loss_sum: Tensor
    ) -> None:
        from jobs.model.gpu.windows import make_layout  # Triton is not installed everywhere

        super().__init__(network, dense, words, options, loss_sum)
        self._widths = tuple(network.settings.filter_widths)
        self._layout = make_layout(self._widths, network.settings.feature_maps, loss_sum.device)
        is_rounded = options.precision == "bfloat16"
        self._dtype = torch.bfloat16 if is_rounded else torch.float32
        self._rounded = torch.empty_like(network.filters, dtype=torch.bfloat16) if is_rounded else None

    def prepare(self) -> None:
        """Copy the filters to bfloat16."""
        if self._rounded is not None:
            self._rounded.copy_(self.network.filters.detach())

    def select_shape(self, rows: int, words: int, extras: int, tokens: int, length: int) -> StepShape:
        """Return the sizes without those of tokens, which the kernels read from the device."""
        return StepShape(rows, words, extras)

    def _take(self, chunk: Chunk, shape: StepShape, trains_vectors: bool) -> None:
        from jobs.model.gpu import adam, output_layer, windows

        network, options, settings = self.network, self.options, self.network.settings
        filters = network.filters if self._rounded is None else self._rounded
        vectors = adam.gather_vectors(
            network.initial_vectors if network.has_fixed else None, network.vectors, chunk, shape, self._dtype
        )
        projected = vectors[: shape.words] @ filters.T
        hidden, argmax = windows.compute_hidden(
            projected, chunk, shape.rows, self._layout, max(self._widths), network.biases, settings.dropout
        )
        losses, gradient, scales, parts = output_layer.compute_gradients(
            hidden, network.output, network.output_bias, chunk, options.label_weights, settings.max_norm,
            settings.dropout,
        )  # fmt: skip
        parameters = network.dense_parameters()
        states = {name: self.dense.state[parameter] for name, parameter in parameters.items()}
        output_layer.update_parameters(parts, scales, losses, self.loss_sum, parameters, states, chunk)
        projected_gradient = windows.compute_projected_gradient(
            gradient, argmax, chunk, shape, self._layout, self._widths, self._dtype
        )
        if trains_vectors:
            assert self.words is not None
            first = network.has_fixed * network.initial_vectors.shape[1]  # column of the trained channel
            words_gradient = multiply(projected_gradient, filters[:, first:])
            adam.step_words(self.words, words_gradient, chunk, shape)
        filters_gradient = multiply(projected_gradient.T, vectors)
        adam.step_dense(network.filters, filters_gradient, states["filters"], self._rounded, chunk)


def supports_fused_step(network: Network) -> bool:
    """Return whether `FusedStep` can train a network: Triton is there, and it has float32 and not too many classes."""
    return supports_triton(network.filters.dtype) and len(network.output) <= MAX_CLASSES
