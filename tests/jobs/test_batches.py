"""Which rows a step sees: all of them once, the same for every worker."""

import numpy as np
import torch

from jobs.batches import collate, distinct, order
from jobs.corpus import Encoded
from jobs.text import Tokens

GENERATOR = np.random.default_rng(0)
LENGTHS = GENERATOR.integers(0, 30, 1003)
PART = Encoded(
    Tokens(GENERATOR.integers(1, 90, LENGTHS.sum()).astype(np.int32), np.concatenate([[0], LENGTHS.cumsum()])),
    GENERATOR.integers(0, 3, 1003),
)


def test_every_row_comes_once_an_epoch() -> None:
    """In batches of the size asked for, but for one of each window."""
    batches = order(LENGTHS, 50, seed=0, epoch=1)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert len(batches) == 21
    assert all(len(batch) == 50 for batch in sorted(batches, key=len)[1:])


def test_the_order_follows_from_seed_and_epoch() -> None:
    """Resumed runs and other workers see the same."""

    def flat(seed: int, epoch: int) -> list[int]:
        return np.concatenate(order(LENGTHS, 50, seed, epoch)).tolist()

    assert flat(0, 1) == flat(0, 1)
    assert flat(0, 1) != flat(0, 2)
    assert flat(0, 1) != flat(1, 1)


def test_texts_of_similar_length_go_together() -> None:
    """So that little is padding."""
    spread = [np.ptp(LENGTHS[batch]) for batch in order(LENGTHS, 50, seed=0, epoch=1)]
    assert np.median(spread) <= 3


def test_a_batch_sorted_by_label_is_shuffled() -> None:
    """Files often are sorted; batches must not be."""
    labels = np.repeat([0, 1], 500)
    lengths = np.full(1000, 7)
    assert all(0.2 < labels[batch].mean() < 0.8 for batch in order(lengths, 50, seed=0, epoch=1))


def test_the_workers_shares_make_up_the_batch() -> None:
    """Each row with one worker, whatever their number; the touched words are the same for all."""
    rows = np.arange(40, 51)
    whole = collate(PART, rows)
    for num_workers in (2, 3, 20):
        shares = [collate(PART, rows, rank, num_workers) for rank in range(num_workers)]
        assert sum(len(share.labels) for share in shares) == len(rows)
        assert all(share.size == len(rows) for share in shares)
        assert all(torch.equal(share.all_words, whole.words) for share in shares)
        for share in shares:
            assert torch.equal(share.all_words[share.places], share.words)


def test_distinct_words_lead_back_to_the_tokens() -> None:
    """Padding first, even where none is needed."""
    tokens = np.array([[5, 9], [9, 5]])
    words, places = distinct(tokens)
    assert words.tolist() == [0, 5, 9]
    assert (words[places] == tokens).all()
