"""Exchange of gradients between workers through shared memory: exact sums, the same on all workers."""

from pathlib import Path

import pytest
import torch

from jobs.training.exchange import shared_memory
from jobs.training.exchange.gradients import GradientExchange
from jobs.training.exchange.shared_memory import SharedMemory
from jobs.training.process_group import ProcessGroup
from tests.support.threads import run_workers

VOCABULARY, COLUMNS, NUM_DENSE, STEPS = 50, 8, 33, 20


def make_gradients(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the dense gradients, the words and their gradients of a worker in a step; some workers have no words."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    words = torch.randperm(VOCABULARY - 1, generator=generator)[: (7 * rank + 5 * step) % 40] + 1
    return torch.randn(NUM_DENSE, generator=generator), words, torch.randn(len(words), COLUMNS, generator=generator)


def test_one_worker_exchanges_nothing() -> None:
    exchange, words, rows = GradientExchange(ProcessGroup(), VOCABULARY), torch.tensor([3, 5]), torch.ones(2, COLUMNS)
    exchange.send_word_ids(words, [4])
    loss, all_words, rows_sum = exchange.sum_gradients([], torch.tensor(1.5), rows)
    assert (loss.item(), all_words is words, rows_sum is rows) == (1.5, True, True)


@pytest.mark.parametrize("is_limited", [False, True])
@pytest.mark.parametrize("size", [2, 3])
def test_all_workers_have_the_sums_in_every_step(size: int, is_limited: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if messages are longer than the shared memory allows, and in steps without words."""
    if is_limited:
        monkeypatch.setattr(shared_memory, "MAX_MESSAGE_BYTES", 512)
    path = SharedMemory.create_file(size)
    if path is None:
        pytest.skip("this machine has no usable shared memory")

    def work(group: ProcessGroup) -> list[tuple[torch.Tensor, ...]]:
        exchange = GradientExchange(group, VOCABULARY)
        parameters = [torch.nn.Parameter(torch.zeros(4, 8)), torch.nn.Parameter(torch.zeros(NUM_DENSE - 32))]
        results = []
        for step in range(STEPS):
            dense, words, rows = make_gradients(group.rank, step)
            parameters[0].grad, parameters[1].grad = dense[:32].view(4, 8), dense[32:]
            padded = None
            if step % 5 != 4:
                # On a GPU padding follows the words.
                exchange.send_word_ids(torch.cat([words, words.new_zeros(group.rank)]), [40 + size] * size)
                padded = torch.cat([rows, torch.full((group.rank, COLUMNS), torch.nan)])
            loss, word_ids, rows_sum = exchange.sum_gradients(parameters, torch.tensor(group.rank + 0.5), padded)
            assert loss.item() == sum(rank + 0.5 for rank in range(size))
            dense_sum = torch.cat([parameter.grad.flatten() for parameter in parameters])
            results.append((dense_sum, word_ids, torch.empty(0) if rows_sum is None else rows_sum.clone()))
        return results

    first, *others = run_workers(path, size, work)
    Path(path).unlink()
    for step, (dense_sum, words, rows_sum) in enumerate(first):
        gradients = [make_gradients(rank, step) for rank in range(size)]
        expected_dense, expected = torch.zeros(NUM_DENSE), torch.zeros(VOCABULARY, COLUMNS)
        for dense, own_words, rows in gradients:
            expected_dense += dense
            expected[own_words] += rows
        assert torch.equal(dense_sum, expected_dense)
        if step % 5 == 4:
            assert not len(words)
        else:
            assert sorted(words.tolist()) == sorted({word for _, own, _ in gradients for word in own.tolist()})
            assert torch.equal(rows_sum, expected[words])
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(other[step], first[step], strict=True))
