"""The numpy classifier says what the torch network says, without torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.package import REPOSITORY
from jobs.checkpoint import Checkpoint, write
from jobs.experiment import Experiment
from jobs.network import Network
from jobs.predict import network_of, scores
from jobs.text import Vocabulary, encode, tokenize
from serving.classifier import Classifier

WORDS = [f"word{number}" for number in range(200)]


def checkpoint_of(embedding: str, **settings: object) -> Checkpoint:
    """Return a checkpoint with random weights."""
    choose = np.random.default_rng(0)
    experiment = Experiment().replace(
        {"model.embedding": embedding, "model.filter_widths": [1, 2, 4], "model.feature_maps": 9} | settings
    )
    vectors = choose.normal(size=(len(WORDS) + 2, 6)).astype(np.float32)
    vectors[0] = 0
    network = Network(experiment.model, vectors, 3)
    if embedding == "multichannel":
        with torch.no_grad():
            network.vectors[1:] += 1
    weights = {key: value.numpy() for key, value in network.weights().items()}
    return Checkpoint(experiment, ["a", "b", "c"], WORDS, weights, {"epoch": 1})


def texts(count: int) -> list[str]:
    choose = np.random.default_rng(1)
    lengths = [0, 1, 2, 3, 700, *choose.integers(0, 40, count)]
    return [" ".join(choose.choice([*WORDS, "unseen", "!"], length)) for length in lengths]


@pytest.mark.parametrize("table_bytes", [0, 4000, 1 << 20])
@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_scores_are_those_of_the_torch_network(embedding: str, table_bytes: int) -> None:
    """To 1e-5, for the empty text and the long one, with all words, some or none in the table."""
    checkpoint = checkpoint_of(embedding)
    some = texts(50)
    settings = checkpoint.experiment.text
    tokens = encode((tokenize(text) for text in some), Vocabulary(WORDS), settings.max_tokens)
    expected = scores(network_of(checkpoint), tokens, np.arange(len(tokens))).numpy()
    classifier = Classifier(checkpoint, table_bytes)
    assert classifier.table_bytes <= table_bytes
    found = classifier.scores(some)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([classifier.scores([text]) for text in some]), found, atol=1e-6)


def test_case_is_as_in_training() -> None:
    """A cased experiment tells Word1 from word1."""
    lowered, cased = Classifier(checkpoint_of("rand")), Classifier(checkpoint_of("rand", **{"text.lowercase": False}))
    assert np.array_equal(lowered.scores(["WORD1"]), lowered.scores(["word1"]))
    assert not np.array_equal(cased.scores(["WORD1"]), cased.scores(["word1"]))


def test_no_torch_in_the_replica(tmp_path: Path) -> None:
    """Reading a checkpoint and classifying import neither torch nor the training code."""
    write(tmp_path / "c", checkpoint_of("non-static"))
    script = (
        "import sys\n"
        "from jobs import checkpoint\n"
        "from serving.classifier import Classifier\n"
        f"print(Classifier(checkpoint.read({str(tmp_path / 'c')!r})).scores(['word1 word2']).shape)\n"
        "print({'torch', 'gensim', 'sklearn', 'jobs.loop'} & set(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "(1, 3)\nset()\n"
