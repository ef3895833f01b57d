"""Prediction into a folder: parts that several processes write, and what is left when they are killed."""

import contextlib
import csv
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

import finetune_cnn
from cluster import UsageError
from cluster.package import REPOSITORY
from jobs.__main__ import main
from jobs.inference import sharded_prediction
from jobs.inference.batch import processes
from jobs.inference.file_prediction import predict_file
from tests.support.commands import run_command
from tests.support.running_commands import RunningCommand
from tests.support.text_formats import encode_rows
from tests.support.toy_data import read_jsonl
from tests.support.waiting import wait_for

NUM_ROWS = 400
ROWS = [(f"l{number}", f'word{number % 90} "word2", {number}') for number in range(NUM_ROWS)]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_prediction, "PART_BYTES", 1500)


def read_parts(folder: Path) -> list[dict[str, object]]:
    """Return the rows of all visible files, in their order."""
    rows: list[dict[str, object]] = []
    for path in sorted(folder.glob("[!._]*")):
        if path.suffix == ".parquet":
            rows += pyarrow.parquet.read_table(path).to_pylist()
        elif path.suffix == ".jsonl":
            rows += read_jsonl(path)
        else:
            with path.open(newline="", encoding="utf-8") as stream:
                rows += list(csv.DictReader(stream))
    return rows


@pytest.mark.parametrize(("suffix", "file_format"), [(".csv", "csv"), (".tsv", "jsonl"), (".parquet", "parquet")])
@pytest.mark.usefixtures("small_parts")
def test_the_parts_have_the_rows_of_the_single_file(
    saved: str, tmp_path: Path, suffix: str, file_format: str, messages: list[str]
) -> None:
    """In the same order; each csv has a header."""
    (tmp_path / f"in{suffix}").write_bytes(encode_rows(ROWS, suffix))
    source, out = str(tmp_path / f"in{suffix}"), tmp_path / "out"
    predict_file(saved, source, f"{out}/", None, file_format=file_format, workers=1, table_dtype="float32")
    predict_file(saved, source, f"{tmp_path}/single.jsonl", None)
    paths = sorted(out.glob("[!._]*"))
    assert len(paths) > 5
    assert paths[0].name == f"part-00000.{file_format}"
    columns = "predicted_label and score"
    written = f"400 rows in {len(paths)} of {len(paths)} files, with the columns {columns} added, scored in float32"
    assert messages[0] == f"wrote {out}/: {written}"
    expected = read_jsonl(tmp_path / "single.jsonl")
    for row, other in zip(read_parts(out), expected, strict=True):
        assert float(str(row.pop("score"))) == pytest.approx(other.pop("score"), abs=2e-6)
        assert row == other


@pytest.mark.usefixtures("small_parts")
def test_only_missing_files_are_written(saved: str, tmp_path: Path, messages: list[str]) -> None:
    """What a killed process left is removed. --force starts again; another prediction is not mixed with this one."""
    (tmp_path / "in.csv").write_bytes(encode_rows(ROWS, ".csv"))
    out = tmp_path / "out"
    command = ["predict", saved, str(tmp_path / "in.csv"), "--workers", "1", "--out"]
    assert main([*command, f"{out}/"]) == 0
    expected = read_parts(out)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    (out / "part-00001.parquet").unlink()
    (out / ".part-00001.parquet.0123.part").write_bytes(b"PAR1")
    assert main([*command, f"{out}/"]) == 0
    assert read_parts(out) == expected
    assert {path.name for path in out.glob("part-*") if path.stat().st_mtime_ns != times[path.name]} == {
        "part-00001.parquet"
    }
    assert f"rows in 1 of {len(times)} files" in messages[-1]
    assert sorted(path.name for path in out.glob("[._]*")) == [".lock", "_predictions.json"]
    for options in (["--top-k", "2"], ["--format", "csv"], ["--table-dtype", "float32"], ["--min-score", "0.5"]):
        with pytest.raises(UsageError, match="add --force to replace them"):
            run_options(saved, tmp_path, options)
    (tmp_path / "in.csv").write_bytes(encode_rows(ROWS[:200], ".csv"))
    with pytest.raises(UsageError, match="add --force to replace them"):
        run_options(saved, tmp_path, [])
    assert main([*command, f"{out}/", "--force"]) == 0
    assert len(read_parts(out)) == 200


def list_scores(row: dict[str, Any]) -> dict[str, float]:
    return {pair["label"]: pair["score"] for pair in row["scores"]}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_folder_has_the_rows_with_a_score(saved: str, tmp_path: Path, suffix: str, messages: list[str]) -> None:
    """--min-score. The table of a folder is rounded, unless float32 is chosen, so the scores differ a little."""
    (tmp_path / f"in{suffix}").write_bytes(encode_rows(ROWS, suffix))
    command = ["predict", saved, str(tmp_path / f"in{suffix}"), "--scores", "--out"]
    assert main([*command, str(tmp_path / "all.jsonl")]) == 0
    scores = {str(row["text"]): list_scores(row) for row in read_jsonl(tmp_path / "all.jsonl")}
    limits = {label: float(np.quantile([values[label] for values in scores.values()], 0.4)) for label in "ab"}
    options = [word for label, limit in limits.items() for word in ("--min-score", f"{label}={limit}")]
    assert main([*command, f"{tmp_path}/out/", *options, "--workers", "1"]) == 0
    rows = read_parts(tmp_path / "out")
    texts = [str(row["text"]) for row in rows]
    for text, values in scores.items():
        distances = [values[label] - limit for label, limit in limits.items()]
        assert (text in texts) == (min(distances) > 0) or abs(min(distances)) < 1e-4
    assert texts == [text for text in scores if text in {*texts}]
    assert 10 < len(texts) < NUM_ROWS - 10
    differences = [abs(list_scores(row)[label] - scores[str(row["text"])][label]) for row in rows for label in "abc"]
    assert 2e-6 < max(differences) < 1e-4
    assert f"{len(texts)} of 400 rows in" in messages[-1]


def test_one_part_needs_no_other_process(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many workers are allowed."""
    monkeypatch.setattr(processes, "ProcessPoolExecutor", None)
    (tmp_path / "in.csv").write_bytes(encode_rows(ROWS, ".csv"))
    predict_file(saved, str(tmp_path / "in.csv"), f"{tmp_path}/out/", None, workers=8)
    assert len(read_parts(tmp_path / "out")) == NUM_ROWS


def run_options(saved: str, folder: Path, options: list[str]) -> None:
    """Run predict, and raise its error."""
    settings = dict(zip(options[::2], options[1::2], strict=True))
    predict_file(
        saved, str(folder / "in.csv"), f"{folder}/out/", None, workers=1,
        file_format=settings.get("--format"), num_scores=int(settings.get("--top-k", 0)),
        table_dtype=settings.get("--table-dtype"), min_scores={"a": float(settings.get("--min-score", 0))},
    )  # fmt: skip


def test_a_folder_with_other_files_is_an_error(saved: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\nword1\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"holds other files, such as notes\.txt"):
        predict_file(saved, str(tmp_path / "in.csv"), f"{tmp_path}/out/", None)
    assert os.listdir(tmp_path / "out") == ["notes.txt"]


@pytest.mark.parametrize("is_new", [True, False])
def test_an_error_before_the_first_part_leaves_nothing(saved: str, tmp_path: Path, is_new: bool) -> None:
    """Neither files nor new folders; an existing folder stays."""
    source, out = tmp_path / "in.csv", tmp_path / "new" / "out"
    source.write_text("text,x\n" + "word1,2\n" * 10 + "word2\n")
    if not is_new:
        out.mkdir(parents=True)
    for restart in (False, True):
        with pytest.raises(UsageError, match="line 12: has 1 columns"):
            predict_file(saved, str(source), f"{out}/", None, restart=restart)
        assert [path.name for path in tmp_path.rglob("*")] == (["in.csv"] if is_new else ["in.csv", "new", "out"])


@pytest.mark.usefixtures("small_parts")
def test_an_error_after_the_first_part_leaves_what_the_next_command_completes(saved: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out"
    rows = "text,x\n" + "word1,2\n" * 1000
    source.write_text(rows[:-8] + "word2\n")
    with pytest.raises(UsageError, match="line 1001: has 1 columns"):
        predict_file(saved, str(source), f"{out}/", None, workers=1)
    names = sorted(path.name for path in out.iterdir())
    assert names[:3] == [".lock", "_predictions.json", "part-00000.parquet"]
    with pytest.raises(UsageError, match="another content or other options"):
        predict_file(saved, str(source), f"{out}/", None, workers=1, num_scores=2)
    assert sorted(path.name for path in out.iterdir()) == names


@pytest.mark.parametrize("source", ["out", "out/part-00000.csv", "file://{}/out", "link/*.csv"])
def test_the_input_is_never_replaced(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """With --force too: an output may be the input of another prediction."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text\nword1\n")
    predict_file(saved, "in.csv", "out/", None, file_format="csv")
    Path("link").symlink_to("out")
    for out in ("out/", f"{tmp_path}/out/", f"file://{tmp_path}/out/"):
        with pytest.raises(UsageError, match=r"out/: is the folder of the input"):
            predict_file(saved, source.format(tmp_path), out, None, restart=True)
    assert read_parts(tmp_path / "out")
    predict_file(saved, source.format(tmp_path), "twice/", None)
    assert list(read_parts(tmp_path / "twice")[0]) == ["text", "label", "score", "predicted_label", "predicted_score"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.csv", "--out", "a.csv", "--workers", "2"], "several workers write into a folder"),
        (["in.csv", "--out", "a.csv", "--format", "jsonl"], "a.csv: is csv, not jsonl"),
        (["word1", "--out", "out/"], "out/: is a folder, which holds the rows of files"),
        (["in.csv", "--out", "a.parquet.gz"], "the name must end in"),
        (["in.csv", "--uncertain", "5", "--min-score", "a=0.5"], "--uncertain selects rows among all"),
        (["in.csv", "--min-score", "spam=0.5"], "the checkpoint has no label 'spam'; it has a, b, c"),
    ],
)
def test_contradictory_options_are_errors(
    saved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Before anything is written."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("text\nword1\n")
    assert main(["predict", saved, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert os.listdir() == ["in.csv"]


SCRIPT = """
import sys
import time
from jobs.__main__ import main
from jobs.inference import sharded_prediction
sharded_prediction.PART_BYTES = 400
write = sharded_prediction.PartWriter.write
def slow(self, name, part, classifier):
    time.sleep(0.05)  # so that the test kills a process which works
    return write(self, name, part, classifier)
sharded_prediction.PartWriter.write = slow  # in the workers too, which import the script
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "script.py").write_text(SCRIPT)
    return str(tmp_path / "script.py")


def find_workers(pid: int) -> list[int]:
    """Return the workers of a command; none if it has ended."""
    workers = []
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_rows_are_complete_after_kills(saved: str, tmp_path: Path, script: str) -> None:
    """A killed worker is replaced. The workers of a killed command end, and the same command completes the folder."""
    (tmp_path / "in.csv").write_bytes(encode_rows(ROWS, ".csv"))
    out = tmp_path / "out"
    command = [sys.executable, script, "predict", saved, str(tmp_path / "in.csv"), "--out", f"{out}/"]
    command += ["--format", "jsonl", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}

    def wait_for_parts(count: int) -> None:
        wait_for(lambda: len(list(out.glob("part-*"))) >= count, f"{count} parts", interval=0.02)

    with RunningCommand(command, environment, timeout=120) as running:
        wait_for_parts(3)
        workers = find_workers(running.process.pid)
        assert len(workers) == 2
        running.process.kill()
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "the workers to end")
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    with RunningCommand(command, environment, timeout=120) as running:
        wait_for_parts(len(written) + 2)
        os.kill(find_workers(running.process.pid)[0], signal.SIGKILL)
        assert running.wait() == 0, running.output
    assert "a worker process was killed; its part starts again" in running.output
    assert f"{len(written)} of " in running.output
    assert {name: (out / name).stat().st_mtime_ns for name in written} == written
    assert [row["text"] for row in read_parts(out)] == [text for _, text in ROWS]
    assert not list(out.glob(".part-*"))


@pytest.mark.slow
@pytest.mark.parametrize("is_working", [False, True])
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_ctrl_c_ends_the_processes(saved: str, tmp_path: Path, script: str, is_working: bool) -> None:
    """Without a traceback: while they start, and while they work."""
    (tmp_path / "in.csv").write_bytes(encode_rows(ROWS, ".csv"))
    out = tmp_path / "out"
    command = [sys.executable, script, "predict", saved, str(tmp_path / "in.csv"), "--out", f"{out}/", "--workers", "2"]
    with RunningCommand(command, os.environ | {"PYTHONPATH": str(REPOSITORY)}, timeout=120) as running:
        pid = running.process.pid
        wait_for(lambda: bool(any(out.glob("part-*")) if is_working else find_workers(pid)), "a process", interval=0.01)
        workers = find_workers(pid)
        os.killpg(pid, signal.SIGINT)
        assert running.wait() == 130, running.output
    assert "Traceback" not in running.output
    assert len([*out.glob("part-*")]) < 20
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "the workers to end")


@pytest.mark.slow
def test_an_invalid_row_ends_the_processes(saved: str, tmp_path: Path, script: str) -> None:
    """The error names its line."""
    (tmp_path / "in.csv").write_text("text,x\n" + "word1,2\n" * 500 + "word2\n" + "word1,2\n" * 500)
    arguments = ["predict", saved, str(tmp_path / "in.csv"), "--out", f"{tmp_path}/out/", "--workers", "2"]
    result = run_command("python", script, *arguments, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert result.returncode == 2, result.stderr
    assert "in.csv, line 502: has 1 columns" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("small_parts")
def test_the_result_has_the_rows_that_the_command_wrote(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file, of a selection, of a folder, and of one of its parts that was missing."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_bytes(encode_rows(ROWS, ".csv"))

    def predict(out: str, *options: str) -> dict[str, Any]:
        assert finetune_cnn.main(["predict", "--json", saved, "in.csv", "--out", out, *options]) == 0
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    limit = ("--min-score", "a=0.3")
    assert predict("all.csv")["table_dtype"] == "float32"
    assert predict("all/")["table_dtype"] == "int16"
    kept = predict("kept.csv", *limit)["rows"]
    assert 0 < kept == len(Path("kept.csv").read_text().splitlines()) - 1 < NUM_ROWS
    assert predict("uncertain.csv", "--uncertain", "7")["rows"] == 7
    folder = predict("kept/", *limit, "--table-dtype", "float32")
    assert (folder["rows"], folder["written"]) == (kept, folder["files"])
    part = Path("kept/part-00000.parquet")
    num_rows = len(pyarrow.parquet.read_table(part))
    part.unlink()
    folder = predict("kept/", *limit, "--table-dtype", "float32")
    assert (folder["rows"], folder["written"]) == (num_rows, 1)
    assert 0 < num_rows < kept
