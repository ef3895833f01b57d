"""Blocks of the training texts, in this process and in Ray's object store, and the batches of an epoch."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import ray

from jobs.config.experiment import Experiment
from jobs.datasets.tokenizer import Tokens
from jobs.training.corpora import token_blocks
from jobs.training.corpora.block_reader import BlockReader
from jobs.training.corpora.corpus import Corpus
from jobs.training.corpora.sharing import put_corpus
from jobs.training.corpora.token_blocks import TokenBlocks
from jobs.training.linear import svc
from jobs.training.linear.svc import train_linear_classifier
from tests.support.toy_data import make_test_corpus

NUM_WORDS = 50


@pytest.fixture
def tokens() -> Tokens:
    """200 texts of 0 to 9 tokens, in nine blocks for the reader of `small_blocks`."""
    random = np.random.default_rng(1)
    lengths = random.integers(0, 10, 200)
    return Tokens(random.integers(1, NUM_WORDS, lengths.sum(), dtype=np.int32), np.concatenate([[0], lengths.cumsum()]))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_blocks, "BLOCK_TOKENS", 110)


def text(tokens: Tokens, row: int) -> list[int]:
    """Return the ids of a text."""
    return list(tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]])


def test_few_tokens_are_one_block_without_a_copy(tokens: Tokens) -> None:
    [block] = TokenBlocks(tokens)
    assert block.tokens is tokens
    assert list(block.rows) == list(range(200))


def test_every_text_is_in_one_block(tokens: Tokens, small_blocks: None) -> None:
    blocks = TokenBlocks(tokens)
    assert len(blocks.sizes) == -(-len(tokens.ids) // 110) > 5
    seen: list[int] = []
    for block, size in zip(blocks, blocks.sizes, strict=True):
        assert len(block.rows) == len(block.tokens) == size > 0
        assert (np.diff(block.rows) > 0).all()
        assert [text(block.tokens, index) for index in range(size)] == [text(tokens, row) for row in block.rows]
        seen += list(block.rows)
    assert sorted(seen) == list(range(200))


def test_an_epoch_has_every_row_once_and_its_blocks_in_another_order(tokens: Tokens, small_blocks: None) -> None:
    reader = BlockReader(TokenBlocks(tokens), NUM_WORDS, 8, seed=3)
    orders = []
    for epoch in (1, 2, 1):
        rows = []
        for first, batches in reader.iter_batches(epoch):
            assert first == len(rows)
            assert all(len(batch) <= 8 for batch in batches)
            rows += [list(reader.rows[batch]) for batch in batches]
        assert len(rows) == reader.num_batches
        assert sorted(row for batch in rows for row in batch) == list(range(200))
        orders.append(rows)
    assert orders[0] == orders[2] != orders[1]


def test_blocks_of_finished_batches_are_not_read(
    tokens: Tokens, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = BlockReader(TokenBlocks(tokens), NUM_WORDS, 8, seed=3)
    whole = [(first, len(batches)) for first, batches in reader.iter_batches(1)]
    read: list[int] = []
    monkeypatch.setattr(reader, "_enter", read.append)
    first, size = whole[4]
    assert [start for start, _ in reader.iter_batches(1, first + size - 1)] == [start for start, _ in whole[4:]]
    assert len(read) <= len(whole) - 4


def test_a_gpu_with_all_texts_has_the_same_batches(tokens: Tokens, small_blocks: None) -> None:
    readers = [BlockReader(TokenBlocks(tokens), NUM_WORDS, 8, 3, all_at_once=whole) for whole in (False, True)]
    in_blocks, [(first, batches)] = (list(rows) for rows in [_iter_rows(readers[0]), readers[1].iter_batches(2)])
    assert first == 0
    assert len(batches) == readers[1].num_batches == readers[0].num_batches
    assert in_blocks == [list(readers[1].rows[batch]) for batch in batches]


def _iter_rows(reader: BlockReader) -> Iterator[list[int]]:
    for _, batches in reader.iter_batches(2):
        yield from (list(reader.rows[batch]) for batch in batches)


@pytest.mark.ray
@pytest.mark.slow
def test_a_stored_corpus_has_the_same_texts_and_linear_classifier(
    embedded_ray: None,
    make_experiment: Callable[..., Experiment],
    small_blocks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tokens of a corpus with several blocks are objects of their own; a second `put` changes nothing."""
    corpus = make_test_corpus(make_experiment())
    monkeypatch.setattr(svc, "MAX_TOKENS", len(corpus.train.tokens.ids) // 2)  # a sample of the rows of all blocks
    reference = put_corpus(corpus)
    assert put_corpus(reference) is reference
    stored: Corpus = ray.get(put_corpus(ray.get(reference)))
    assert len(stored.train.tokens.ids) == 0
    assert len(stored.train) == len(corpus.train)
    blocks = stored.token_blocks
    assert len(blocks.sizes) > 3
    merged = blocks.select(slice(None))
    np.testing.assert_array_equal(merged.ids, corpus.train.tokens.ids)
    np.testing.assert_array_equal(merged.offsets, corpus.train.tokens.offsets)
    np.testing.assert_array_equal(stored.word_counts(), corpus.word_counts())
    rows, expected_rows = (
        list(_iter_rows(BlockReader(texts, len(corpus.vectors), 8, 3, all_at_once=whole)))
        for texts, whole in ((blocks, True), (corpus.token_blocks, False))
    )
    assert rows == expected_rows
    expected = train_linear_classifier(corpus, None)
    for name, value in train_linear_classifier(stored, None).items():
        np.testing.assert_array_equal(value, expected[name])
