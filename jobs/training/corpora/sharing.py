"""Corpora in Ray's object store, where workers and trials read them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from cluster.console.logs import ForwardingHandler, handle_logs
from cluster.storage import absolute_path
from jobs.config.experiment import Experiment, digest
from jobs.datasets.dataset import Dataset
from jobs.datasets.tokenizer import Tokens
from jobs.embeddings.vector_files import GENSIM_PREFIX
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus
from jobs.training.corpora.token_blocks import TokenBlock, TokenBlocks

MAX_STORED_CORPORA = 4  # of a search over settings of `text`: each has vectors of its own


class StoredTokenBlocks(TokenBlocks):
    """Blocks in Ray's object store; the process must be connected to Ray.

    Args:
        blocks: to store.
    """

    def __init__(self, blocks: TokenBlocks) -> None:
        self.num_texts, self.num_tokens, self.sizes = blocks.num_texts, blocks.num_tokens, blocks.sizes
        self._references: list[Any] = [ray.put(block) for block in blocks]
        self._counts = blocks.count_words(0)

    def read(self, number: int) -> TokenBlock:
        """Return a block, which maps the memory of the object store."""
        block: TokenBlock = ray.get(self._references[number])
        return block

    def select(self, rows: slice | np.ndarray) -> Tokens:
        """Return the tokens of some texts, a copy; all blocks are read."""
        if isinstance(rows, slice):
            rows = np.arange(self.num_texts)[rows]
        block_rows, ids, lengths = [], [], []
        for block in self:
            positions = np.flatnonzero(np.isin(block.rows, rows, assume_unique=True))
            tokens = block.tokens.select(positions)
            block_rows.append(block.rows[positions])
            ids.append(tokens.ids)
            lengths.append(tokens.lengths)
        tokens = Tokens(np.concatenate(ids), np.concatenate([[0], np.concatenate(lengths).cumsum()]))
        del ids  # most of the memory
        return tokens.select(np.argsort(np.concatenate(block_rows)))

    def count_words(self, num_words: int) -> np.ndarray:
        """Return the counts, which were computed before the blocks were stored."""
        return np.pad(self._counts, (0, max(0, num_words - len(self._counts))))


def put_corpus(corpus: Any) -> Any:
    """Return Ray's reference to a corpus, whose blocks of texts are objects of their own if there are several.

    The process must be connected to Ray.

    Args:
        corpus: a Corpus, or Ray's reference to one, which is returned.
    """
    if isinstance(corpus, ray.ObjectRef):
        return corpus
    blocks = corpus.token_blocks
    if corpus.stored_blocks is None and len(blocks.sizes) > 1:
        train = replace(corpus.train, tokens=corpus.train.tokens.select(slice(0)))
        corpus = replace(corpus, train=train, stored_blocks=StoredTokenBlocks(blocks))
    return ray.put(corpus)


def put_if_connected(corpus: Any) -> Any:
    """Return Ray's reference to a corpus, as `put_corpus`; the corpus itself if this process is not connected."""
    return put_corpus(corpus) if ray.is_initialized() else corpus


class CorpusCache:
    """Corpora of one dataset, one for each way to read its texts, built on first use; in a search a Ray actor.

    Args:
        experiment, dataset: of the search, with the paths of `use_absolute_paths` if this is an actor.
        put: stores a corpus and returns a reference to it.
        send: receives log messages, as ("log", (level, message)).
    """

    def __init__(
        self, experiment: Experiment, dataset: Dataset, put: Callable[[Corpus], Any], send: Callable[[str, Any], None]
    ) -> None:
        self._experiment, self._dataset, self._put = experiment, dataset, put
        self._handler = ForwardingHandler(send)
        self._references: dict[str, Any] = {}

    def get(self, experiment: Experiment) -> list[Any]:
        """Return a reference to an experiment's corpus, in a list: Ray would replace a bare reference by its value."""
        key = corpus_key(experiment)
        if key not in self._references:
            # Trials that use it keep a removed corpus.
            while len(self._references) >= MAX_STORED_CORPORA:
                self._references.pop(next(iter(self._references)))
            chosen = self._experiment.replace({"text": experiment.text.model_dump()})
            with handle_logs(self._handler):
                corpus = build_corpus(chosen, self._dataset, use_pretrained=experiment.model.embedding != "rand")
            self._references[key] = self._put(corpus)
        self._references[key] = self._references.pop(key)  # the last one to be removed
        return [self._references[key]]


def use_absolute_paths(experiment: Experiment) -> Experiment:
    """Return an experiment whose vectors and storage an actor finds: it has another working folder."""
    paths = {"storage": absolute_path(experiment.storage)}
    vectors = experiment.vectors.path
    if vectors is not None and not vectors.startswith(GENSIM_PREFIX):
        paths["vectors.path"] = absolute_path(vectors)
    return experiment.replace(paths)


def corpus_key(experiment: Experiment) -> str:
    """Return a key of an experiment's corpus among those of one dataset: text settings, and whether vectors are
    pretrained."""
    return digest([experiment.text.model_dump(), experiment.model.embedding == "rand"])
