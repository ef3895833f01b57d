"""Searches on real Ray Tune: the best checkpoint can be served, and whatever interrupts a search, it resumes.

Searches of this process share one embedded Ray. Commands that are killed share one cluster of processes of their own.
"""

import contextlib
import csv
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.tune
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from cluster import UsageError
from cluster.storage import StorageError, lock_folder
from jobs.config import conflicts
from jobs.config.experiment import Experiment, ExperimentError, load_experiment
from jobs.datasets.dataset import load_dataset
from jobs.dry_run import plan_search
from jobs.evaluation.baselines import has_network_alone
from jobs.evaluation.evaluate import evaluate
from jobs.model import checkpoint
from jobs.search.best_checkpoint import BestCheckpointManager
from jobs.search.records import RecordStore, TrialRecord, TrialReport, apply_trial_settings
from jobs.search.runner import SearchContext, run_trials
from jobs.search.search import FixedSampler, Search
from jobs.search.trial_resources import TrialResources
from jobs.search.tune import SearchFailed, _end_search, build_corpora, tune
from jobs.training.history import Progress
from jobs.training.run_files.run_folder import RunFolder, resolve_run_folder
from tests.support.label_sets import make_label_set_rows, write_label_sets
from tests.support.loops import train_in_process
from tests.support.running_commands import RunningCommand
from tests.support.tensorboard import read_scalars
from tests.support.toy_data import make_test_corpus, write_word2vec
from tests.support.trial_records import make_epoch
from tests.support.trials import RecordedResults

FEATURE_MAPS = [4, 5, 6, 7, 8, 9, 10, 11, 12]
# Of the longest command, on a slow machine.
TIMEOUT_S = 600


def records(best: Path) -> list[dict[str, Any]]:
    """Return the records of the search whose experiment's best.json this is, by number."""
    [folder] = best.parent.glob("tune-*")
    return [json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))]


@pytest.mark.ray
@pytest.mark.slow
def test_every_kind_of_embedding_and_of_fine_tuning_is_searched_and_the_best_is_named(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """best.json names a complete checkpoint; best.yaml trains it again; a second call only does what is missing."""
    kinds = ["rand", "static", "non-static", "multichannel"]
    space = {
        "model.embedding": {"grid": kinds},
        "model.feature_maps": {"choice": [4, 8]},
        "model.trained_words": {"choice": ["all", "out-of-vocabulary"]},
        "train.vectors_learning_rate": {"loguniform": [0.0001, 0.01]},
        "train.vectors_pull": {"uniform": [0.0, 0.1]},
        "train.frozen_epochs": {"choice": [0, 1]},
    }
    experiment = make_experiment(tune__space=space, tune__samples=1, tune__epochs=2, tune__max_concurrent=1)
    planned = plan_search(experiment).starts["trials"]
    best = Path(tune(experiment))
    assert len(records(best)) == planned
    assert [record["settings"]["model.embedding"] for record in records(best)] == kinds
    assert [len(record["settings"]) for record in records(best)] == [5, 2, 6, 6]
    assert "failed" not in {record["status"] for record in records(best)}
    assert sum(line.startswith("trial") for line in messages) == 4

    named = json.loads(best.read_text())
    saved = checkpoint.load_checkpoint(str(best))
    assert saved.experiment.model.embedding == named["settings"]["model.embedding"]
    assert saved.metrics["accuracy"] == named["metrics"]["accuracy"]
    accuracies = [record["epochs"][record["best"] - 1]["accuracy"] for record in records(best)]
    assert named["metrics"]["accuracy"] == max(accuracies)
    again = load_experiment(str(best.with_name("best.yaml")))
    assert again.model == saved.experiment.model
    assert conflicts.check_settings(again, {again.model.embedding}) == []

    messages.clear()
    assert tune(experiment) == str(best)
    assert any("this search is finished" in line for line in messages)
    assert not any(line.startswith("trial") for line in messages)
    # Interrupted after the trials: the report is written, and nothing else is done again.
    [run] = best.parent.glob("tune-*")
    (run / "best.json").write_text(json.dumps(json.loads((run / "best.json").read_text()) | {"finished": False}))
    (run / "report" / "report.md").unlink()
    messages.clear()
    tune(experiment)
    assert not any(line.startswith("trial") for line in messages)
    assert (run / "report" / "report.md").exists()
    assert json.loads(best.read_text()) == named


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_ends_with_a_report_over_seeds_and_the_best_trained_on_all_rows(
    embedded_ray: None,
    make_experiment: Callable[..., Experiment],
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Optuna, also over settings of `text`; the named checkpoint can be evaluated.

    Tune's own tools have the trials too.
    """
    monkeypatch.setenv("RAY_TUNE_CALLBACKS", "tests.support.trials.RecordedResults")
    RecordedResults.results.clear()
    space = {
        "model.embedding": {"grid": ["static", "non-static"]},
        "train.vectors_learning_rate": {"loguniform": [0.001, 0.02]},
        "text.max_tokens": {"choice": [4, 20]},
        "train.class_weights": {"choice": [None, "balanced"]},
    }
    experiment = make_experiment(
        name="whole", tune__space=space, tune__search="optuna", tune__trials=4, tune__epochs=2, tune__seeds=2,
        tune__refit=True, tune__metric="macro_f1", tune__scheduler="none", tune__max_concurrent=1,
        train__cpus_per_worker=2,
    )  # fmt: skip
    best = Path(tune(experiment))
    assert [record["status"] for record in records(best)] == ["finished"] * 4
    [run] = best.parent.glob("tune-*")
    seeds = [json.loads(path.read_text())["settings"] for path in sorted((run / "seeds" / "trials").glob("*.json"))]
    kinds = {record["settings"]["model.embedding"] for record in records(best)}
    assert kinds == {"static", "non-static"}
    assert sorted((item["model.embedding"], item["seed"]) for item in seeds) == [
        ("non-static", 1), ("non-static", 2), ("static", 1), ("static", 2),
    ]  # fmt: skip
    named = json.loads(best.read_text())
    assert {path.name for path in (run / "report").iterdir()} == {
        "report.html", "report.md", "trials.csv", "embeddings.png", "parallel-coordinates.png", "slices.png",
    }  # fmt: skip
    assert_tune_has_all_trials(run, named)
    assert any("the mean of 2 seeds" in line for line in messages)
    assert all(record["predicted"] for record in records(best))
    assert (named["refit"], named["rows"], named["metric"]) == (True, 108, "macro_f1")
    saved = checkpoint.load_checkpoint(str(best))
    assert saved.metrics["rows"] == named["rows"]
    assert saved.metrics["epoch"] == named["metrics"]["epoch"]
    assert saved.metrics["accuracy"] is None
    of_search = run / f"trial-{named['trial']:05d}" / f"epoch-{named['metrics']['epoch']:04d}" / "metrics.json"
    assert saved.temperature == json.loads(of_search.read_text())["temperature"] != 1
    evaluate(str(best), [], str(best.parent / "report"))
    assert "including the validation part" in (best.parent / "report" / "report.md").read_text()


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_with_several_labels_per_text_is_by_micro_f1(
    embedded_ray: None, make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """The report has their metrics; the checkpoint trained on all rows has the thresholds, and the weights of the
    linear classifier, of the search's best one."""
    source = write_label_sets(tmp_path / "rows.jsonl", make_label_set_rows(120))
    experiment = make_experiment(
        data__train=str(source), data__multi_label=True, train__metric="micro_f1", tune__refit=True, tune__epochs=3,
        tune__space={"model.embedding": {"grid": ["static", "non-static"]}}, tune__samples=1, tune__max_concurrent=1,
        train__learning_rate=0.02, model__linear="words-and-pairs",
    )  # fmt: skip
    best = Path(tune(experiment))
    epochs = [record["epochs"][record["best"] - 1] for record in records(best)]
    assert len(epochs) == 2
    named = json.loads(best.read_text())
    assert (named["metric"], named["refit"]) == ("micro_f1", True)
    assert named["metrics"]["micro_f1"] == max(epoch["micro_f1"] for epoch in epochs) > 0
    [run] = best.parent.glob("tune-*")
    table = list(csv.DictReader((run / "report" / "trials.csv").read_text().splitlines()))
    assert [float(row["micro_f1"]) for row in table] == [epoch["micro_f1"] for epoch in epochs]
    assert all(row["mean_average_precision"] for row in table)
    report = (run / "report" / "report.md").read_text()
    assert "Trials are compared by validation micro_f1" in report
    assert "Cannot tell whether fine-tuning the vectors pays: non-static micro_f1" in report
    saved = checkpoint.load_checkpoint(str(best))
    of_search = run / f"trial-{named['trial']:05d}" / f"epoch-{named['metrics']['epoch']:04d}"
    chosen = checkpoint.load_checkpoint(str(of_search))
    assert saved.label_thresholds.tolist() == chosen.label_thresholds.tolist()
    assert not has_network_alone(saved, None)  # they were chosen for the sum of both
    assert saved.weights["linear.scale"] == pytest.approx(chosen.weights["linear.scale"], rel=1e-5)
    # An interruption after the trials: the reason why the search ended stays.
    over, run_best = run / "search-over.txt", run / "best.json"
    over.write_text("the time limit is reached\n")
    run_best.write_text(json.dumps({**json.loads(run_best.read_text()), "finished": False}))
    tune(experiment)
    assert over.read_text() == "the time limit is reached\n"


def assert_tune_has_all_trials(run: Path, named: dict[str, Any]) -> None:
    """Assert that `ResultGrid`, TensorBoard and a user's callback have the settings and metrics of four trials."""
    grid = ray.tune.ResultGrid(ray.tune.ExperimentAnalysis(str(run / "ray")))
    table = grid.get_dataframe(filter_metric="macro_f1", filter_mode="max")
    assert sorted(table["config/trial"]) == [1, 2, 3, 4]
    assert set(table["config/model.embedding"]) == {"static", "non-static"}
    assert table["macro_f1"].max() == named["metrics"]["macro_f1"] == table["best/macro_f1"].max()
    assert [len(result.metrics_dataframe) for result in grid] == [2] * 4
    for folder in sorted((run / "ray").glob("trial-0*")):
        [log] = folder.glob("events.*")
        assert [step for step, _ in read_scalars(log)["ray/tune/accuracy"]] == [1, 2]
    searched = [result for result in RecordedResults.results if "seed" not in result["config"]]
    assert sorted((result["config"]["trial"], result["epoch"]) for result in searched) == [
        (trial, epoch) for trial in (1, 2, 3, 4) for epoch in (1, 2)
    ]
    assert all(isinstance(value, int | float | str) for result in searched for key, value in result.items()
               if key != "config")  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
def test_trials_finish_are_stopped_by_asha_or_fail_with_a_reason(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """One after the other: a good one, one that hardly learns, and one that diverges."""
    experiment = make_experiment(
        name="mixed", tune__space={"train.learning_rate": {"grid": [0.01, 1e-7, 1e30]}}, tune__samples=1,
        tune__epochs=3, tune__grace_epochs=1, tune__max_concurrent=1, tune__metric="loss", model__max_norm=None,
        model__linear="none",
    )  # fmt: skip
    good, slow, diverged = records(Path(tune(experiment)))
    assert (good["status"], good["reason"], len(good["epochs"])) == ("finished", "", 3)
    assert (slow["status"], len(slow["epochs"])) == ("stopped", 1)
    assert "ASHA" in slow["reason"]
    assert slow["epochs"][0]["loss"] > good["epochs"][0]["loss"]
    assert (diverged["status"], diverged["epochs"]) == ("failed", [])
    assert "lower train.learning_rate" in diverged["reason"]
    assert any("failed: epoch 1" in line and "lower train.learning_rate" in line for line in messages)


@pytest.mark.ray
@pytest.mark.slow
def test_trials_of_several_workers_share_a_cluster_that_they_fill(
    embedded_ray: None, make_experiment: Callable[..., Experiment], messages: list[str]
) -> None:
    """Four CPUs, two workers per trial: trials run one after the other, and none waits for what another one holds."""
    experiment = make_experiment(
        name="distributed", tune__space={"model.embedding": {"grid": ["rand", "static"]}}, tune__samples=1,
        tune__epochs=2, tune__scheduler="none", train__workers=2, train__cpus_per_worker=2, train__metric="loss",
        tune__seeds=1, tune__refit=True,
    )  # fmt: skip
    best = Path(tune(experiment))
    assert "2 trials, up to 1 at once" in messages
    assert [record["status"] for record in records(best)] == ["finished"] * 2
    saved, named = checkpoint.load_checkpoint(str(best)), json.loads(best.read_text())
    assert (saved.metrics["epoch"], saved.metrics["rows"]) == (named["metrics"]["epoch"], named["rows"])
    assert named["refit"]
    assert saved.experiment.train.workers == 2
    [run] = best.parent.glob("tune-*")
    assert {path.name for path in (run / "seeds").iterdir()} >= {"trials", "ray"}
    assert not [*run.glob("seeds/trial-*")]  # their checkpoints are not needed


def test_a_search_of_which_every_trial_failed_is_an_error(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """The message states the reason of the trial that failed first."""
    run, experiment = RunFolder(str(tmp_path), "tune-0123"), make_experiment()
    failures = [TrialRecord(1, {}, "failed", "late", ended=2.0), TrialRecord(2, {}, "failed", "early", ended=1.0)]
    manager = BestCheckpointManager(run, experiment)
    with pytest.raises(SearchFailed, match=r"every trial failed \(2\); the first: early"):
        _end_search(Search(experiment, FixedSampler([]), 2, failures), manager, run)
    with pytest.raises(SearchFailed, match="no trial has ended: none was started"):
        _end_search(Search(experiment, FixedSampler([]), 2, []), manager, run)
    late = Search(experiment.replace({"tune.minutes": 1.0}), FixedSampler([]), 2, [], elapsed_s=61.0)
    late.check_limits()
    with pytest.raises(SearchFailed, match=r"the time limit is reached \(tune.minutes=1\); raise tune.minutes"):
        _end_search(late, manager, run)


@pytest.mark.ray
@pytest.mark.slow
def test_running_trials_are_stopped_when_a_search_is_out_of_time(
    embedded_ray: None,
    make_experiment: Callable[..., Experiment],
    messages: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The best checkpoint so far is named. The time passes when that is of the second epoch: the first is reported."""
    experiment = make_experiment(
        name="short", tune__space={"model.dropout": {"uniform": [0.1, 0.5]}}, tune__samples=50, tune__epochs=100_000,
        train__patience=100_000, tune__minutes=1, tune__scheduler="none", tune__max_concurrent=1,
    )  # fmt: skip
    named = Path(experiment.storage, "short", "best.json")

    def read_clock() -> float:
        return 1000.0 if named.exists() and json.loads(named.read_text())["metrics"]["epoch"] > 1 else 0.0

    monkeypatch.setattr("jobs.search.search.time", SimpleNamespace(monotonic=read_clock))
    best = Path(tune(experiment))
    assert "the search is over: the time limit is reached (tune.minutes=1)" in messages
    [record] = records(best)
    assert record["status"] == "stopped"
    assert 1 <= len(record["epochs"]) < 100_000
    assert checkpoint.load_checkpoint(str(best)).labels == ["bad", "good"]


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to Ray."""
    monkeypatch.setattr("jobs.search.tune.connect", lambda: pytest.fail("Ray was started"))


def test_a_mistake_in_the_space_is_an_error_before_anything_is_read(
    no_ray: None, make_experiment: Callable[..., Experiment]
) -> None:
    """The file that does not exist is not noticed."""
    with pytest.raises(ExperimentError, match=r"did you mean 'model.dropout'"):
        tune(make_experiment(data__train="nowhere.csv", tune__space={"model.dropuot": {"choice": [0.1]}}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__train": "nowhere.csv"}, "nowhere.csv"),
        ({"data__text_column": "body"}, "body"),
        ({"vectors__path": "nowhere.bin"}, "nowhere.bin"),
        ({"data__validation": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_mistakes_in_files_columns_and_vectors_are_errors_before_ray_starts(
    no_ray: None, make_experiment: Callable[..., Experiment], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        tune(make_experiment(**settings))


def test_a_folder_that_another_command_uses_is_an_error_before_ray_starts(
    no_ray: None, make_experiment: Callable[..., Experiment]
) -> None:
    experiment = make_experiment(tune__space={"model.dropout": {"grid": [0.1, 0.2]}})
    run = resolve_run_folder("tune", experiment, make_test_corpus(experiment))
    with lock_folder(run.path), pytest.raises(StorageError, match="another command is using this run folder"):
        tune(experiment)


def test_random_vectors_are_compared_with_as_many_dimensions_as_those_of_the_file(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """As in the table of Kim (2014). Alone, they have `vectors.dimensions`."""
    words = ["great", "awful", "film"]
    path = write_word2vec(tmp_path / "vectors.bin", words, np.ones((3, 30), np.float32))
    experiment = make_experiment(vectors__path=str(path), vectors__dimensions=100)
    dataset = load_dataset(experiment)
    changed, corpora = build_corpora(experiment, dataset, {"rand", "static", "non-static"})
    assert [corpus.vectors.shape[1] for corpus in corpora.values()] == [30, 30]
    assert changed.vectors.dimensions == 30  # and so of the refit, and of best.yaml
    assert f"the vectors of rand have 30 dimensions, like those of {path}" in messages
    for kinds, dimensions in (({"rand"}, 100), ({"static"}, 30)):
        unchanged, corpora = build_corpora(experiment, dataset, kinds)
        assert [corpus.vectors.shape[1] for corpus in corpora.values()] == [dimensions]
        assert unchanged == experiment


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_whose_process_is_lost_while_it_is_reset_is_started_again(
    embedded_ray: None, make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """Tune itself reports such a trial as failed. The program's placement group, variables and log levels stay."""
    marker = tmp_path / "marker"
    group = placement_group([{"CPU": 0.01}])
    before = dict(os.environ), logging.getLogger("ray.tune").level
    report = TrialReport(Progress([make_epoch(1, 0.5)], best=1), finished=True).to_tune_result("accuracy")

    class FragileTrial(ray.tune.Trainable):  # here, so that its process does not import this module
        def reset_config(self, new_config: dict[str, Any]) -> bool:
            if not marker.exists():
                marker.touch()
                os._exit(1)
            return True

        def step(self) -> dict[str, Any]:
            return report

    settings = [{"model.feature_maps": number} for number in (4, 5, 6)]
    search = Search(make_experiment(), FixedSampler(settings), len(settings), [])
    context = SearchContext(make_experiment(), search, RecordStore(str(tmp_path / "trials")), str(tmp_path))
    resources = TrialResources({"cpu": 1.0}, max_concurrent_trials=1, wait_message=None, distributed=False)
    run_trials(context, FragileTrial, resources, asha=False)
    assert (dict(os.environ), logging.getLogger("ray.tune").level) == before
    assert placement_group_table(group)["state"] == "CREATED"
    remove_placement_group(group)
    assert marker.exists()
    assert {number: record.status for number, record in search.records.items()} == dict.fromkeys((1, 2, 3), "finished")
    assert sum("starting it again" in line for line in messages) == 1


class CommandCluster:
    """Ray cluster of its own for commands. environment: for a command that uses it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        variables = {"RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = os.environ | variables
        with self._variables():
            self.nodes = Cluster(
                initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 1, "include_dashboard": False}
            )
        self.environment["RAY_ADDRESS"] = self.nodes.address

    @contextlib.contextmanager
    def extra_node(self) -> Iterator[Any]:
        """Context manager: another node, with one CPU."""
        with self._variables():
            node = self.nodes.add_node(num_cpus=1)
        try:
            yield node
        finally:
            if node in self.nodes.list_all_nodes():
                self.nodes.remove_node(node, allow_graceful=False)

    @contextlib.contextmanager
    def _variables(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED"):
                patch.setenv(name, self.environment[name])
            patch.delenv("RAY_ADDRESS", raising=False)
            yield

    def trial_processes(self) -> set[int]:
        """Return the processes that train a trial now."""
        processes = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                is_trial = (entry / "cmdline").read_bytes().startswith(b"ray::ResourceTrainable.train")
                if is_trial and f"RAY_TMPDIR={self.folder}".encode() in (entry / "environ").read_bytes():
                    processes.add(int(entry.name))
        return processes

    def wait_for_trial(self, node: Any) -> None:
        """Wait until a trial trains on a node; its raylet is the parent of the node's processes."""
        raylet = node.all_processes["raylet"][0].process.pid
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            for process in self.trial_processes():
                with contextlib.suppress(OSError):
                    if int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1]) == raylet:
                        return
            time.sleep(0.02)
        raise AssertionError("no trial trains on the node")


@pytest.fixture(scope="module")
def command_cluster() -> Iterator[CommandCluster]:
    """Cluster with two CPUs, and what Ray takes for a GPU."""
    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # short: Ray keeps sockets in it
    cluster = CommandCluster(folder)
    yield cluster
    cluster.nodes.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def start_tune(tmp_path: Path, environment: dict[str, str], *settings: str) -> RunningCommand:
    """Return a running `tune` command on the toy csv."""
    words = ["tune", f"data.train={tmp_path / 'toy.csv'}", f"storage={tmp_path}/runs", "name=c", "tune.samples=1",
             "tune.scheduler=none", "train.metric=loss", "model.embedding=rand", *settings]  # fmt: skip
    return RunningCommand([sys.executable, "-m", "jobs", *words], environment, TIMEOUT_S)


def trial_lines(command: RunningCommand) -> list[str]:
    """Return the lines of ended trials in the output of a command."""
    return [line for line in command.lines if line.startswith("trial ")]


def kill_a_trial(cluster: CommandCluster, ignored: set[int], killed: list[int]) -> None:
    """Kill a process that trains, as soon as there is one."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and not killed:
        for process in cluster.trial_processes() - ignored:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                break
        time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_resumes_after_kills_of_the_command_of_a_trial_and_of_a_node_and_after_ctrl_c(
    toy_csv: Path, tmp_path: Path, command_cluster: CommandCluster
) -> None:
    """No ended trial is repeated, none is lost, and the results are those of the same trainings without a search.

    The first command requests half of a GPU for each trial, which torch cannot use; the others use no GPU.
    """
    settings = (f"tune.space={{model.feature_maps: {{grid: {FEATURE_MAPS}}}}}", "tune.epochs=50", "train.patience=50",
                "tune.refit=false", "tune.minutes=60")  # fmt: skip
    best = tmp_path / "runs" / "c" / "best.json"

    with start_tune(tmp_path, command_cluster.environment, *settings, "tune.gpus_per_trial=0.5") as command:
        command.wait_for_line("warning: training on CPUs: torch cannot use the GPUs of ")
        command.wait_for_line("9 trials, up to 2 at once")
        command.wait_for_line("trial ")
        command.process.kill()
    assert checkpoint.load_checkpoint(str(best)).labels == ["bad", "good"]
    ended = {path: path.stat().st_mtime_ns for path in best.parent.glob("tune-*/trials/*.json")}
    assert 1 <= len(ended) < 9

    with start_tune(tmp_path, command_cluster.environment, *settings, "train.use_gpu=false") as command:
        command.wait_for_line(f"resuming the search: {len(ended)} of 9 trials have ended")
        elapsed = read_elapsed(best)
        command.wait_for_line("trial ")
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130, command.output
    num_ended = len(ended) + len(trial_lines(command))
    assert num_ended < 9
    assert any(line.startswith("interrupted") for line in command.lines)
    assert f"{num_ended} of 9 trials have ended; best: feature_maps=" in command.output
    assert checkpoint.load_checkpoint(str(best)).labels == ["bad", "good"]
    assert read_elapsed(best) > elapsed >= 0

    killed: list[int] = []
    stale = command_cluster.trial_processes()
    with (
        command_cluster.extra_node() as node,
        start_tune(tmp_path, command_cluster.environment, *settings, "train.use_gpu=false") as command,
    ):
        command.wait_for_line("9 trials, up to 3 at once")
        command_cluster.wait_for_trial(node)
        command_cluster.nodes.remove_node(node, allow_graceful=False)
        threading.Thread(target=kill_a_trial, args=(command_cluster, stale, killed), daemon=True).start()
        assert command.wait() == 0, command.output
    assert killed
    missing = sorted(set(range(1, 10)) - {int(line[6:9]) for line in trial_lines(command)})
    assert len(missing) == num_ended
    assert len(trial_lines(command)) == 9 - num_ended
    assert {path: path.stat().st_mtime_ns for path in ended} == ended
    assert [record["number"] for record in records(best)] == list(range(1, 10))
    assert {(record["status"], record["reason"]) for record in records(best)} == {("finished", "")}
    [run] = best.parent.glob("tune-*")
    experiment = load_experiment(str(run / "experiment.yaml"))
    losses = []
    for record in records(best):
        loop, _ = train_in_process(apply_trial_settings(experiment, record["settings"]))
        losses.append(loop.progress.epochs[loop.progress.best - 1].loss)
        assert record["epochs"][record["best"] - 1]["loss"] == pytest.approx(losses[-1], rel=1e-3)
    named = json.loads(best.read_text())
    assert named["settings"] == {"model.feature_maps": FEATURE_MAPS[losses.index(min(losses))]}


def read_elapsed(best: Path) -> float:
    """Return the seconds that commands spent on the search whose experiment's best.json this is."""
    [folder] = best.parent.glob("tune-*")
    return RecordStore(str(folder / "trials")).read_elapsed()
