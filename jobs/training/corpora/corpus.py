"""Corpus of a run: its texts as token ids with labels, its vocabulary, and the initial word vectors.

It consists of flat arrays, so that all workers and trials on a node map the same memory of Ray's object store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from jobs.config.class_weights import ClassWeights
from jobs.datasets.row_weights import compute_label_weights, compute_row_weights
from jobs.datasets.tokenizer import Tokens
from jobs.embeddings.word_vectors import Coverage
from jobs.training.corpora.token_blocks import TokenBlocks


@dataclass(frozen=True)
class EncodedSplit:
    """One part of a dataset. tokens: of its texts; labels: `(texts,)` int64, indices into the corpus's labels; with
    several labels per text `(texts, labels)` uint8, 1 for those of a text.

    weights: of the rows in the loss, `(texts,)` float64; None if they are equal.
    """

    tokens: Tokens
    labels: np.ndarray
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Corpus:
    """Everything that training needs.

    words: the vocabulary, whose first word has id 2: the words of the training texts, then words that only the
    vectors file has. vectors: `(words + 2, dimensions)` float32. pretrained: `(words + 2,)` bool, whether the vector
    comes from the file. scale: `(words + 2,)` float32, factor by which the vector was multiplied (`vectors.norm`).
    coverage: None without pretrained vectors. key: identifies texts and vectors: a file by its vectors, those trained
    here by what they were trained from. held_out: identifies the test part, which is not in the corpus. out_of_scope:
    tokens of texts in no class, which select thresholds; None without such texts. num_trained: least number of word ids
    with a trained vector. started_from: path and manifest's SHA-256 of the checkpoint of `train.start_from`.
    stored_blocks: the tokens of `train`, which has none then, in Ray's object store. linear: cache of
    `jobs.training.linear.svc`, empty in a copy with other rows.
    """

    train: EncodedSplit
    validation: EncodedSplit
    labels: list[str]
    words: list[str]
    vectors: np.ndarray
    pretrained: np.ndarray
    scale: np.ndarray
    coverage: Coverage | None
    key: str
    held_out: str
    out_of_scope: Tokens | None = None
    num_trained: int = 2
    started_from: Mapping[str, str] | None = None
    stored_blocks: TokenBlocks | None = None
    linear: dict[str, dict[str, np.ndarray]] = field(init=False, default_factory=dict, repr=False, compare=False)

    def word_counts(self) -> np.ndarray:
        """Return the occurrences of each word id in the training texts, `(train words,)` int64.

        Ids 0 and 1 are padding (never) and unknown words. Words with later ids are not in the texts, and not trained.
        """
        return self.token_blocks.count_words(self.num_trained)

    @cached_property
    def token_blocks(self) -> TokenBlocks:
        """The tokens of the training texts, in blocks."""
        return self.stored_blocks or TokenBlocks(self.train.tokens)

    def row_weights(self, class_weights: ClassWeights) -> np.ndarray | None:
        """Return the weights of the training rows in the loss; values and errors as of `compute_row_weights`."""
        of_classes = class_weights if self.train.labels.ndim == 1 else None
        return compute_row_weights(of_classes, self.labels, self.train.labels, self.train.weights)

    def label_weights(self, class_weights: ClassWeights) -> np.ndarray | None:
        """Return the weights of the labels in the loss, as `compute_label_weights`; None with one label per text."""
        of_labels = class_weights if self.train.labels.ndim == 2 else None
        return compute_label_weights(of_labels, self.labels, self.train.labels, self.train.weights)
