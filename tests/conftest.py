"""What tests share: small data sets, the data beside the checkout, and a Ray of their own."""

import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.connection import connect
from cluster.logs import handle_logs
from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import load_dataset
from jobs.training.corpus import Corpus, build_corpus
from tests.host_network import HostNetwork, find_missing_requirement

SHARED_DATA = REPOSITORY.parent / "shared" / "data"

POSITIVE_WORDS = ["great", "lovely", "fine", "brilliant", "warm"]
NEGATIVE_WORDS = ["awful", "dull", "poor", "broken", "cold"]
NEUTRAL_WORDS = ["the", "film", "was", "a", "story", "with", "people", "in", "it", "and", "music", ",", "."]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        for item in () if torch.cuda.is_available() else marked:
            item.add_marker(pytest.mark.skip(reason="there is no GPU"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The labelled sets beside the checkout; a checkout without them skips."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no data at {SHARED_DATA}")
    return SHARED_DATA


def make_toy_rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return (label, text) rows that one word tells apart."""
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


@pytest.fixture
def toy_csv(tmp_path: Path) -> Path:
    """A csv of 120 rows with columns label and text."""
    path = tmp_path / "toy.csv"
    path.write_text("label,text\n" + "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(120)))
    return path


@pytest.fixture
def make_experiment(toy_csv: Path) -> Callable[..., Experiment]:
    """Make an experiment on the toy csv that trains in a second; settings by dotted path."""

    def make(**settings: object) -> Experiment:
        defaults = {
            "name": "toy",
            "storage": str(toy_csv.parent / "runs"),
            "data.train": str(toy_csv),
            "model.embedding": "rand",
            "model.filter_widths": [1, 2],
            "model.feature_maps": 8,
            "vectors.dimensions": 12,
            "vectors.min_count": 1,
            "train.epochs": 3,
            "train.learning_rate": 0.01,
            "train.batch_size": 16,
        }
        return Experiment().replace(defaults | {key.replace("__", "."): value for key, value in settings.items()})

    return make


def make_test_corpus(experiment: Experiment) -> Corpus:
    """Return an experiment's corpus with random vectors."""
    return build_corpus(experiment, load_dataset(experiment), use_pretrained=False)


def write_word2vec(path: Path, words: list[str], matrix: np.ndarray) -> Path:
    """Write word2vec binary with gensim."""
    from gensim.models import KeyedVectors

    vectors = KeyedVectors(matrix.shape[1])
    vectors.add_vectors(words, matrix)
    vectors.save_word2vec_format(str(path), binary=True)
    return path


def read_jsonl(path: Path) -> list[dict]:
    """Return a file's JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class _Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """Log messages of the project's loggers during the test, the oldest first."""
    recorder = _Recorder()
    with handle_logs(recorder):
        yield recorder.messages


@pytest.fixture(scope="module")
def embedded_ray() -> Iterator[None]:
    """An embedded Ray for a module's tests, that no other Ray on the machine is mistaken for."""
    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # short: Ray keeps sockets in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        with connect(num_cpus=4):
            yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ray_environment() -> Iterator[dict[str, str]]:
    """Variables for a command that starts a Ray of its own."""
    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # short: Ray keeps sockets in it
    yield {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {"RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def host_network() -> type[HostNetwork]:
    """Make hosts on a network of a test's own, as tests/host_network.py tells; skips where there can be none."""
    reason = find_missing_requirement()
    if reason:
        pytest.skip(reason)
    return HostNetwork


@pytest.fixture(scope="session")
def host_network_ssh(host_network: type[HostNetwork]) -> type[HostNetwork]:
    """As `host_network`, with what ssh needs."""
    reason = find_missing_requirement(ssh=True)
    if reason:
        pytest.skip(reason)
    return host_network
