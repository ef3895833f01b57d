"""Plan of the exchange of gradients: the messages that it describes add up to the sums over the workers."""

import numpy as np
import pytest
import torch

from jobs.training.exchange.plan import ExchangePlan, number_words, plan_exchange

VOCABULARY = 60
COLUMNS = 5


def random_workers(size: int, num_dense: int) -> tuple[list[np.ndarray], torch.Tensor, list[torch.Tensor]]:
    """Return words, dense gradients and gradients of the words of each worker; the last worker has no words."""
    random = np.random.default_rng(size)
    word_ids = [random.permutation(VOCABULARY)[: 10 * rank + 7].astype(np.int32) for rank in range(size)]
    word_ids[-1] = word_ids[-1][:0]
    generator = torch.Generator().manual_seed(size)
    rows = [torch.randn(len(ids), COLUMNS, generator=generator) for ids in word_ids]
    return word_ids, torch.randn(size, num_dense, generator=generator), rows


def exchange(plans: list[ExchangePlan], dense: torch.Tensor, rows: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Send all messages from worker to worker, and return the sums of the dense gradients and of those of the words."""
    dense_sum = torch.full((dense.shape[1],), torch.nan)
    rows_sum = []
    for number in range(plans[0].rounds):
        sent = []
        for plan, own_dense, own_rows in zip(plans, dense, rows, strict=True):
            sizes = plan.block_sizes(number)
            message = torch.full((int(sizes[plan.rank].sum()),), torch.nan)
            plan.write_message(number, own_dense, own_rows, message)
            sent.append(message.split(sizes[plan.rank].tolist()))
        for plan, blocks, part in zip(plans, zip(*sent, strict=True), plans[0].parts_of_round(number), strict=True):
            sums = torch.full((plan.sum_size(number),), torch.nan)
            plan.add_blocks(number, blocks, sums)
            span = plan.dense_span(part)
            num_dense = span.stop - span.start
            dense_sum[span] = sums[:num_dense]
            rows_sum.append(sums[num_dense:][: plan.num_words(part) * COLUMNS].view(-1, COLUMNS))
    return dense_sum, torch.cat(rows_sum)


@pytest.mark.parametrize(("size", "num_dense"), [(2, 37), (3, 37), (5, 3), (3, 0)])
def test_the_messages_add_up_to_the_sums_over_the_workers(size: int, num_dense: int) -> None:
    """With one round and with several; a worker may have no words, and there may be fewer gradients than workers."""
    word_ids, dense, rows = random_workers(size, num_dense)
    expected = torch.zeros(VOCABULARY, COLUMNS)
    for ids, gradient in zip(word_ids, rows, strict=True):
        expected[torch.from_numpy(ids).long()] += gradient  # in the order of the ranks, as the exchange
    dense_expected = sum(dense[1:], start=dense[0])
    scratch = np.full(VOCABULARY, -1, np.int32)
    for limit in (None, 60):
        plans = [plan_exchange(num_dense, COLUMNS, word_ids, scratch, rank, limit) for rank in range(size)]
        assert (plans[0].rounds > 1) == (limit is not None)
        assert (scratch == -1).all()
        dense_sum, rows_sum = exchange(plans, dense, rows)
        assert torch.equal(dense_sum, dense_expected)
        assert sorted(plans[0].word_ids) == sorted(set(np.concatenate(word_ids)))
        assert torch.equal(rows_sum, expected[plans[0].word_ids])


def test_static_vectors_are_not_in_the_messages() -> None:
    dense = torch.arange(14.0).view(2, 7)
    no_words = [np.empty(0, np.int32)] * 2
    plans = [plan_exchange(7, 0, no_words, np.empty(0, np.int32), rank) for rank in range(2)]
    assert plans[0].block_sizes(0).sum() == 14
    sent = []
    for plan, own in zip(plans, dense, strict=True):
        sent.append(torch.empty(7))
        plan.write_message(0, own, torch.empty(0, 0), sent[-1])
    sums = torch.empty(plans[1].sum_size(0))
    plans[1].add_blocks(0, [message[4:] for message in sent], sums)
    assert sums[:3].tolist() == [15, 17, 19]


def test_messages_are_limited_and_the_work_is_divided_evenly() -> None:
    """The words that all workers have, as frequent words, are in all parts."""
    random = np.random.default_rng(0)
    word_ids = [np.concatenate([np.arange(200), 200 + random.permutation(800)[:200]]).astype(np.int32) for _ in "1234"]
    scratch = np.full(1000, -1, np.int32)
    for limit in (None, 100_000, 30_000):
        plan = plan_exchange(10_000, 300, word_ids, scratch, 0, limit)
        received = sum(plan.block_sizes(number) for number in range(plan.rounds)).sum(axis=0)
        assert received.max() < 1.1 * received.min()
        assert limit is None or plan.longest_message() <= limit


def test_the_shortest_messages_have_a_word_of_each_worker() -> None:
    words = [np.arange(64, dtype=np.int32)] * 8
    plan = plan_exchange(20, 50, words, np.full(64, -1, np.int32), 0, limit=8 * 51)
    assert plan.longest_message() <= 8 * 51
    with pytest.raises(AssertionError, match="300 elements are not enough"):
        plan_exchange(20, 50, words, np.full(64, -1, np.int32), 0, limit=300)


def test_the_words_of_all_workers_are_numbered_once() -> None:
    words = [np.array(ids, np.int32) for ids in ([7, 3], [], [3, 9, 7])]
    distinct, numbers = number_words(words, np.full(10, -1, np.int32))
    assert distinct.tolist() == [7, 3, 9]
    assert [part.tolist() for part in numbers] == [[0, 1], [], [1, 2, 0]]
