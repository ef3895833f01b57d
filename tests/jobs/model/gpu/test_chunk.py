"""Chunk: the batches that a collator on the CPU makes, and slots that divide the tokens of frequent words."""

import numpy as np
import pytest
import torch

from jobs.model.batches import Collator
from jobs.model.gpu import chunk as chunk_module
from jobs.model.gpu.chunk import PLAN, round_size
from tests.support.chunks import make_chunk, make_chunk_collator, make_tokens

CPU = torch.device("cpu")
NUM_WORDS = 40


def test_each_step_has_the_texts_of_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Word ids, tokens and occurrences of every step, among them empty texts and a batch without tokens."""
    monkeypatch.setattr(chunk_module, "SLOT_TOKENS", 4)
    tokens = make_tokens([12, 0, 1, 5, 2, 12, 0, 30, 7], NUM_WORDS)
    batches = [np.array([3, 0, 7]), np.array([1, 6]), np.array([8, 5, 4]), np.array([2])]
    chunk, counts = make_chunk(tokens, NUM_WORDS, batches, CPU)
    plans = chunk.plans.tolist()
    for batch, values, (num_words, num_extras) in zip(batches, plans, counts, strict=True):
        plan = dict(zip(PLAN, values, strict=True))
        assert (plan["num_rows"], plan["num_words"], plan["num_extras"]) == (len(batch), num_words, num_extras)
        expected = Collator(tokens, NUM_WORDS).collate(batch)
        words = chunk.word_ids[plan["first_word"] :][:num_words]
        assert words.tolist() == sorted(expected.word_ids.tolist())
        offsets = chunk.offsets[plan["first_row"] :][: len(batch) + 1]
        assert torch.equal(offsets - offsets[0], expected.offsets)
        assert offsets[0] == plan["first_token"]
        ids = words[chunk.token_words[offsets[0] : offsets[-1]].long()]
        assert torch.equal(ids, expected.word_ids[expected.token_indices.long()])

        extras = []
        for index in range(plan["first_word"], plan["first_word"] + num_words):
            start, end = chunk.word_starts[index : index + 2].tolist()
            rows, positions = chunk.occurrence_rows[start:end], chunk.occurrence_positions[start:end]
            assert (ids[expected.offsets[rows.long()] + positions] == chunk.word_ids[index]).all()
            assert end - start == (ids == chunk.word_ids[index]).sum()
            first, last = chunk.word_extras[index : index + 2].tolist()
            assert last - first == (end - start - 1) // 4
            extras += [index] * (last - first)
            assert first == plan["first_extra"] + len(extras) - (last - first)
        assert chunk.extra_words[plan["first_extra"] :][:num_extras].tolist() == extras
    assert counts[0][1] > 0, "a word has several slots"


def test_a_chunk_of_empty_texts_has_no_words() -> None:
    chunk, counts = make_chunk(make_tokens([0, 0], NUM_WORDS), NUM_WORDS, [np.array([0]), np.array([1])], CPU)
    assert counts == [(0, 0), (0, 0)]
    assert not chunk.offsets.any()


def test_memory_of_a_chunk_is_reused() -> None:
    """A graph contains the addresses."""
    tokens = make_tokens([12, 5, 5, 8], NUM_WORDS)
    chunk, _ = make_chunk(tokens, NUM_WORDS, [np.array([0, 1]), np.array([2])], CPU)
    addresses = chunk.addresses()
    make_chunk_collator(tokens, NUM_WORDS, CPU).collate([np.array([3])], chunk)
    assert chunk.addresses() == addresses
    assert chunk.plans[0, PLAN.index("num_rows")] == 1


def test_sizes_are_few_and_padded_by_a_fifth_at_most() -> None:
    sizes = {round_size(value) for value in range(1, 20_000)}
    assert all(size % 16 == 0 for size in sizes)
    assert len(sizes) < 40
    assert all(value <= round_size(value) <= max(16 + value, 1.25 * value) for value in range(1, 20_000))
