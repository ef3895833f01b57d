"""Random texts and chunks for the steps of `jobs.model.gpu`."""

from collections.abc import Sequence

import numpy as np
import torch

from jobs.datasets.tokenizer import Tokens
from jobs.model.batches import Collator
from jobs.model.gpu.chunk import PLAN, Chunk, ChunkCollator


def make_tokens(lengths: Sequence[int], num_words: int, seed: int = 0) -> Tokens:
    """Return texts of some lengths, of the words 1 to `num_words` - 1; low ones are frequent, as in real texts."""
    shares = np.random.default_rng(seed).random(sum(lengths))
    ids = 1 + ((num_words - 1) * shares**3).astype(np.int32)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def make_chunk_collator(tokens: Tokens, num_words: int, device: torch.device) -> ChunkCollator:
    """Return a collator of texts."""
    return ChunkCollator(*Collator(tokens, num_words, device).device_texts, tokens.lengths, num_words)


def make_chunk(
    tokens: Tokens, num_words: int, batches: Sequence[np.ndarray], device: torch.device
) -> tuple[Chunk, list[tuple[int, int]]]:
    """Return a chunk of batches with seed 3, epoch 2 and step numbers from 0, and each step's slots."""
    chunk = Chunk.allocate(len(batches), sum(map(len, batches)), int(tokens.lengths.sum()), (), device)
    counts = make_chunk_collator(tokens, num_words, device).collate(batches, chunk)
    chunk.plans[:, PLAN.index("seed")], chunk.plans[:, PLAN.index("epoch")] = 3, 2
    chunk.plans[:, PLAN.index("number")] = torch.arange(len(batches), device=device)
    return chunk, counts
