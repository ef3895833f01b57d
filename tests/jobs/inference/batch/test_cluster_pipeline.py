"""Prediction on a cluster: the pipeline of Ray Data, a full cluster, killed processes, faults of the storage."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.ray_head import RayHead, start_ray_head
from cluster import UsageError
from cluster.storage import list_file_sizes
from jobs.__main__ import main
from jobs.inference import sharded_prediction
from jobs.inference.batch import part_writer
from jobs.inference.file_prediction import predict_file
from tests.s3_server import BUCKET, run_s3_server
from tests.support.running_commands import RunningCommand
from tests.support.waiting import wait_for

NUM_ROWS = 400
# A command with small parts, whose actors take a while for each.
SCRIPT = """
import sys, time
from jobs.__main__ import main
from jobs.inference import sharded_prediction
sharded_prediction.PART_BYTES = 1500
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with start_ray_head() as ray_head:
        yield ray_head


def write_rows(path: Path, *, invalid: int = 0) -> None:
    rows = [f"word{number % 90} word2,{number}\n" for number in range(NUM_ROWS)]
    path.write_text("text,id\n" + "".join(rows) + "bad\n" * invalid)


def read_ids(folder: Path) -> list[int]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("part-*"))]
    return [int(number) for table in tables for number in table["id"].to_pylist()]


def build_command(saved: str, source: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-c", SCRIPT, "predict", saved, str(source), "--out", f"{out}/", *options]


@pytest.mark.ray
@pytest.mark.slow
def test_the_files_are_those_of_one_machine_after_kills(head: RayHead, saved: str, tmp_path: Path) -> None:
    """Of the driver: complete files stay, and the command writes the others. Of an actor: Ray repeats its part."""
    write_rows(tmp_path / "in.csv", invalid=2)
    out, source = tmp_path / "out", tmp_path / "in.csv"
    command = build_command(saved, source, out, "--skip-invalid", "--table-dtype", "float32")
    with RunningCommand(command, timeout=200, env=head.environment) as running:
        wait_for(lambda: len([*out.glob("part-*")]) >= 2, "two parts", timeout=150, interval=0.02)
        running.process.kill()
    written = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    with RunningCommand(command, timeout=200, env=head.environment) as running:
        wait_for(lambda: bool(find_actors(head)) or running.process.poll() is not None, "an actor", timeout=150)
        for pid in find_actors(head):
            os.kill(pid, signal.SIGKILL)
        assert running.wait() == 0, running.output
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert "processes of the cluster" in running.output
    assert "2 invalid rows are in" in running.output
    assert read_ids(out) == [*range(NUM_ROWS)]
    assert not [*out.glob(".part-*")]
    predict_file(saved, str(source), f"{tmp_path}/single.parquet", None, max_invalid=0.1)
    expected = pq.read_table(tmp_path / "single.parquet")
    assert pq.read_table([*sorted(out.glob("part-*"))]).equals(expected)


def find_actors(head: RayHead) -> list[int]:
    """Return the processes of the actors of the pipeline."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::MapWorker") and head.environment["RAY_TMPDIR"].encode() in (
                path.with_name("environ").read_bytes()
            ):
                pids.append(int(path.parent.name))
        except OSError:
            continue
    return pids


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("embedded_ray")
def test_a_full_cluster_is_waited_for_visibly(saved: str, tmp_path: Path, messages: list[str]) -> None:
    """And an invalid row, or a folder that the actors do not see, is the same error as on one machine."""
    import ray
    import ray.data
    from ray.util.placement_group import placement_group, remove_placement_group

    write_rows(tmp_path / "in.csv")
    source, out = str(tmp_path / "in.csv"), f"{tmp_path}/out/"
    group = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(group.ready(), timeout=60)

    @ray.remote(num_cpus=0)
    def free() -> None:
        time.sleep(2)
        remove_placement_group(group)

    reference = free.remote()
    level = logging.getLogger("ray.data").level
    predict_file(saved, source, out, None, on_cluster=True)
    assert logging.getLogger("ray.data").level == level  # of the program's own pipelines
    assert any(message.startswith("waiting for a free CPU: 0 of") for message in messages)
    assert read_ids(tmp_path / "out") == [*range(NUM_ROWS)]
    ray.get(reference)
    write_rows(tmp_path / "in.csv", invalid=1)
    with pytest.raises(UsageError, match=r"in\.csv, line 402: has 1 columns"):
        predict_file(saved, source, out, None, on_cluster=True, restart=True)


def test_a_cluster_writes_into_a_folder(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "in.csv")
    command = ["predict", saved, str(tmp_path / "in.csv"), "--address", "127.0.0.1:6379", "--out"]
    assert main([*command, str(tmp_path / "out.csv")]) == 2
    assert "a cluster writes into a folder" in capsys.readouterr().err


def test_faults_of_an_object_store_are_retried(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """A part whose upload is aborted starts again; a name is never that of an incomplete file."""
    write_rows(tmp_path / "in.csv")
    monkeypatch.setattr(sharded_prediction, "PART_BYTES", 4000)
    monkeypatch.setattr(part_writer, "RETRY_DELAYS_S", (0.01, 0.01))
    with run_s3_server() as server:
        for key, value in server.environment.items():
            monkeypatch.setenv(key, value)
        out = f"s3://{BUCKET}/labelled/"
        faults: list[str] = []

        def fault(method: str, path: str) -> int | None:
            if method == "PUT" and "part-00001" in path and len(faults) < 1:
                faults.append(path)
                return 403  # which pyarrow does not retry
            return None

        server.fault = fault
        predict_file(saved, str(tmp_path / "in.csv"), out, None, workers=1)
        assert faults
        assert [message for message in messages if message.startswith("part-00001.parquet starts again in 0.01 s")]
        predict_file(saved, out, str(tmp_path / "copy.parquet"), None)
        assert [int(number) for number in pq.read_table(tmp_path / "copy.parquet")["id"].to_pylist()] == [
            *range(NUM_ROWS)
        ]
        server.fault = lambda method, path: 403 if method == "PUT" and "part-00001" in path else None
        with pytest.raises(UsageError, match=r"part-00001\.parquet: cannot be written"):
            predict_file(saved, str(tmp_path / "in.csv"), out, None, workers=1, restart=True)
        server.fault = None
        assert sorted(list_file_sizes(out)) == ["_predictions.json", "part-00000.parquet"]


@pytest.mark.parametrize(
    ("error", "is_failure"), [(OSError("reset"), True), (FileNotFoundError("x"), False), (ValueError("x"), False)]
)
def test_only_failures_of_the_storage_are_retried(error: Exception, is_failure: bool) -> None:
    raised = UsageError("s3://b/x: cannot be read")
    raised.__cause__ = error
    assert part_writer._is_failure_of_storage(raised) == is_failure
