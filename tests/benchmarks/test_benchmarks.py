"""Benchmarks run, small, and end with their figures as one JSON object."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.package import REPOSITORY


def run(name: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a benchmark as the README says and return its last line."""
    command = [sys.executable, f"benchmarks/{name}.py", *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["benchmark"] == name
    assert figures["machine"]["cores"] >= 1
    return figures


def test_reading_vectors() -> None:
    """Both sides read the same words; the stream needs less memory."""
    figures = run("vectors", "--words", "30000", "--vocabulary", "500", "--runs", "1")
    ours, gensims = figures["reading"]
    assert ours["side"] == "this project"
    assert 0 < ours["peak MB"] < gensims["peak MB"]


@pytest.mark.slow
def test_training_vectors() -> None:
    """Both commands train on the same file."""
    figures = run("pretraining", "--quick", "--words", "20000")
    assert [row["side"] for row in figures["training"]] == ["this project", "gensim"]
    assert all(row["words a second"] > 0 for row in figures["training"])


@pytest.mark.ray
@pytest.mark.slow
def test_kims_table(shared_data: Path, ray_environment: dict[str, str], tmp_path: Path) -> None:
    """All four kinds on TREC; what is in the results is not trained again."""
    arguments = ("--quick", "--results", str(tmp_path / "results.jsonl"))
    figures = run("kim2014", *arguments, RAY_TMPDIR=ray_environment["RAY_TMPDIR"])
    assert [row["kind"] for row in figures["accuracy"]] == ["rand", "static", "non-static", "multichannel"]
    assert all(60 < row["accuracy"] < 100 for row in figures["accuracy"])
    assert run("kim2014", *arguments)["accuracy"] == figures["accuracy"]


@pytest.mark.slow
def test_training_speed(tmp_path: Path) -> None:
    """Both sides train on short and long texts, with short and long tables, alone and by two."""
    figures = run("training", "--quick", "--data", str(tmp_path / "nothing"))
    for table in ("short", "long"):
        assert [row["embedding"] for row in figures[table] if row["precision"] == "float32"] == ["static", "non-static"]
        assert all(row["times"] == row["this project"] / row["usual loop"] > 0 for row in figures[table])
        assert all(0 < row["in products"] < 1 for row in figures[table])
    assert [row["words"] for row in figures["vocabulary"]] == ["20,002", "400,000"]
    alone, *both = figures["workers"]
    assert alone["bytes a step"] == 0
    assert both[-1]["workers"] == "2, by gloo"
    assert {row["bytes a step"] for row in both} == {both[0]["bytes a step"]} != {0}


def test_training_speed_on_a_bare_gpu_machine_needs_torch_and_numpy_alone(tmp_path: Path) -> None:
    """Nothing else is imported by what `--device cuda` runs; numba is for the CPU."""
    script = (
        "import sys\n"
        "absent = ('ray', 'gensim', 'pydantic', 'yaml', 'pyarrow', 'sklearn', 'pandas', 'numba', 'safetensors')\n"
        "sys.modules |= dict.fromkeys(absent)\n"
        "import torch\n"
        "from pathlib import Path\n"
        "from benchmarks import training, training_loops\n"
        "from tests.gpu_path import use_gpu_path\n"
        "import pytest\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    use_gpu_path(patch)\n"
        f"    corpus, source = training_loops.make_benchmark_corpus('mr', 200, Path({str(tmp_path)!r}))\n"
        "    print(source, next(training.project_steps(corpus, 'non-static', 50, 'cpu')))\n"
        "from benchmarks.reporting import print_json\n"
        "print_json('training', {}, {})\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("drawn as mr 50\n")


@pytest.mark.slow
def test_inference(shared_data: Path) -> None:
    """Every side labels the same texts; the compiled loop is ahead of torch."""
    figures = run("inference", "--quick")
    sides = {row["side"]: row for row in figures["speed"]}
    assert {"this project", "torch, this project", "torch, conv1d"} <= set(sides)
    assert all(row["lists of 32"] > 0 for row in sides.values())
    assert len(figures["cold"]) == 3


@pytest.mark.ray
@pytest.mark.slow
def test_chaos() -> None:
    """A run whose worker or controller is killed ends as one that was left alone, and loses no checkpoint.

    Drivers are killed in tests/jobs/training/test_train.py, hosts in tests/jobs/training/test_nodes.py.
    """
    figures = run("chaos", "--quick", "--kinds", "worker", "controller")
    assert [row["killed"] for row in figures["kills"]] == ["worker", "controller"]
    for row in figures["kills"]:
        assert row["kills"] >= 1, row
        assert row["same"] is True, row
        assert row["lost, steps"] == 0, row


@pytest.mark.slow
def test_precision(shared_data: Path) -> None:
    """Both precisions learn."""
    figures = run("precision", "--quick")
    assert [row["precision"] for row in figures["accuracy"]] == ["float32", "bfloat16"]
    assert all(row["accuracy"] > 50 for row in figures["accuracy"])


@pytest.mark.ray
@pytest.mark.slow
def test_serving(ray_environment: dict[str, str]) -> None:
    """The service and the no-op answer every request of the load."""
    if not shutil.which("wrk"):
        pytest.skip("no wrk here: apt-get install wrk")
    figures = run("serving", "--quick", RAY_TMPDIR=ray_environment["RAY_TMPDIR"])
    assert [row["connections"] for row in figures["speed"]] == [1, 16, 64]
    assert all(row["classifier rate"] > 0 and row["no-op rate"] > 0 for row in figures["speed"])


@pytest.mark.ray
@pytest.mark.slow
def test_serving_while_things_change() -> None:
    """No request fails; the others of these scenes are in tests/serving/test_fast.py."""
    figures = run("serving", "--quick", "--only", "zero", "swap")
    assert figures["zero"][0]["failed"] == figures["swap"][0]["failed"] == 0
    assert figures["swap"][0]["same processes"]


@pytest.mark.ray
@pytest.mark.slow
def test_tuning() -> None:
    """A search, beside one that nests trainers, and what vectors cost in memory."""
    figures = run("tuning", "--quick")
    [search] = figures["search"]
    assert 0 < search["share of the cores' time in training"] < 1
    assert figures["beside"][0]["times"] > 1
    assert all(row["own memory of a trial, MB"] > 0 for row in figures["memory"])
