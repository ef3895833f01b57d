"""Batches: every row once an epoch, in an order that every worker computes, and each word once a batch."""

import numpy as np
import pytest

from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import Batch, Collator, iter_batches_by_length, make_epoch_batches
from tests.gpu_path import collate_on_device

GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(0, 30, 1003)
TOKENS = Tokens(GENERATOR.integers(1, 90, LENGTHS.sum()).astype(np.int32), np.concatenate([[0], LENGTHS.cumsum()]))


def test_every_row_is_in_one_batch_of_an_epoch() -> None:
    """Batches have the requested size, except one of each sort window."""
    batches = make_epoch_batches(LENGTHS, 50, seed=0, epoch=1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert len(batches) == 21
    assert all(len(batch) == 50 for batch in sorted(batches, key=len)[1:])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    """Resumed runs and other workers compute the same order."""

    def rows(seed: int, epoch: int) -> list[int]:
        return np.concatenate(make_epoch_batches(LENGTHS, 50, seed, epoch)).tolist()

    assert rows(0, 1) == rows(0, 1)
    assert rows(0, 1) != rows(0, 2)
    assert rows(0, 1) != rows(1, 1)


def test_texts_of_similar_length_share_a_batch() -> None:
    """Batches contain little padding."""
    spread = [np.ptp(LENGTHS[batch]) for batch in make_epoch_batches(LENGTHS, 50, seed=0, epoch=1)]
    assert np.median(spread) <= 3
    assert sorted(np.concatenate(list(iter_batches_by_length(LENGTHS, 64))).tolist()) == list(range(1003))
    assert max(np.ptp(LENGTHS[rows]) for rows in iter_batches_by_length(LENGTHS, 64)) <= 4


def test_rows_sorted_by_label_are_shuffled() -> None:
    """Files are often sorted by label; every batch has texts of both labels."""
    labels = np.repeat([0, 1], 500)
    lengths = np.full(1000, 7)
    assert all(0.2 < labels[batch].mean() < 0.8 for batch in make_epoch_batches(lengths, 50, seed=0, epoch=1))


def decode(batch: Batch) -> list[list[int]]:
    """Return the word ids of a batch's texts."""
    return [
        batch.word_ids[batch.token_indices[start:end].long()].tolist()
        for start, end in zip(batch.offsets, batch.offsets[1:], strict=False)
    ]


def test_a_batch_has_each_word_once_and_decodes_to_the_tokens() -> None:
    """One collator makes several batches, of rows in any order."""
    collator = Collator(TOKENS, 90)
    for rows in (np.array([40, 3, 999]), np.arange(500), np.array([3])):
        batch = collator.collate(rows)
        assert len(batch) == len(rows)
        assert decode(batch) == [TOKENS.ids[TOKENS.offsets[row] : TOKENS.offsets[row + 1]].tolist() for row in rows]
        assert len(set(batch.word_ids.tolist())) == len(batch.word_ids)
        assert batch.max_length == max(1, LENGTHS[rows].max())


@pytest.mark.parametrize("ids", [TOKENS.ids, np.full(LENGTHS.sum(), 7, np.int32)], ids=["words", "one word"])
def test_the_gpu_code_path_makes_the_same_texts(ids: np.ndarray) -> None:
    """A batch has each word once, then padding; all tokens may be the same word, or there may be no tokens."""
    collator = Collator(Tokens(ids, TOKENS.offsets), 90)
    empty = np.flatnonzero(LENGTHS == 0)[:2]
    for rows in (np.array([40, 3, 999]), np.arange(200), empty):
        batch = collate_on_device(collator, rows)
        assert decode(batch) == decode(collator.collate(rows))
        words = [word for word in batch.word_ids.tolist() if word]
        assert len(set(words)) == len(words)
        assert len(batch.word_ids) == len(batch.token_indices)
