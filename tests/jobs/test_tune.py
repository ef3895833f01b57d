"""The search on real Ray Tune: a best that serves, and a search that goes on."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from jobs import checkpoint, conflicts
from jobs.experiment import Experiment, load
from jobs.tune import SearchFailed, tune

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = {"model.embedding": {"grid": ["rand", "static", "non-static", "multichannel"]}}


def test_all_kinds_of_embedding_are_tried_and_the_best_is_named(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """best.json names a whole checkpoint; best.yaml trains it again; a second call says that it is done."""
    experiment = toy(tune__space=SPACE | {"model.feature_maps": {"choice": [4, 8]}}, tune__samples=1, tune__epochs=3)
    told: list[str] = []
    best = Path(tune(experiment, told.append))
    trials = [line for line in told if line.startswith("trial")]
    assert len(trials) == 4
    for kind in SPACE["model.embedding"]["grid"]:
        assert sum(f"embedding={kind} " in line for line in trials) == 1
        assert any(line.startswith(f"{kind} ") and "best validation accuracy" in line for line in told)
    named = json.loads(best.read_text())
    found = checkpoint.read(str(best))
    assert found.experiment.model.embedding == named["settings"]["model.embedding"]
    assert found.metrics["accuracy"] == named["metrics"]["accuracy"]
    again = load(str(best.with_name("best.yaml")))
    assert again.model == found.experiment.model
    told.clear()
    assert tune(experiment, told.append) == str(best)
    assert any("this search is finished" in line for line in told)
    assert not any(line.startswith("trial") for line in told)


def test_every_way_to_fine_tune_can_be_searched(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """Whatever is best, what best.yaml says can be trained."""
    space = {
        "model.embedding": {"grid": ["static", "non-static", "multichannel"]},
        "model.trained_words": {"choice": ["all", "out-of-vocabulary"]},
        "train.vectors_learning_rate": {"loguniform": [0.0001, 0.01]},
        "train.vectors_pull": {"uniform": [0.0, 0.1]},
        "train.frozen_epochs": {"choice": [0, 1]},
    }
    told: list[str] = []
    best = Path(tune(toy(tune__space=space, tune__samples=1, tune__epochs=2), told.append))
    assert sum(line.startswith("trial") and "failed" not in line for line in told) == 3
    again = load(str(best.with_name("best.yaml")))
    assert conflicts.check(again, {again.model.embedding}) == []


def test_a_search_in_which_every_trial_fails_says_why(ray_here: None, toy: Callable[..., Experiment]) -> None:
    """In one line, with the setting that would help."""
    experiment = toy(
        name="fails",
        tune__space={"train.learning_rate": {"grid": [1e30]}},
        tune__samples=1,
        model__max_norm=None,
        tune__scheduler="none",
    )
    with pytest.raises(SearchFailed, match=r"every trial failed; the first: epoch \d+: .*lower train.learning"):
        tune(experiment, lambda line: None)


def test_ctrl_c_ends_a_search_and_the_same_command_goes_on(
    toy: Callable[..., Experiment], tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    """Exit code 130 and one line; then only the trials that had not ended."""
    toy()  # writes the csv
    command = [sys.executable, "-m", "jobs", "tune", f"data.train={tmp_path / 'toy.csv'}", f"storage={tmp_path}/runs",
               "name=c", "tune.samples=1", "tune.epochs=40", "tune.scheduler=none", "train.patience=40",
               "model.embedding=rand", "tune.space={model.feature_maps: {grid: [4, 5, 6, 7, 8, 9]}}"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=ray_environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("trial   1 of 6"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, "".join(lines)
    assert "interrupted; the same command goes on from here\n" in lines
    assert not (tmp_path / "runs" / "c" / "best.json").exists()
    done = sum(line.startswith("trial") for line in lines)
    assert done < 6
    again = subprocess.run(command, cwd=REPOSITORY, env=ray_environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on with the search that was cut off" in again.stdout
    trials = [line for line in again.stdout.splitlines() if line.startswith("trial")]
    assert trials[0].startswith(f"trial {done + 1:3d} of 6")
    assert trials[-1].startswith("trial   6 of 6")
