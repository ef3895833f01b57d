"""Small data sets, corpora and vectors files."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus

POSITIVE_WORDS = ["great", "lovely", "fine", "brilliant", "warm"]
NEGATIVE_WORDS = ["awful", "dull", "poor", "broken", "cold"]
NEUTRAL_WORDS = ["the", "film", "was", "a", "story", "with", "people", "in", "it", "and", "music", ",", "."]


def make_toy_rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return (label, text) rows whose label depends on a single word of the text."""
    choose = random.Random(seed)
    rows = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        words = choose.choices(NEUTRAL_WORDS, k=choose.randint(2, 9))
        words.insert(
            choose.randint(0, len(words)), choose.choice(POSITIVE_WORDS if label == "good" else NEGATIVE_WORDS)
        )
        rows.append((label, " ".join(words)))
    return rows


def make_test_corpus(experiment: Experiment) -> Corpus:
    """Return an experiment's corpus with random vectors."""
    return build_corpus(experiment, load_dataset(experiment), use_pretrained=False)


def write_word2vec(path: Path, words: list[str], matrix: np.ndarray) -> Path:
    """Write a word2vec binary file with gensim; return its path."""
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(matrix.shape[1])
    vectors.add_vectors(words, matrix)
    vectors.save_word2vec_format(str(path), binary=True)
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]
