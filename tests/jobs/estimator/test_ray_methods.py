"""The estimator on Ray, and the parts for a user's own Ray programs, by the examples of the guide."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import urllib3
import yaml
from ray import serve
from ray.serve.schema import ServeDeploySchema
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cluster import UsageError
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from finetune_cnn import TextCNNClassifier, load, train_loop_per_worker
from jobs.config.experiment import ExperimentError
from jobs.training.run_files.checkpoint_store import CheckpointStore
from jobs.training.worker_messages import WorkerResult
from serving.app import ApplicationArguments, build
from tests.support.documents import CodeBlock, read_code_blocks
from tests.support.toy_data import make_toy_rows, write_word2vec

GUIDE = REPOSITORY / "docs" / "guides" / "ray.md"
TEXT = "Where is my parcel?"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def blocks() -> dict[str, list[CodeBlock]]:
    """Blocks of the guide by language."""
    blocks = read_code_blocks(GUIDE)
    return {language: [block for block in blocks if block.language == language] for language in ("python", "yaml")}


@pytest.fixture(scope="module")
def program(
    embedded_ray: None, blocks: dict[str, list[CodeBlock]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Names of a program with the first block of the guide, in a folder with small vectors; `port` of Serve is free."""
    folder = tmp_path_factory.mktemp("program")
    shutil.copytree(REPOSITORY / "experiments", folder / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
        [port] = find_free_ports(1)
        names = {"__name__": "__main__", "port": port, "folder": folder}
        run(blocks["python"][0], names)
        words = sorted({word for text in names["texts"] for word in text.lower().split()})
        write_word2vec(folder / "vectors.bin.gz", words, np.random.default_rng(0).normal(size=(len(words), 8)))
        names["model"] = TextCNNClassifier(embedding="rand", epochs=1).fit(names["texts"], names["labels"])
        yield names
        serve.shutdown()


def run(block: CodeBlock, names: dict[str, Any]) -> None:
    """Run a block, with another port."""
    block.run(names, ("port=8000", f"port={names['port']}"))


def test_the_estimator_trains_searches_and_serves(
    program: dict[str, Any], blocks: dict[str, list[CodeBlock]], capsys: pytest.CaptureFixture[str]
) -> None:
    """On the connected Ray."""
    run(blocks["python"][1], program)
    assert program["model"].to_experiment().train.workers == 2
    assert program["best"].feature_maps in (50, 100)
    assert program["best"].best_epoch_ in [epoch.epoch for epoch in program["best"].epochs_]
    checkpoint = program["best"]._model.checkpoint
    assert checkpoint.metrics["rows"] == len(program["texts"])  # with the validation rows
    own = program["best"].to_experiment()
    assert (checkpoint.experiment.storage, checkpoint.experiment.train) == (own.storage, own.train)
    texts, labels = program["texts"], program["labels"]
    own = TextCNNClassifier("vectors.bin.gz", epochs=5).fit(texts, labels)
    assert np.allclose(program["model"].predict_proba(texts), own.predict_proba(texts), atol=1e-4)
    assert f":{program['port']} [" in capsys.readouterr().out
    assert ray.is_initialized()
    assert serve.status().applications == {}


def test_the_trainer_of_a_user(program: dict[str, Any], blocks: dict[str, list[CodeBlock]]) -> None:
    """Each epoch is a report with a checkpoint."""
    run(blocks["python"][2], program)
    result = program["result"]
    assert len(result.best_checkpoints) == 5
    assert Path(program["checkpoint"].path).parent == program["folder"] / "ray-runs" / "tickets"
    assert result.metrics["epoch"] == 5


@pytest.mark.parametrize(
    ("metric", "is_reported", "written"), [(None, True, [1, 2, 3, 4, 4, 5]), ("accuracy", False, [1, 2, 3, 4, 5])]
)
def test_the_trainer_of_a_user_removes_checkpoints(
    embedded_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str | None, is_reported: bool,
    written: list[int],
) -> None:  # fmt: skip
    """The first epoch is the best, and its checkpoint is removed too.

    The run resumes from the newest after a lost worker, reported or not, and if it is fitted again.
    """
    labels, texts = (list(column) for column in zip(*make_toy_rows(120), strict=True))
    estimator = TextCNNClassifier(embedding="rand", feature_maps=4, epochs=5, learning_rate=0.1)
    log, state = tmp_path / "written", tmp_path / "run" / "checkpoint_manager_snapshot.json"

    def train_and_lose_a_worker(config: Mapping[str, Any]) -> WorkerResult:
        write = CheckpointStore.write

        def write_or_exit(self: CheckpointStore, name: str, *arguments: Any) -> None:
            with log.open("a") as file:
                file.write(f"{name}\n")
            is_lost = log.read_text().split()[3:] == ["epoch-0004"]
            if is_lost and is_reported:
                while "epoch-0003" not in state.read_text():
                    time.sleep(0.05)
                os._exit(1)
            write(self, name, *arguments)
            if is_lost:
                os._exit(1)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CheckpointStore, "write", write_or_exit)
            return train_loop_per_worker(config)

    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    for attempt in ("first", "again"):
        result = TorchTrainer(
            train_and_lose_a_worker,
            train_loop_config=estimator.train_loop_config(texts, labels),
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(
                name="run",
                storage_path=str(tmp_path),
                failure_config=FailureConfig(max_failures=1),
                checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=metric),
            ),
        ).fit()
        assert [int(name[-4:]) for name in log.read_text().split()] == written, attempt
        assert result.metrics["epoch"] == 5
        checkpoints = [checkpoint.path for checkpoint, _ in result.best_checkpoints]
        assert {Path(path) for path in checkpoints} == {*(tmp_path / "run").glob("epoch-*")}, attempt
        assert load(checkpoints[-1]).labels == ["bad", "good"]


def test_the_tuner_of_a_user(program: dict[str, Any], blocks: dict[str, list[CodeBlock]]) -> None:
    run(blocks["python"][3], program)
    assert program["best"].config["model.feature_maps"] in (50, 100)
    assert 0.3 <= program["best"].config["model.dropout"] <= 0.6
    assert program["best"].metrics["epoch"] == program["best"].metrics["training_iteration"]


def test_the_pipeline_of_a_user(program: dict[str, Any], blocks: dict[str, list[CodeBlock]]) -> None:
    """With the labels of the estimator, whose `predict` accepts a dataset too."""
    run(blocks["python"][5], program)
    expected = program["model"].predict(program["texts"]).tolist()
    assert len(program["first"]) == len(program["same"]) == 3
    for row in (*program["first"], *program["same"]):
        assert (row["text"], row["label"]) == (program["texts"][row["id"]], expected[row["id"]])


def test_a_trial_of_a_user_resumes_from_its_checkpoint(embedded_ray: None, tmp_path: Path) -> None:
    """With the metrics that it would have had without an interruption; another trial starts with new weights."""
    labels, texts = (list(column) for column in zip(*make_toy_rows(120), strict=True))
    estimator = TextCNNClassifier(embedding="rand", feature_maps=4, epochs=3, learning_rate=0.01)
    create = estimator.trainable(texts, labels)
    trial, other = create({"model.dropout": 0.2}), create({"model.dropout": 0.2})
    first = trial.step()
    trial.save_checkpoint(str(tmp_path))
    other.load_checkpoint(str(tmp_path))
    timings = {"seconds", "examples_per_second"}
    expected, resumed = (
        {key: value for key, value in run.step().items() if key not in timings} for run in (trial, other)
    )
    assert expected == resumed
    assert (first["epoch"], resumed["epoch"], resumed["done"]) == (1, 2, False)
    assert trial.step()["done"]
    other.reset_config({"model.dropout": 0.2})
    assert other.step()["loss"] == first["loss"]
    with pytest.raises(UsageError, match="searches no settings of `text`"):
        create({"text.max_words": 3}).step()
    with pytest.raises(ExperimentError, match=r"configuration of your Tuner: 'vectors\.norm' cannot be searched"):
        create({"vectors.norm": 3.0})
    with pytest.raises(ExperimentError, match=r"'train\.workers' changes the speed of a trial"):
        trial.reset_config({"train.workers": 2})


def test_the_application_of_a_user(program: dict[str, Any], blocks: dict[str, list[CodeBlock]]) -> None:
    """By the configuration of the guide, and as a part of another application."""
    serve.start(http_options={"port": program["port"]})
    run(blocks["python"][4], program)
    url = f"http://127.0.0.1:{program['port']}"
    assert urllib3.request("POST", url, body=TEXT).data.decode() in program["model"].classes_
    configuration = yaml.safe_load(blocks["yaml"][0].text)
    [application] = ServeDeploySchema.model_validate(configuration).applications
    arguments = ApplicationArguments.model_validate(application.args | {"checkpoint": str(program["folder"] / "model")})
    serve.run(build(arguments), name=application.name, route_prefix=application.route_prefix)
    body = json.dumps({"inputs": TEXT})
    [first, *_] = urllib3.request("POST", f"{url}/tickets/predict", body=body).json()
    assert first["label"] == program["model"].predict([TEXT])[0]
    assert len(blocks["python"]) == 6
