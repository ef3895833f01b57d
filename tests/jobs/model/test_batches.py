"""Which rows a step sees: all of them once, the same for every worker."""

import numpy as np
import pytest
import torch

from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import Batch, Collator, iter_batches_by_length, make_epoch_batches

GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(0, 30, 1003)
TOKENS = Tokens(GENERATOR.integers(1, 90, LENGTHS.sum()).astype(np.int32), np.concatenate([[0], LENGTHS.cumsum()]))


def test_every_row_comes_once_an_epoch() -> None:
    """In batches of the size asked for, but for one of each window."""
    batches = make_epoch_batches(LENGTHS, 50, seed=0, epoch=1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert len(batches) == 21
    assert all(len(batch) == 50 for batch in sorted(batches, key=len)[1:])


def test_the_order_follows_from_seed_and_epoch() -> None:
    """Resumed runs and other workers see the same."""

    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(make_epoch_batches(LENGTHS, 50, seed, epoch)).tolist()

    assert flat(0, 1) == flat(0, 1)
    assert flat(0, 1) != flat(0, 2)
    assert flat(0, 1) != flat(1, 1)


def test_texts_of_similar_length_go_together() -> None:
    """So that little is padding."""
    spread = [np.ptp(LENGTHS[batch]) for batch in make_epoch_batches(LENGTHS, 50, seed=0, epoch=1)]
    assert np.median(spread) <= 3
    assert sorted(np.concatenate(list(iter_batches_by_length(LENGTHS, 64))).tolist()) == list(range(1003))
    assert max(np.ptp(LENGTHS[rows]) for rows in iter_batches_by_length(LENGTHS, 64)) <= 4


def test_a_batch_sorted_by_label_is_shuffled() -> None:
    """Files often are sorted; batches must not be."""
    labels = np.repeat([0, 1], 500)
    lengths = np.full(1000, 7)
    assert all(0.2 < labels[batch].mean() < 0.8 for batch in make_epoch_batches(lengths, 50, seed=0, epoch=1))


def texts_of(batch: Batch) -> list[list[int]]:
    return [
        batch.word_ids[batch.token_indices[start:end].long()].tolist()
        for start, end in zip(batch.offsets, batch.offsets[1:], strict=False)
    ]


def expected(rows: np.ndarray) -> list[list[int]]:
    return [TOKENS.ids[TOKENS.offsets[row] : TOKENS.offsets[row + 1]].tolist() for row in rows]


def test_a_batch_holds_each_word_once_and_leads_back_to_the_tokens() -> None:
    """Again and again from one collator, for rows in any order."""
    collator = Collator(TOKENS, 90)
    for rows in (np.array([40, 3, 999]), np.arange(500), np.array([3])):
        batch = collator.collate(rows)
        assert len(batch) == len(rows)
        assert texts_of(batch) == expected(rows)
        assert len(set(batch.word_ids.tolist())) == len(batch.word_ids)
        assert batch.max_length == max(1, LENGTHS[rows].max())


@pytest.mark.parametrize("ids", [TOKENS.ids, np.full(LENGTHS.sum(), 7, np.int32)])
def test_the_way_a_gpu_takes_gives_the_same_texts(ids: np.ndarray) -> None:
    """Each word once and then padding, also where all tokens are the same, or there are none."""
    tokens = Tokens(ids, TOKENS.offsets)
    collator = Collator(tokens, 90)
    collator._ids = torch.from_numpy(ids).long()
    collator._offsets = torch.from_numpy(tokens.offsets)
    empty = np.flatnonzero(LENGTHS == 0)[:2]
    for rows in (np.array([40, 3, 999]), np.arange(200), empty):
        batch = collator._resident(rows)
        assert texts_of(batch) == texts_of(collator.collate(rows))
        words = [word for word in batch.word_ids.tolist() if word]
        assert len(set(words)) == len(words)
        assert len(batch.word_ids) == len(batch.token_indices)
