"""Results of the commands of jobs: the JSON object of --json, and the plan of --dry-run, which the command keeps."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_cnn import main
from tests.support.toy_data import make_toy_rows, write_word2vec

SETTINGS = [
    "model.embedding=rand", "model.filter_widths=[1,2]", "model.feature_maps=8", "vectors.dimensions=12",
    "vectors.min_count=1", "train.epochs=3", "train.learning_rate=0.01", "train.batch_size=16",
]  # fmt: skip


def call(*words: str) -> Any:
    """Return the JSON object that a command prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main([*words[:1], "--json", *words[1:]])
    result = json.loads(output.getvalue())
    assert code == (2 if "error" in result else 0), result
    return result


def list_files(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in folder.rglob("*")}


def plan(*words: str) -> Any:
    """Return the plan of a command that runs in the current folder, which stays as it is."""
    before = list_files(Path.cwd())
    result = call(*words, "--dry-run")
    assert list_files(Path.cwd()) == before
    assert result["dry_run"] is True
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: it has a csv, and runs of the first test that trains."""
    folder = tmp_path_factory.mktemp("results")
    rows = "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(120))
    (folder / "toy.csv").write_text(f"label,text\n{rows}")
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def training(folder: Path) -> tuple[Any, Any]:
    """The plan of a training, and its result."""
    words = ["train", "data.train=toy.csv", *SETTINGS]
    return plan(*words), call(*words)


def test_a_training_does_what_its_plan_says(training: tuple[Any, Any], folder: Path) -> None:
    planned, result = training
    [read] = planned["reads"]
    csv = folder / "toy.csv"
    assert read == {"path": "toy.csv", "use": "data.train", "bytes": csv.stat().st_size, "rows": 120}
    assert planned["starts"]["ray"] is None
    assert planned["starts"]["epochs"] == result["metrics"]["epoch"] or result["metrics"]["epoch"] < 3
    run, best = planned["writes"]
    assert best["path"] == result["path"] == str(folder / "runs" / "toy" / "best.json")
    assert run["path"] == str(folder / "runs" / "toy" / result["run"])
    assert run["use"].startswith("new run")
    checkpoints = sum(path.stat().st_size for path in Path(run["path"]).glob("epoch-*/*"))
    assert checkpoints / 2 < run["bytes"] < checkpoints * 2
    metrics = json.loads(Path(run["path"], result["checkpoint"].partition("/")[2], "metrics.json").read_text())
    rows = [planned["starts"][f"{part}_rows"] for part in ("training", "validation", "test")]
    assert rows[:2] == [metrics["rows"], metrics["validation_rows"]]
    assert sum(rows) == 120


def test_the_result_of_a_training_is_its_best_json(training: tuple[Any, Any]) -> None:
    _, result = training
    best = json.loads(Path(result["path"]).read_text())
    assert result == {"path": result["path"], **best, "next": [f"finetune-cnn evaluate {Path(result['path']).parent}"]}


@pytest.mark.usefixtures("training")
def test_a_finished_run_starts_nothing() -> None:
    planned = plan("train", "data.train=toy.csv", *SETTINGS)
    assert planned["starts"] == {}
    assert planned["writes"][0]["use"] == "finished run, which stays"
    other = plan("train", "data.train=toy.csv", *SETTINGS, "seed=1")
    assert other["writes"][0]["path"] != planned["writes"][0]["path"]
    assert other["starts"]["training_rows"] == 97


def test_what_is_not_read_is_not_known(folder: Path) -> None:
    """Vectors that a command trains itself take long; a text is printed without --json."""
    planned = plan("train", "data.train=toy.csv", "model.embedding=static")
    run, _, cache = planned["writes"]
    assert run["path"] == str(folder / "runs" / "toy" / "train-*")
    assert cache["path"] == str(folder / "runs" / "cache")


@pytest.mark.slow
def test_texts_that_the_command_would_cache_are_not_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is read into a cache of the storage, which is then the folder `cache` of the plan."""
    for module in ("jobs.datasets.readers", "jobs.dry_run"):
        monkeypatch.setattr(f"{module}.MIN_PREPARED_BYTES", 1)
    planned = plan("train", "data.train=toy.csv", *SETTINGS, "seed=4", "storage=cached")
    assert planned["starts"]["training_rows"] == 97
    assert planned["writes"][-1]["path"] == str(folder / "cached" / "cache")


def test_contradictions_are_errors_and_warnings_as_in_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.dry_run.count_cpus", lambda: 2)
    planned = plan("train", "data.train=toy.csv", *SETTINGS, "train.workers=3", "seed=3")
    assert planned["warnings"] == ["train.workers and train.cpus_per_worker ask for 3 * 1 CPUs; this machine has 2"]
    assert planned["starts"]["ray"] == "on this machine"
    assert planned["starts"]["workers"] == 3
    words = ["train", "data.train=toy.csv", "data.text_column=none"]
    error = call(*words)
    assert "has no column 'none'" in error["error"]
    assert call(words[0], "--dry-run", *words[1:]) == error
    address = plan("train", "data.train=toy.csv", *SETTINGS, "seed=3", "--address", "10.0.0.1:6379")["starts"]["ray"]
    assert address == "10.0.0.1:6379"


def test_a_plan_is_printed_as_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--dry-run", "data.train=toy.csv", *SETTINGS, "seed=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("dry run of train: nothing is started or written")
    assert [line.split() for line in lines[start + 1 : start + 5]] == [
        ["reads:"],
        ["toy.csv", "data.train", *lines[start + 2].split()[2:4], "120", "rows"],
        ["starts:"],
        ["ray", "none"],
    ]


def test_an_evaluation_does_what_its_plan_says(training: tuple[Any, Any], folder: Path) -> None:
    planned = plan("evaluate", "runs/toy", "--no-baseline")
    result = call("evaluate", "runs/toy", "--no-baseline")
    [report] = planned["writes"]
    assert result["path"] == f"{report['path']}/evaluation.json"
    assert planned["starts"] == {"rows": result["rows"], "linear_svc": False}
    assert planned["reads"][0]["path"] == result["checkpoint"]
    evaluation = json.loads(Path(result["path"]).read_text())
    assert result == {"path": result["path"], **evaluation, "next": ["finetune-cnn serve runs/toy"]}
    (folder / "other.csv").write_text("label,text\ngood,a great film\nbad,an awful film\n")
    planned = plan("evaluate", "runs/toy", "other.csv")
    assert planned["starts"] == {"rows": 2, "linear_svc": True}
    assert [file["path"] for file in planned["reads"][1:]] == ["other.csv", "toy.csv"]
    assert planned["writes"][0]["path"].startswith(f"{report['path']}-other-")


@pytest.mark.usefixtures("training")
@pytest.mark.parametrize("out", ["labelled.csv", "new/labelled.csv", "labelled/"])
def test_a_prediction_does_what_its_plan_says(out: str, folder: Path) -> None:
    words = ["predict", "runs/toy", "toy.csv", "--out", out]
    planned = plan(*words)
    result = call(*words)
    assert result["path"] == out
    assert (result["rows"], result["invalid"]) == (120, 0)
    assert all(Path(file["path"]).is_file() for file in planned["writes"])
    assert len(planned["writes"]) == result.get("files", 1)
    assert planned["reads"][1] == {
        "path": "toy.csv", "use": "texts", "bytes": (folder / "toy.csv").stat().st_size, "rows": None,
    }  # fmt: skip
    if out == "labelled.csv":
        assert "exists and is not replaced" in call(words[0], "--dry-run", *words[1:])["error"]
    assert result["next"] == ["finetune-cnn serve runs/toy"]


@pytest.mark.usefixtures("training")
def test_predictions_on_standard_output_are_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert "each line of the output is JSON" in call("predict", "runs/toy", "a great film")["error"]
    assert plan("predict", "runs/toy", "a great film")["writes"][0]["path"] == "standard output"
    assert main(["predict", "runs/toy", "a great film"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"text", "label", "score"}


def test_the_plan_of_a_cross_validation(folder: Path) -> None:
    """Its folder is that of the command: saved results of folds are not trained again."""
    words = ["cross-validate", "--folds", "2", "data.train=toy.csv", "name=folds", *SETTINGS]
    planned = plan(*words)
    [results] = planned["writes"]
    assert results["use"] == "results: 0 of 2 folds are finished"
    assert planned["starts"]["folds"] == 2
    fold = {"epoch": 1, "rows": 60, "accuracy": 0.5, "macro_f1": 0.5, "loss": 0.7, "validation": {}}
    for number in (1, 2):
        path = Path(results["path"], f"fold-{number}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**fold, "examples_per_second": 9.0, "seconds": 1.0}))
    assert plan(*words)["starts"] == {}
    result = call(*words)
    assert result["path"] == f"{results['path']}/folds.json"
    assert result["mean"] == {"accuracy": 0.5, "macro_f1": 0.5, "loss": 0.7}


def test_the_plan_of_a_search(folder: Path) -> None:
    """The tests of the command check that it runs as many trials, in the same folder."""
    space = "tune.space={train.learning_rate: {grid: [0.01, 0.02]}}"
    planned = plan("tune", "data.train=toy.csv", *SETTINGS, space, "tune.samples=1")
    assert planned["starts"]["trials"] == 2
    assert planned["starts"]["space"] == ["train.learning_rate"]
    search, best, settings = planned["writes"]
    assert search["path"].startswith(f"{folder}/runs/toy/tune-")
    assert [Path(file["path"]).name for file in (best, settings)] == ["best.json", "best.yaml"]
    unknown = plan("tune", "data.train=toy.csv")
    assert unknown["starts"]["trials"] == 12
    assert unknown["writes"][0]["path"] == f"{folder}/runs/toy/tune-*"


def test_the_other_commands_print_objects_too(training: tuple[Any, Any], folder: Path) -> None:
    _, trained = training
    created = call("init", "toy.csv", "--out", "mine.yaml")
    assert created == {
        "path": "mine.yaml", "text_column": "text", "label_column": "label", "next": ["finetune-cnn train mine.yaml"],
    }  # fmt: skip
    assert call("show", "train.epochs=7")["train"]["epochs"] == 7
    assert "train" in call("show", "--schema")["properties"]
    [experiment] = call("runs", "runs/toy")["experiments"]
    [run] = experiment["runs"]
    assert (run["run"], run["finished"], run["current"]) == (trained["run"], True, True)
    assert run["metrics"] == trained["metrics"]
    unused = call("clean", "runs/toy")
    assert unused["deleted"] == []
    checked = call("check-data", "data.train=toy.csv", "name=toy")
    assert {"severity", "finding", "message"} == set(checked["findings"][0])
    assert Path(checked["path"]).is_file()
    assert checked["next"] == ["finetune-cnn train data.train=toy.csv name=toy"]


def test_a_data_check_does_what_its_plan_says(folder: Path) -> None:
    """Its texts are counted even if vectors would be trained for a training; the folder is not created."""
    words = ["check-data", "data.train=toy.csv", "--out", "new/check"]
    planned = plan(*words)
    size = (folder / "toy.csv").stat().st_size
    assert planned["reads"] == [{"path": "toy.csv", "use": "data.train", "bytes": size, "rows": 120}]
    assert planned["starts"] == {"training_rows": 97, "validation_rows": 11, "test_rows": 12, "classes": 2}
    assert call(*words)["path"] == planned["writes"][0]["path"]
    assert {file["path"] for file in planned["writes"]} == {str(path) for path in folder.glob("new/check/*")}
    vectors = write_word2vec(folder / "own.bin", ["film"], np.ones((1, 3), np.float32))
    reads = plan(*words, "vectors.path=own.bin")["reads"]
    assert [(file["path"], file["bytes"]) for file in reads[1:]] == [("own.bin", vectors.stat().st_size)]
    error = call(*words, "vectors.path=none.bin")["error"]
    assert "no such vectors file" in error
    assert call(*words, "vectors.path=none.bin", "--dry-run")["error"] == error


def test_a_training_of_vectors_does_what_its_plan_says(folder: Path) -> None:
    """The words are not counted of large texts, which take long."""
    words = ["vectors", "train", "toy.csv", "--out", "other/toy.bin", "--threads", "1", "vectors.dimensions=6"]
    planned = plan(*words, "vectors.epochs=1")
    result = call(*words, "vectors.epochs=1")
    [read], [written] = planned["reads"], planned["writes"]
    assert (read["path"], read["bytes"]) == ("toy.csv", (folder / "toy.csv").stat().st_size)
    assert (written["path"], written["bytes"]) == (result["path"], Path(result["path"]).stat().st_size)
    starts = planned["starts"]
    assert {name: starts[name] for name in ("threads", "epochs", "dimensions", "vectors")} == {
        "threads": 1, "epochs": 1, "dimensions": 6, "vectors": result["words"],
    }  # fmt: skip
    assert "exists and is not replaced" in call(*words, "--dry-run")["error"]
    (folder / "few.txt").write_text("a b c")
    for change in (["few.txt"], ["vectors.min_count=999"], ["vectors.path=v"]):
        few = [*words[:2], *(change if change[0] == "few.txt" else ["toy.csv", *change]), "--out", "few.bin"]
        assert call(*few, "--dry-run") == {"error": call(*few)["error"]}


def test_the_words_of_large_texts_are_not_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.vectors_dry_run.MAX_TEXT_BYTES", 10)
    planned = plan("vectors", "train", "toy.csv", "--out", "large.bin", "--threads", "2")
    assert planned["starts"] == {"threads": 2, "epochs": 5, "dimensions": 100}
    assert planned["writes"][0]["bytes"] is None


@pytest.mark.usefixtures("training")
@pytest.mark.parametrize("name", ["planned.bin", "planned.txt", "planned.bin.gz"])
def test_an_export_of_vectors_does_what_its_plan_says(name: str, folder: Path) -> None:
    words = ["vectors", "export", "runs/toy", f"new-{name}/{name}"]
    planned = plan(*words)
    written = Path(call(*words)["path"])
    [file], size = planned["writes"], written.stat().st_size
    assert file["path"] == str(written)
    assert file["bytes"] == {".bin": size, ".gz": None}.get(written.suffix, pytest.approx(size, rel=0.3))
    [read] = planned["reads"]
    assert read["bytes"] == sum(path.stat().st_size for path in Path(read["path"]).iterdir())
    assert "exists and is not replaced" in call(*words, "--dry-run")["error"]


def test_a_merge_with_other_vectors_is_planned(folder: Path) -> None:
    """The original is a file that is read, and its mistakes are those of the command."""
    rows = "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(60))
    Path("merged.csv").write_text(f"label,text\n{rows}")
    vectors = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    original = write_word2vec(folder / "original.bin", ["film", "unseen"], vectors)
    write_word2vec(folder / "short.bin", ["film"], vectors[:1, :3])
    Path("broken.bin").write_text("nothing")
    call("train", "data.train=merged.csv", *SETTINGS, "vectors.path=original.bin", "model.embedding=non-static")
    words = ["vectors", "export", "runs/merged", "merged.bin", "--merge"]
    planned = plan(*words)
    assert planned["reads"][1] == {
        "path": original.name, "use": "original", "bytes": original.stat().st_size, "rows": None,
    }  # fmt: skip
    for name in ("short.bin", "broken.bin", "none.bin"):
        other = [*words, "--original", name]
        assert call(*other, "--dry-run") == {"error": call(*other)["error"]}


@pytest.mark.usefixtures("training")
def test_a_report_of_drift_does_what_its_plan_says(folder: Path) -> None:
    words = ["vectors", "drift", "runs/toy", "--out", "drift"]
    planned = plan(*words)
    call(*words)
    assert {file["path"]: file["bytes"] for file in planned["writes"]} == {
        str(path): path.stat().st_size for path in (folder / "drift").iterdir()
    }
    unknown = [*words, "--words", "nosuchword"]
    assert call(*unknown, "--dry-run") == {"error": call(*unknown)["error"]}


def test_vectors_commands_print_objects(training: tuple[Any, Any]) -> None:
    words = ["vectors", "train", "toy.csv", "--out", "toy.bin", "--threads", "1", "vectors.dimensions=6"]
    trained = call(*words, "vectors.epochs=1", "vectors.min_count=1")
    assert (Path(trained["path"]).name, trained["dimensions"]) == ("toy.bin", 6)
    exported = call("vectors", "export", "runs/toy", "out.bin")
    assert exported["dimensions"] == 12
    assert exported["fine_tuned"] > 0
    drift = call("vectors", "drift", "runs/toy", "--top", "2")
    assert [len(drift[name]) for name in ("farthest", "farthest_for_frequency", "neighbours")] == [2, 2, 2]
