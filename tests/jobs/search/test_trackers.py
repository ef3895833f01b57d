"""Trials of a real search in MLflow, Weights & Biases, a callback of Ray, and Ray's `ResultGrid`, as in the guide."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from tests.support.commands import run_command
from tests.support.documents import read_code_blocks
from tests.support.wandb_files import read_wandb_run

GUIDE = REPOSITORY / "docs" / "guides" / "search.md"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # of MLflow's use of SQLAlchemy
def test_all_trackers_have_the_trials_of_a_search(
    make_experiment: Callable[..., Experiment], ray_environment: dict[str, str], tmp_path: Path
) -> None:
    """With their settings, and the metrics of each epoch."""
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    client = pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = make_experiment(
        mlflow=f"sqlite:///{tmp_path}/mlflow.db", wandb="own", tune__space={"model.feature_maps": {"grid": [4, 6]}},
        tune__samples=1, tune__epochs=2, tune__scheduler="none",
    )  # fmt: skip
    (tmp_path / "search.yaml").write_text(experiment.to_yaml())
    result_grid, callback = (block for block in read_code_blocks(GUIDE) if block.language == "python")
    (tmp_path / "tracking.py").write_text(callback.text)
    environment = {
        "PYTHONPATH": f"{REPOSITORY}:{tmp_path}",
        "RAY_TUNE_CALLBACKS": "tracking.Wandb",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
    }
    result = run_command("python", "-m", "jobs", "tune", "search.yaml", cwd=tmp_path, env=ray_environment | environment)
    assert result.returncode == 0, result.stderr
    [search] = tmp_path.glob("runs/toy/tune-*")
    records = [json.loads(path.read_text()) for path in sorted(search.glob("trials/*.json"))]
    expected = {
        record["settings"]["model.feature_maps"]: [epoch["accuracy"] for epoch in record["epochs"]]
        for record in records
    }
    assert {maps: len(accuracies) for maps, accuracies in expected.items()} == {4: 2, 6: 2}

    runs = client.search_runs([client.get_experiment_by_name("toy").experiment_id])
    assert {run.data.tags["search"] for run in runs} == {search.name}
    assert {
        int(run.data.params["model.feature_maps"]): [
            point.value for point in client.get_metric_history(run.info.run_id, "accuracy")
        ]
        for run in runs
    } == expected

    logged: dict[str, dict[int, list[float]]] = {}
    for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        run = read_wandb_run(path)
        accuracies = [row["accuracy"] for row in run["history"]]
        logged.setdefault(run["run"][2], {})[run["config"]["model.feature_maps"]] = accuracies
    assert logged == {"own": expected, "tickets": expected}

    names: dict[str, Any] = {}
    result_grid.run(names, ("/data/runs/tickets/tune-3f2a91c0", str(search)))
    tables = {result.config["model.feature_maps"]: result.metrics_dataframe for result in names["trials"]}
    assert {maps: table["accuracy"].tolist() for maps, table in tables.items()} == expected
