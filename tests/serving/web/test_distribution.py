"""Distance of a service's texts from the validation rows of its checkpoint."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.config.text_distribution import EDGES, PARTS, count_distribution, find_distribution
from jobs.datasets.dataset import load_dataset
from jobs.datasets.tokenizer import UNKNOWN, tokenize
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from serving.web.distribution import SLOTS, WINDOW_S, DistributionWindow, measure_distance
from serving.web.protocol import Limits
from serving.web.served_models import ServedModel, load_model
from tests.support.asgi import configure, make_replica, send_request
from tests.support.checkpoints import checkpoint_of
from tests.support.loops import train_checkpoint

LABELS = ["a", "b", "c"]


def make_stored(rows: int = 1000, **changes: object) -> dict:
    """Return a distribution in which all rows are equal: with label a, in the first bins."""
    stored: dict = {"rows": rows, "edges": {part: list(edges) for part, edges in EDGES.items()}}
    sizes = {"labels": len(LABELS)} | {part: len(edges) + 1 for part, edges in EDGES.items()}
    return stored | {part: [rows] + [0] * (size - 1) for part, size in sizes.items()} | changes


def save(folder: Path, distribution: object = None) -> str:
    metrics = {"epoch": 1} | ({"distribution": distribution} if distribution is not None else {})
    save_checkpoint(folder, replace(checkpoint_of("rand"), metrics=metrics))
    return str(folder)


def load(path: str) -> ServedModel:
    return load_model(path, (), 1 << 28, "int16", Limits())


def test_training_stores_the_distribution_that_a_service_counts(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A service that gets the validation rows counts them in the same bins; with int16, scores differ a little."""
    experiment = make_experiment(text__max_words=12)  # some words are unknown
    train_checkpoint(experiment, tmp_path / "c", epochs=1)
    stored = load_checkpoint(str(tmp_path / "c")).metrics["distribution"]
    texts = load_dataset(experiment).validation.texts
    assert stored["rows"] == len(texts) == sum(stored["labels"])
    assert stored["unknown_words"][0] < len(texts)
    model = load_model(str(tmp_path / "c"), (), 1 << 28, "float32", Limits())
    model.scorer.score(texts, "softmax")
    counters = model.take_counters()
    assert counters.label_counts == stored["labels"]
    assert counters.bins == [*stored["length"], *stored["unknown_words"], *stored["confidence"]]
    assert model.window is not None
    model.window.add(counters.label_counts, counters.bins, 0.0)
    texts_in_window, distances = model.window.measure()
    assert (texts_in_window, distances) == (len(texts), dict.fromkeys(PARTS, 0.0))


@pytest.mark.parametrize("table_bytes", [1 << 28, 5000])
def test_texts_are_counted_one_by_one(tmp_path: Path, table_bytes: int) -> None:
    """In lists and alone; also those that are not scored in compiled code."""
    path = save(tmp_path / "c", make_stored())
    texts = ["word1 word2", "", "nobody knows", "word1 " * 40, "wo\u0308rd1 word2", "word150 and word1", "слово"]
    model = load_model(path, (), table_bytes, "float32", Limits())
    for request in (texts, *([text] for text in texts)):
        model.scorer.score(request, "none")
    classifier = Classifier(load_checkpoint(path))
    ids = [classifier.vocabulary.encode(tokenize(text)[: classifier.text_settings.max_tokens]) for text in 2 * texts]
    probabilities = classifier.predict_proba(2 * texts)
    expected = count_distribution(
        probabilities.argmax(axis=1), probabilities.max(axis=1), np.array([len(row) for row in ids]),
        np.array([row.count(UNKNOWN) for row in ids]), len(LABELS),
    )  # fmt: skip
    counters = model.take_counters()
    assert counters.label_counts == expected["labels"]
    assert counters.bins == [*expected["length"], *expected["unknown_words"], *expected["confidence"]]


def test_a_checkpoint_without_a_distribution_exports_none(tmp_path: Path) -> None:
    """That is one of an earlier version, or one with other bins."""
    edges = make_stored()["edges"]
    other = make_stored(edges=edges | {"length": [0.0]}, length=[1, 2])
    for number, distribution in enumerate((None, other)):
        replica = make_replica({"checkpoint": save(tmp_path / f"c{number}", distribution)})
        send_request(replica, "/predict", b'{"inputs": ["word1", "word2"]}')
        assert replica.models is not None
        counts = replica.models.primary.take_counts("primary")
        assert (sum(counts.counters.label_counts), counts.counters.bins, counts.distances) == (2, [], None)


def test_a_replica_exports_the_distances_of_what_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each model that stores a distribution; when it is served no longer, the distance is 0, of 0 texts."""
    monitored, plain = save(tmp_path / "c", make_stored()), save(tmp_path / "d")
    replica = make_replica({"checkpoint": monitored, "models": {"m": monitored}})
    gauges: dict[tuple, float] = {}
    for name in ("distances", "window_texts"):
        gauge = MagicMock()
        gauge.set = lambda value, tags, name=name: gauges.update({(name, *tags.values()): value})
        monkeypatch.setattr(replica.metrics._exported, name, gauge)

    def export() -> None:
        counts = [model.take_counts("primary") for model in replica.models.loaded()]
        replica.metrics.flush([*counts, *replica.pool.take_counts()[0]])

    for path in ("/predict", "/models/m/predict"):
        send_request(replica, path, json.dumps({"inputs": ["word1 " * 30] * 100}).encode())
    export()
    for role in ("primary", "models/m"):
        assert gauges["window_texts", role] == 100
        assert gauges["distances", role, "length"] == pytest.approx(1, abs=0.01)
        assert gauges["distances", role, "unknown_words"] == 0
    configure(replica, {"checkpoint": plain})
    for _ in range(2):  # the first one has the last texts of the model that was closed
        export()
    assert {gauges["distances", role, part] for role in ("primary", "models/m") for part in PARTS} == {0}
    assert gauges["window_texts", "primary"] == gauges["window_texts", "models/m"] == 0
    gauges.clear()
    export()
    assert gauges == {}


def test_the_window_forgets_old_texts() -> None:
    """In steps of a slot; the distances are those of the texts in it."""
    bins = sum(len(edges) + 1 for edges in EDGES.values())
    window = DistributionWindow(make_stored())  # type: ignore[arg-type]
    assert window.measure() == (0, {})

    def add(label: int, texts: int, now: float) -> None:
        labels = [0, 0, 0]
        labels[label] = texts
        counts = [0] * bins
        for first in (0, 20, 28):
            counts[first] = texts
        window.add(labels, counts, now)

    add(0, 500, 10.0)
    assert window.measure() == (500, dict.fromkeys(PARTS, 0.0))
    add(1, 500, 10.0 + WINDOW_S / SLOTS / 2)
    assert 0.4 < window.measure().by_part["labels"] < 0.7
    add(1, 500, WINDOW_S - 1.0)
    assert window.measure().texts == 1500
    add(1, 0, WINDOW_S + 10.0)
    texts, distances = window.measure()
    assert texts == 500
    assert distances == dict.fromkeys(PARTS, 0.0) | {"labels": pytest.approx(1, abs=0.01)}
    add(1, 0, 3 * WINDOW_S)
    assert window.measure() == (0, {})


@pytest.mark.parametrize("bins", [3, 20, 150])
def test_samples_of_one_distribution_have_no_distance_whatever_their_size(bins: int) -> None:
    """On average almost none; a shift of a fifth of the texts to the rarest bin is seen in each of them."""
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.ones(bins))
    shifted = 0.8 * shares + 0.2 * np.eye(bins)[shares.argmin()]

    def measure(other: np.ndarray, texts: int) -> float:
        expected = random.multinomial(2000, shares).astype(float)
        return float(np.mean([
            measure_distance(expected, random.multinomial(texts, other).astype(float)) for _ in range(30)
        ]))  # fmt: skip

    for texts in (1000, 10_000):
        assert measure(shares, texts) < 0.06
        assert measure(shifted, texts) > 0.12
    assert measure_distance(np.array([5e5, 0]), np.array([0, 5e5])) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [1, 2]}, {"labels": [-1, 2, 3]}, {"labels": [0, 0, 0]}, {"length": [1]}, {"length": "x"},
        {"confidence": [True] * 12}, {"edges": []}, {"edges": {}}, {"unknown_words": [1e308] * 8},
    ],
)  # fmt: skip
def test_a_malformed_distribution_is_refused(tmp_path: Path, changes: dict) -> None:
    path = save(tmp_path / "c", make_stored(**changes))
    with pytest.raises(CheckpointError, match=r"metrics\.json: 'distribution'"):
        load_checkpoint(path)


def test_the_stored_distribution_is_found() -> None:
    checkpoint: Checkpoint = replace(checkpoint_of("rand"), metrics={"distribution": make_stored()})
    assert find_distribution(checkpoint.metrics) == make_stored()
    assert find_distribution({}) is None


@pytest.mark.benchmark
def test_the_benchmark_measures_both_sides() -> None:
    command = [sys.executable, "benchmarks/serving_monitoring.py", "--quick"]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1])["benchmark"] == "serving_monitoring"
