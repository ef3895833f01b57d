"""Cross-validation: results of the best epoch, and each missing fold trained once, with or without Ray."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from cluster.resources import ResourceError
from cluster.storage import StorageError, write_json
from jobs.config.experiment import Experiment, ExperimentError
from jobs.datasets.dataset import load_dataset, load_folds
from jobs.datasets.readers import DataError
from jobs.datasets.tokenizer import tokenize
from jobs.embeddings.word2vec import VectorsError
from jobs.training import cross_validation, parallel_tasks
from jobs.training.cross_validation import (
    FOLD_METRICS,
    FoldResult,
    cross_validate,
    format_table,
    summarize,
    train_and_evaluate,
)
from jobs.training.parallel_tasks import TaskFailed
from tests.support.toy_data import make_test_corpus, make_toy_rows, write_word2vec


def fold_result(accuracy: float) -> FoldResult:
    return FoldResult(3, 40, accuracy, accuracy / 2, 0.5, {"accuracy": 1.0, "macro_f1": 1.0, "loss": 0.1}, 100.0, 1.0)


def test_too_few_cpus_for_a_fold_are_an_error_that_names_the_setting(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold has one worker, so `train.workers` has no effect."""
    monkeypatch.setattr(cross_validation, "resolve_address", lambda: "cluster")
    monkeypatch.setattr(cross_validation, "connect", nullcontext)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}, "Labels": {}}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(ResourceError, match=r"^train\.cpus_per_worker: no room for 1 worker of 8 CPUs; there are 4"):
        cross_validate(make_experiment(train__cpus_per_worker=8), 3)


def test_each_row_is_tested_once(make_experiment: Callable[..., Experiment]) -> None:
    """Classes are evenly divided, no row is in two parts of a fold, and another seed draws other folds."""
    datasets = load_folds(make_experiment(), 4)
    lines = sorted(line for dataset in datasets for line in dataset.test.line_numbers or [])
    assert lines == list(range(2, 122))
    for dataset in datasets:
        parts = [set(part.line_numbers or []) for part in (dataset.train, dataset.validation, dataset.test)]
        assert sum(len(part) for part in parts) == len(set.union(*parts)) == 120
        assert abs(dataset.test.labels.count("good") - dataset.test.labels.count("bad")) <= 1
    other = load_folds(make_experiment(seed=1), 4)
    assert other[0].test.line_numbers != datasets[0].test.line_numbers


def test_a_class_with_fewer_rows_than_folds_is_an_error(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A class with too few rows could not be in every fold."""
    (tmp_path / "few.csv").write_text("label,text\n" + "a,x\n" * 9 + "b,y\n" * 2)
    with pytest.raises(DataError, match=r"2 rows have the label 'b', fewer than .*3"):
        load_folds(make_experiment(data__train=str(tmp_path / "few.csv")), 3)


def test_a_result_is_of_the_best_epoch(make_experiment: Callable[..., Experiment]) -> None:
    """Evaluated on the validation part, the result has the metrics of the best epoch."""
    experiment = make_experiment(train__epochs=6, train__learning_rate=0.03)
    dataset = load_dataset(experiment)
    result = train_and_evaluate(experiment, make_test_corpus(experiment), dataset.validation)
    for name in ("accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation"):
        assert getattr(result, name) == result.validation[name]
    assert result.loss == pytest.approx(result.validation["loss"], abs=1e-6)
    assert result.rows == len(dataset.validation)
    assert FoldResult(**json.loads(json.dumps(result.to_json()))) == result


def test_mean_and_standard_deviation_are_of_a_sample() -> None:
    """In the table, mean and standard deviation follow the folds."""
    results = [fold_result(accuracy) for accuracy in (0.5, 0.6, 0.9)]
    summary = summarize(results)
    assert summary["mean"]["accuracy"] == pytest.approx(2 / 3)
    assert summary["deviation"]["accuracy"] == pytest.approx(np.std([0.5, 0.6, 0.9], ddof=1))
    lines = format_table(results).splitlines()
    assert lines[0].split() == ["fold", "rows", "epoch", "accuracy", "macro", "F1", "loss"]
    assert lines[2].split() == ["2", "40", "3", "0.6000", "0.3000", "0.5000"]
    assert lines[4].startswith("mean (standard deviation)   accuracy 0.6667 (0.2082)")


def test_metrics_that_folds_of_earlier_versions_lack_are_left_out() -> None:
    results = [replace(fold_result(0.5), balanced_accuracy=0.4, matthews_correlation=0.3) for _ in range(2)]
    assert summarize(results)["mean"] == pytest.approx(
        {"accuracy": 0.5, "macro_f1": 0.25, "balanced_accuracy": 0.4, "matthews_correlation": 0.3, "loss": 0.5}
    )
    assert "balanced accuracy" in format_table(results)
    earlier = FoldResult(**fold_result(0.5).to_json())
    assert list(summarize([*results, earlier])["mean"]) == ["accuracy", "macro_f1", "loss"]


@pytest.mark.slow
def test_only_missing_folds_are_trained(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray, in two processes. Saved results are used as they are; other vectors of the same name are new."""
    monkeypatch.setattr(parallel_tasks, "count_cpus", lambda: 2)
    words = ["great", "lovely", "awful", "dull", "film", "the"]
    path = write_word2vec(tmp_path / "v.bin", words, np.eye(6, 5, dtype=np.float32))
    experiment = make_experiment(model__embedding="non-static", vectors__path=str(path), vectors__dimensions=5)
    summary_path = Path(cross_validate(experiment, 3))
    summary = json.loads(summary_path.read_text())
    assert [fold["rows"] for fold in summary["folds"]] == [40] * 3
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean([fold["accuracy"] for fold in summary["folds"]]))
    assert sum(line.startswith("reading vectors") for line in messages) == 1  # not once per fold
    assert "mean (standard deviation)" in messages[-1]

    # A first result that no training has: it is in the summary only if the fold is not trained again.
    first = summary["folds"][0] | {"accuracy": 0.125}
    write_json(str(summary_path.parent / "fold-1.json"), first)
    (summary_path.parent / "fold-2.json").unlink()
    messages.clear()
    assert cross_validate(experiment, 3) == str(summary_path)
    again = json.loads(summary_path.read_text())
    assert "2 of 3 folds are finished" in messages
    trained = [match[0] for line in messages if (match := re.match(r"fold \d(?= \()", line))]
    assert trained == ["fold 2"]
    assert again["folds"][0] == first
    assert again["folds"][2] == summary["folds"][2]
    retrained = json.loads((summary_path.parent / "fold-2.json").read_text())
    assert again["folds"][1] == retrained
    compared = [name for name in FOLD_METRICS if name != "micro_f1"]
    assert [retrained[name] for name in compared] == [summary["folds"][1][name] for name in compared]
    assert retrained["seconds"] != summary["folds"][1]["seconds"]

    write_word2vec(path, words, 2 * np.eye(6, 5, dtype=np.float32)[::-1])
    messages.clear()
    assert cross_validate(experiment, 3) != str(summary_path)
    assert not any("are finished" in line for line in messages)


def test_a_copy_of_the_vectors_file_is_the_same_cross_validation(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """On a replaced node the file has another modification time, or another path."""
    path = write_word2vec(tmp_path / "v.bin", ["great", "film"], np.eye(2, 5, dtype=np.float32))
    experiment = make_experiment(model__embedding="static", vectors__path=str(path), vectors__dimensions=5)
    datasets = load_folds(experiment, 3)

    def key(experiment: Experiment = experiment) -> str:
        return cross_validation._key(experiment, datasets, cross_validation._read_vectors(experiment, datasets[0]))

    first = key()
    os.utime(path, ns=(0, 0))
    assert key() == first
    moved = path.rename(tmp_path / "moved.bin")
    assert key(experiment.replace({"vectors.path": str(moved)})) == first
    write_word2vec(path, ["great", "film"], 2 * np.eye(2, 5, dtype=np.float32))
    assert key() != first


def test_a_fold_knows_only_the_words_of_its_training_part(
    make_experiment: Callable[..., Experiment], tmp_path: Path, messages: list[str]
) -> None:
    """Not those of its test part, which are in the vectors file too; the file is read once."""
    path = Path(str(make_experiment().data.train))
    rows = [f'{label},"{text} word{number}"' for number, (label, text) in enumerate(make_toy_rows(120))]
    path.write_text("label,text\n" + "\n".join(rows) + "\n")
    words = ["film", *(f"word{number}" for number in range(120))]
    vectors = write_word2vec(tmp_path / "v.bin", words, np.random.default_rng(0).normal(size=(121, 5)).astype("f4"))
    experiment = make_experiment(
        model__embedding="static", vectors__path=str(vectors), vectors__extra_words=0, vectors__dimensions=5
    )
    datasets = load_folds(experiment, 3)
    word_vectors = cross_validation._read_vectors(experiment, datasets[0])
    for number, corpus in cross_validation._build_corpora(experiment, datasets, word_vectors, [1, 2, 3]):
        train_words = {token for text in datasets[number - 1].train.texts for token in tokenize(text)}
        assert set(corpus.words) == train_words
    assert sum(line.startswith("reading vectors") for line in messages) == 1
    assert sum(line.startswith("only ") for line in messages) <= 1


@pytest.mark.ray
@pytest.mark.slow
def test_folds_on_ray_have_the_same_results(
    embedded_ray: None, make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bit by bit, apart from times. An error contains the reason, and no traceback."""
    on_ray = read_folds(cross_validate(make_experiment(), 3))
    with monkeypatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: False)
        assert read_folds(cross_validate(make_experiment(storage=str(tmp_path / "here")), 3)) == on_ray
    experiment = make_experiment(train__learning_rate=1e30, model__max_norm=None)
    with pytest.raises(TaskFailed, match=r"fold \d: epoch 1: the training loss is nan; lower train.learning_rate"):
        cross_validate(experiment, 2)


@pytest.mark.ray
def test_a_fold_whose_process_is_lost_is_an_error(
    embedded_ray: None, make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray repeats the task, whose process ends each time."""
    corpus = make_test_corpus(make_experiment())
    monkeypatch.setattr(cross_validation, "train_and_evaluate", lambda *_: os._exit(1))
    with pytest.raises(TaskFailed, match=r"^fold 1: its process was lost: .*repeat the command"):
        list(cross_validation.train_in_parallel([("fold 1", None, corpus, None)], 1))  # type: ignore[list-item]


def test_folds_end_if_a_result_cannot_be_saved(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, not when the generator is freed: Ray may have stopped by then."""
    ended = []

    def train_in_parallel(*_: object) -> Iterator[tuple[str, FoldResult]]:
        try:
            yield "fold 1", fold_result(0.5)
        finally:
            ended.append(True)

    def fail(path: str, *_: object) -> None:
        raise StorageError(f"{path}: no space left")

    monkeypatch.setattr(cross_validation, "train_in_parallel", train_in_parallel)
    monkeypatch.setattr(cross_validation, "write_json", fail)
    with pytest.raises(StorageError, match="no space left"):
        cross_validate(make_experiment(), 3)
    assert ended


@pytest.mark.ray
def test_other_folds_end_with_the_one_that_fails(
    embedded_ray: None, make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their CPUs are free again."""
    corpus = make_test_corpus(make_experiment())

    def fail_or_wait(name: str, *_: object) -> None:
        if name == "fails":
            raise ExperimentError("a setting is wrong")
        time.sleep(600)

    monkeypatch.setattr(cross_validation, "train_and_evaluate", fail_or_wait)
    cancel, ignored = ray.cancel, set[ray.ObjectRef[None]]()

    def cancel_later(task: ray.ObjectRef[None], **options: bool) -> None:
        """Ignore the first cancellation, as Ray does if the task is about to start."""
        if task in ignored:
            cancel(task, **options)
        ignored.add(task)

    monkeypatch.setattr(ray, "cancel", cancel_later)
    tasks = [(f"fold {number}", name, corpus, None) for number, name in enumerate(("fails", "waits", "waits"))]
    free = ray.available_resources()["CPU"]
    with pytest.raises(TaskFailed, match=r"^fold 0: a setting is wrong"):
        list(cross_validation.train_in_parallel(tasks, 1))  # type: ignore[arg-type]
    assert ignored
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < free:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def read_folds(path: str) -> list[dict[str, object]]:
    """Return the results of a folds.json without times."""
    folds = json.loads(Path(path).read_text())["folds"]
    return [
        {key: value for key, value in fold.items() if key not in ("seconds", "examples_per_second")} for fold in folds
    ]


def test_the_error_of_a_fold_names_it(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for two processes, folds train in this one, and Ray does not start."""
    monkeypatch.setattr(parallel_tasks, "count_cpus", lambda: 1)
    experiment = make_experiment(train__learning_rate=1e30, model__max_norm=None)
    with pytest.raises(TaskFailed, match=r"fold \d: epoch 1: the training loss is nan; lower train.learning_rate"):
        cross_validate(experiment, 2)


def test_settings_are_checked_first(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """A test file, a missing column and a missing vectors file are errors; settings without effect are named."""

    def fail(*_: object) -> None:
        raise RuntimeError("folds train")

    monkeypatch.setattr(cross_validation, "train_in_parallel", fail)
    with pytest.raises(ExperimentError, match=r"remove data.test"):
        cross_validate(make_experiment(data__test="test.csv"), 3)
    with pytest.raises(DataError, match=r"has no column 'body'"):
        cross_validate(make_experiment(data__text_column="body"), 3)
    with pytest.raises(VectorsError, match="no such vectors file"):
        cross_validate(make_experiment(vectors__path="none.txt", model__embedding="static"), 3)
    with pytest.raises(DataError, match=r"--folds 101"):
        cross_validate(make_experiment(), 101)
    messages.clear()
    with pytest.raises(RuntimeError, match="folds train"):
        cross_validate(make_experiment(train__workers=2), 3)
    assert [message.split(" in a ")[0] for message in messages[:-1]] == [
        "train.workers and train.use_gpu have no effect"
    ]
