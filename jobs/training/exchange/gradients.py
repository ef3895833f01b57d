"""Exchange of gradients: the sums over the workers, of which each has computed those of its rows of a batch.

A step exchanges the dense gradients and those of the word vectors in the batch; nothing grows with the vocabulary:

1. While the gradients are computed, the workers send each other the ids of their words. Then each knows all distinct
   words of the batch, and which workers have them.
2. Each worker sums a part of the dense gradients, and the gradients of a part of the words, which the others send it.
3. Each worker sends its sums to all others.

This is a reduce-scatter followed by an all-gather (Thakur et al. 2005), without zeros for the words that a worker does
not have. Sums are in the order of the ranks, so all workers have the same bits, through shared memory and through gloo.
`jobs.training.exchange.plan` describes the messages.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from jobs.training.exchange.plan import plan_exchange
from jobs.training.process_group import ProcessGroup


class GradientExchange:
    """Exchange of the gradients of one worker; without other workers it does nothing.

    Args:
        num_words: size of the vocabulary.
    """

    def __init__(self, group: ProcessGroup, num_words: int) -> None:
        self._group = group
        self._word_index = np.full(num_words if group.world_size > 1 else 0, -1, np.int32)
        self._word_ids = torch.empty(0, dtype=torch.int64)
        self._receive_word_ids: Callable[[], list[Tensor]] = list
        self._buffers: dict[str, Tensor] = {}

    def send_word_ids(self, word_ids: Tensor, token_counts: Sequence[int]) -> None:
        """Send the ids of this worker's words to the others; call `sum_gradients` next, with gradients of these words.

        Args:
            word_ids: `(words,)` int64, distinct; on a GPU followed by padding (0).
            token_counts: tokens of each worker, of which none has more words.
        """
        self._word_ids = word_ids
        if self._group.world_size > 1:
            message = self._group.new_message(max(token_counts) + 1, torch.int32)
            message[0] = torch.count_nonzero(word_ids)
            message[1 : len(word_ids) + 1] = word_ids
            self._receive_word_ids = self._group.all_gather_tensors(message)

    @torch.no_grad()
    def sum_gradients(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Replace the gradients of parameters by their sums over the workers, and return the sums of the others.

        The sums are valid until the next call.

        Args:
            rows: `(words, columns)`, gradients of the words that were sent; None if none were.

        Returns:
            The loss; the distinct words of all workers, `(words,)` int64, and the sums for `rows`, None as that.
        """
        if self._group.world_size == 1:
            return loss, self._word_ids, rows
        gradients = [parameter.grad.flatten() for parameter in parameters if parameter.grad is not None]
        message = self._reuse_memory("message", sum(map(len, gradients)) + 1, loss)
        torch.cat([*gradients, loss[None]], out=message)
        word_ids = [np.empty(0, np.int32)] * self._group.world_size
        if rows is not None:
            received = [message.cpu().numpy() for message in self._receive_word_ids()]
            word_ids = [ids[1 : ids[0] + 1] for ids in received]
        dense_sum, all_words, rows_sum = self._sum(message, word_ids, loss.new_empty(0, 0) if rows is None else rows)
        *parts, loss_sum = torch.split(dense_sum, [*map(len, gradients), 1])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        return loss_sum[0], all_words, None if rows is None else rows_sum

    def _sum(self, dense: Tensor, word_ids: Sequence[np.ndarray], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums over the workers of `dense`, `(elements,)`, the words of all workers, and their gradients."""
        group, columns = self._group, rows.shape[1]
        limit = None if group.shared_memory is None else group.shared_memory.max_message_bytes // dense.itemsize
        if limit is not None and limit < group.world_size * (columns + 1):
            limit = None  # not even a word of each worker fits: longer messages are sent with gloo
        plan = plan_exchange(len(dense), columns, word_ids, self._word_index, group.rank, limit)
        dense_sum = self._reuse_memory("dense", len(dense), dense)
        rows_sum = self._reuse_memory("rows", len(plan.word_ids) * columns, rows).view(len(plan.word_ids), columns)
        first_row = 0
        for number in range(plan.rounds):
            sizes = plan.block_sizes(number)
            message = group.new_message(int(sizes[group.rank].sum()), dense.dtype)
            plan.write_message(number, dense, rows, message)
            blocks = group.all_to_all(message, sizes)
            sums = group.new_message(plan.sum_size(number), dense.dtype)
            plan.add_blocks(number, blocks, sums)
            for part, part_sums in zip(plan.parts_of_round(number), group.all_gather_tensors(sums)(), strict=True):
                span, num_rows = plan.dense_span(part), plan.num_words(part)
                num_dense = span.stop - span.start
                dense_sum[span] = part_sums[:num_dense]
                part_rows = part_sums[num_dense : num_dense + num_rows * columns].view(num_rows, columns)
                rows_sum[first_row : first_row + num_rows] = part_rows
                first_row += num_rows
        return dense_sum, torch.from_numpy(plan.word_ids).to(dense.device), rows_sum

    def _reuse_memory(self, name: str, count: int, like: Tensor) -> Tensor:
        """Return uninitialised memory, `(count,)`, the same in each step: new memory takes as long as copying to it."""
        if name not in self._buffers or len(self._buffers[name]) < count:
            self._buffers[name] = like.new_empty(count)
        return self._buffers[name][:count]
