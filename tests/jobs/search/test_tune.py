"""The search on real Ray Tune: a best that serves, and a search that goes on whatever ended it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.ray_head import start_ray_head
from cluster.package import REPOSITORY
from jobs.config import conflicts
from jobs.config.experiment import Experiment, ExperimentError, load_experiment
from jobs.evaluation.evaluate import evaluate
from jobs.model import checkpoint
from jobs.search.tune import SearchFailed, tune

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = {"model.embedding": {"grid": ["rand", "static", "non-static", "multichannel"]}}
GRID = "tune.space={model.feature_maps: {grid: [4, 5, 6, 7, 8, 9]}}"


def records(best: Path) -> list[dict]:
    """The trials of the search whose experiment's best.json this is."""
    [folder] = best.parent.glob("tune-*")
    return [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))]


def test_all_kinds_of_embedding_are_tried_and_the_best_is_named(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """best.json names a whole checkpoint; best.yaml trains it again; a second call says that it is done."""
    experiment = make_experiment(
        tune__space=SPACE | {"model.feature_maps": {"choice": [4, 8]}}, tune__samples=1, tune__epochs=3
    )
    best = Path(tune(experiment))
    trials = [line for line in messages if line.startswith("trial")]
    assert len(trials) == 4
    for kind in SPACE["model.embedding"]["grid"]:
        assert sum(f"embedding={kind} " in line for line in trials) == 1
    named = json.loads(best.read_text())
    found = checkpoint.load_checkpoint(str(best))
    assert found.experiment.model.embedding == named["settings"]["model.embedding"]
    assert found.metrics["accuracy"] == named["metrics"]["accuracy"]
    assert named["metrics"]["accuracy"] == max(each["epochs"][each["best"] - 1]["accuracy"] for each in records(best))
    again = load_experiment(str(best.with_name("best.yaml")))
    assert again.model == found.experiment.model
    messages.clear()
    assert tune(experiment) == str(best)
    assert any("this search is finished" in line for line in messages)
    assert not any(line.startswith("trial") for line in messages)
    # Cut off in what follows the trials, it does that alone.
    [run] = best.parent.glob("tune-*")
    (run / "best.json").write_text(json.dumps(json.loads((run / "best.json").read_text()) | {"finished": False}))
    (run / "report" / "report.md").unlink()
    messages.clear()
    tune(experiment)
    assert not any(line.startswith("trial") for line in messages)
    assert (run / "report" / "report.md").exists()
    assert json.loads(best.read_text()) == named


def test_a_search_ends_with_a_report_over_seeds_and_the_best_trained_on_all_rows(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """By Optuna, over ways to read the texts too; what is named can be measured."""
    space = {
        "model.embedding": {"grid": ["static", "non-static"]},
        "train.vectors_learning_rate": {"loguniform": [0.001, 0.02]},
        "text.max_tokens": {"choice": [4, 20]},
    }
    experiment = make_experiment(
        name="whole", tune__space=space, tune__search="optuna", tune__trials=6, tune__epochs=3, tune__seeds=2,
        tune__refit=True, tune__metric="macro_f1", tune__scheduler="none",
    )  # fmt: skip
    best = Path(tune(experiment))
    assert len(records(best)) == 6
    assert all(each["status"] == "finished" for each in records(best))
    [run] = best.parent.glob("tune-*")
    seeds = [json.loads(path.read_text())["settings"] for path in sorted((run / "seeds" / "trials").glob("*.json"))]
    assert {(each["model.embedding"], each["seed"]) for each in seeds} == {
        (kind, seed) for kind in ("static", "non-static") for seed in (1, 2)
    }
    assert {path.name for path in (run / "report").iterdir()} == {
        "report.md", "trials.csv", "embeddings.png", "parallel-coordinates.png", "slices.png",
    }  # fmt: skip
    assert len(list((run / "tensorboard").iterdir())) == 6
    assert any("the mean of 2 seeds" in line for line in messages)
    named = json.loads(best.read_text())
    assert (named["refit"], named["rows"], named["metric"]) == (True, 108, "macro_f1")
    found = checkpoint.load_checkpoint(str(best))
    assert found.metrics["rows"] == named["rows"]
    assert found.metrics["epoch"] == named["metrics"]["epoch"]
    assert found.metrics["accuracy"] is None
    evaluate(str(best), [], str(best.parent / "report"))
    assert "the validation part among them" in (best.parent / "report" / "report.md").read_text()


def test_every_way_to_fine_tune_can_be_searched(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Whatever is best, what best.yaml says can be trained; where vectors stay as they are nothing of it is varied."""
    space = {
        "model.embedding": {"grid": ["static", "non-static", "multichannel"]},
        "model.trained_words": {"choice": ["all", "out-of-vocabulary"]},
        "train.vectors_learning_rate": {"loguniform": [0.0001, 0.01]},
        "train.vectors_pull": {"uniform": [0.0, 0.1]},
        "train.frozen_epochs": {"choice": [0, 1]},
    }
    best = Path(tune(make_experiment(tune__space=space, tune__samples=1, tune__epochs=2)))
    assert sum(line.startswith("trial") and "failed" not in line for line in messages) == 3
    assert {len(each["settings"]) for each in records(best)} == {1, 5}
    again = load_experiment(str(best.with_name("best.yaml")))
    assert conflicts.check_settings(again, {again.model.embedding}) == []


def test_a_trial_that_fails_is_told_with_its_reason_and_the_search_goes_on(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Where every one fails, the error says why."""
    space = {"train.learning_rate": {"grid": [0.01, 1e30]}}
    settings = {"model__max_norm": None, "tune__scheduler": "none", "tune__samples": 1}
    best = Path(tune(make_experiment(name="mixed", tune__space=space, **settings)))
    assert {each["status"]: each["settings"]["train.learning_rate"] for each in records(best)} == {
        "finished": 0.01,
        "failed": 1e30,
    }
    assert any("failed: epoch" in line and "lower train.learning_rate" in line for line in messages)
    space = {"train.learning_rate": {"grid": [1e30]}}
    with pytest.raises(SearchFailed, match=r"every trial failed; the first: epoch \d+: .*lower train.learning"):
        tune(make_experiment(name="fails", tune__space=space, **settings))


def test_a_search_that_is_out_of_time_stops_what_runs(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """The best so far is named."""
    experiment = make_experiment(
        name="short", tune__space={"model.dropout": {"uniform": [0.1, 0.5]}}, tune__samples=50, tune__epochs=100_000,
        train__patience=100_000, tune__minutes=0.7, tune__scheduler="none",
    )  # fmt: skip
    began = time.monotonic()
    best = Path(tune(experiment))
    assert time.monotonic() - began < 120
    assert "the search is over: tune.minutes=0.7 are over" in messages
    assert {each["status"] for each in records(best)} == {"stopped"}
    assert all(each["epochs"] for each in records(best))
    assert checkpoint.load_checkpoint(str(best)).labels == ["bad", "good"]


def test_a_mistake_in_the_space_comes_before_anything_is_read(make_experiment: Callable[..., Experiment]) -> None:
    """Although there is no such file."""
    with pytest.raises(ExperimentError, match=r"did you mean 'model.dropout'"):
        tune(make_experiment(data__train="nowhere.csv", tune__space={"model.dropuot": {"choice": [0.1]}}))


@contextlib.contextmanager
def searching(tmp_path: Path, environment: dict[str, str], *more: str) -> Iterator[subprocess.Popen]:
    """Hold a grid search over the toy csv, in a process of its own."""
    with subprocess.Popen(
        command(tmp_path, *more), cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def command(tmp_path: Path, *more: str) -> list[str]:
    """A search of some seconds whose every trial is trained to its end."""
    return [sys.executable, "-m", "jobs", "tune", f"data.train={tmp_path / 'toy.csv'}", f"storage={tmp_path}/runs",
            "name=c", "tune.samples=1", "tune.epochs=40", "tune.scheduler=none", "train.patience=40",
            "train.metric=loss", "model.embedding=rand", GRID, *more]  # fmt: skip


def test_ctrl_c_ends_a_search_names_the_best_and_the_same_command_goes_on(
    make_experiment: Callable[..., Experiment], tmp_path: Path, ray_environment: dict[str, str]
) -> None:
    """Exit code 130 and one line; then only the trials that had not ended."""
    make_experiment()  # writes the csv
    lines = []
    with searching(tmp_path, ray_environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("trial   1 of 6"):
                process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    assert process.returncode == 130, "".join(lines)
    assert "interrupted; the same command goes on from here\n" in lines
    done = sum(line.startswith("trial") for line in lines)
    assert 1 <= done < 6
    assert any(f"{done} of 6 trials have ended; best: feature_maps=" in line for line in lines)
    assert checkpoint.load_checkpoint(str(tmp_path / "runs" / "c")).labels == ["bad", "good"]
    again = subprocess.run(
        command(tmp_path), cwd=REPOSITORY, env=ray_environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"going on with the search that was cut off: {done} of 6 trials have ended" in again.stdout
    trials = [line for line in again.stdout.splitlines() if line.startswith("trial")]
    assert trials[0].startswith(f"trial {done + 1:3d} of 6")
    assert trials[-1].startswith("trial   6 of 6")


def test_a_search_survives_the_death_of_its_driver_and_of_its_trials(
    make_experiment: Callable[..., Experiment], tmp_path: Path, ray_environment: dict[str, str], embedded_ray: None
) -> None:
    """kill -9, twice: no trial that had ended is repeated, none is lost, and the best is that of a calm search."""
    make_experiment()  # writes the csv
    calm = tmp_path / "calm"
    calm.mkdir()
    settings = [word for word in command(tmp_path)[4:] if not word.startswith("storage=")]
    expected = json.loads(Path(tune(load_experiment(None, [*settings, f"storage={calm}/runs"]))).read_text())

    with searching(tmp_path, ray_environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("trial   2 of 6"):
                break
        process.kill()
    time.sleep(2)  # its Ray notices and ends
    best = tmp_path / "runs" / "c" / "best.json"
    assert checkpoint.load_checkpoint(str(best)).labels == ["bad", "good"]
    before = {path: path.stat().st_mtime_ns for path in best.parent.glob("tune-*/trials/*.json")}
    assert len(before) >= 2

    lines = []
    killed: list[int] = []
    with searching(tmp_path, ray_environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if "trials, up to" in line:
                threading.Thread(target=kill_a_trial, args=(ray_environment["RAY_TMPDIR"], killed)).start()
        process.wait(timeout=60)
    assert process.returncode == 0, "".join(lines)
    assert killed
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [each["number"] for each in records(best)] == [1, 2, 3, 4, 5, 6]
    assert all(each["status"] == "finished" for each in records(best))
    found = json.loads(best.read_text())
    for key in ("settings", "metrics", "trial"):
        assert found[key] == expected[key]


def kill_a_trial(folder: str, killed: list[int]) -> None:
    """Kill a process that trains, as soon as there is one."""
    for _ in range(600):
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                trains = (entry / "cmdline").read_bytes().startswith(b"ray::ResourceTrainable.train")
                if trains and f"RAY_TMPDIR={folder}".encode() in (entry / "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed.append(int(entry.name))
                    return
        time.sleep(0.05)


def test_trials_of_several_workers_share_a_cluster_that_they_fill(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """Two CPUs, two workers a trial: one after the other, none waiting for what another holds."""
    make_experiment()  # writes the csv
    space = "tune.space={model.embedding: {grid: [rand, static]}}"
    more = ("train.workers=2", "tune.epochs=2", "vectors.min_count=1", "vectors.dimensions=8", space)
    with start_ray_head(2, code=False) as head, searching(tmp_path, head.environment, *more) as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "2 trials, up to 1 at once" in output
    best = tmp_path / "runs" / "c" / "best.json"
    assert [each["status"] for each in records(best)] == ["finished"] * 2
    assert checkpoint.load_checkpoint(str(best)).metrics["epoch"] == json.loads(best.read_text())["metrics"]["epoch"]


def test_trials_can_share_a_gpu(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """Four CPUs and what Ray takes for a GPU: two trials at once that ask for half of it."""
    make_experiment()  # writes the csv
    with (
        start_ray_head(4, "--num-gpus=1", code=False) as head,
        searching(tmp_path, head.environment, "tune.gpus_per_trial=0.5", "tune.epochs=2") as process,
    ):
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "6 trials, up to 2 at once" in output
    assert len(records(tmp_path / "runs" / "c" / "best.json")) == 6


def test_a_search_survives_the_loss_of_a_node(
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    ray_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its trials are trained on those that are left."""
    from ray.cluster_utils import Cluster

    make_experiment()  # writes the csv
    environment = ray_environment | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        lost = nodes.add_node(num_cpus=1)
        lines = []
        with searching(tmp_path, environment | {"RAY_ADDRESS": nodes.address}) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if line.startswith("trial   2 of 6"):
                    nodes.remove_node(lost, allow_graceful=False)
            process.wait(timeout=60)
    finally:
        nodes.shutdown()
    assert process.returncode == 0, "".join(lines)
    assert "6 trials, up to 2 at once\n" in lines
    assert [each["status"] for each in records(tmp_path / "runs" / "c" / "best.json")] == ["finished"] * 6
