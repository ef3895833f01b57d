"""The demo runs all stages, and its commands are those of `finetune-cnn`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from experiments.demo import TEXTS, build_service_command, build_stages
from finetune_cnn import build_parser

# Two packages with few docstrings, one trial, one epoch.
SMALL = [
    "data.packages=[networkx, gensim]", "data.max_rows_per_class=60", "vectors.epochs=1", "vectors.dimensions=20",
    "train.epochs=1", "tune.epochs=1", "tune.samples=1", "tune.space={model.embedding: {grid: [non-static]}}",
]  # fmt: skip


def test_the_stages_are_commands_that_a_user_can_type() -> None:
    commands = [*build_stages("runs/docstrings", []).values(), build_service_command("runs/docstrings", 8000)]
    parser = build_parser()
    assert all(callable(parser.parse_args(command).run) for command in commands)


@pytest.mark.ray
@pytest.mark.slow
def test_the_demo_searches_trains_evaluates_and_serves(ray_environment: dict[str, str], tmp_path: Path) -> None:
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "experiments.demo", "--port", str(port), f"storage={tmp_path}", *SMALL]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=ray_environment, capture_output=True, text=True, timeout=580, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    runs = tmp_path / "docstrings"
    best = json.loads((runs / "best.json").read_text())
    assert (runs / best["checkpoint"] / "weights.safetensors").is_file()
    assert "accuracy" in (runs / best["run"] / "report" / "report.md").read_text()
    for text in TEXTS:
        scores = rf"(networkx|gensim) [01]\.\d+, (networkx|gensim) [01]\.\d+ +{re.escape(text)}"
        assert re.search(scores, result.stdout), result.stdout
    assert re.search(r"s  search\n.*two workers\n.*test part\n.*classify\n.*s  total\n$", result.stdout), result.stdout
