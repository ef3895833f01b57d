"""Benchmarks run, small, and end with their figures as one JSON object."""

import json
import os
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
