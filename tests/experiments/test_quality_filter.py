"""The quality filter keeps prose, on this machine and in jobs of a cluster."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.ray_head import start_ray_head
from cluster.package import REPOSITORY
from experiments.quality_filter import __main__ as quality_filter
from experiments.quality_filter import documents
from experiments.quality_filter.__main__ import build_commands, count_labels
from experiments.quality_filter.documents import DROP, KEEP
from finetune_cnn import build_parser
from jobs.compilation.cache import find_folder


@pytest.mark.parametrize("address", [None, "http://head:8265"])
def test_the_steps_are_commands_that_a_user_can_type(address: str | None) -> None:
    """With an address they are jobs."""
    commands = build_commands(Path("/shared/filter"), ["train.epochs=1"], 0.9, address)
    parser = build_parser()
    assert all(callable(parser.parse_args(command).run) for command in commands)
    assert all((command[0] == "submit") == (address is not None) for command in commands)


def test_an_interrupted_run_leaves_no_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be read as if they were complete. The next run writes them."""
    monkeypatch.setattr(documents, "LABELLED_ROWS", 1)
    monkeypatch.setattr(documents, "FILE_ROWS", 2)
    rows = [(KEEP, "a"), (DROP, "b"), (KEEP, "c"), (DROP, "d")]
    writer = pq.ParquetWriter

    def open_writer(path: Path, *arguments: object, **options: object) -> pq.ParquetWriter:
        if path.name == "00001.parquet":
            raise KeyboardInterrupt
        return writer(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.ParquetWriter", open_writer)
        with pytest.raises(KeyboardInterrupt):
            documents.write_documents(tmp_path, rows, 5)
    assert not (tmp_path / "documents").exists()
    documents.write_documents(tmp_path, rows, 5)
    assert count_labels(tmp_path / "documents") == {KEEP: 3, DROP: 2}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["documents", "labelled.csv"]


@pytest.mark.slow
def test_prose_is_kept(tmp_path: Path) -> None:
    """Of one package; every kept document has the score, and a second run reads the same documents."""
    command = [sys.executable, "-m", "experiments.quality_filter", "--folder", str(tmp_path), "--packages", "networkx"]
    for settings in (["train.epochs=2"], ["train.epochs=3"]):
        options = ["--documents", "3000", "--min-score", "0.8", *settings]
        result = subprocess.run(
            [*command, *options], cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
    assert "writing 3,000 documents" not in result.stdout
    assert f"reading the documents that are in {tmp_path}" in result.stdout
    line = re.search(r"this project: kept ([\d,]+), of which ([\d.]+)% .* ([\d.]+) core seconds", result.stdout)
    assert line, result.stdout
    kept = pq.read_table(sorted((tmp_path / "kept").glob("*.parquet")))
    assert len(kept) == int(line[1].replace(",", "")) > 100
    assert min(kept["score"].to_pylist()) >= 0.8
    assert {*kept["label"].to_pylist()} == {"keep"}
    assert float(line[2]) > 80


@pytest.mark.ray
@pytest.mark.slow
def test_jobs_of_a_cluster_keep_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As the commands on this machine, from several files."""
    monkeypatch.chdir(REPOSITORY)  # with the experiment file
    monkeypatch.setattr(documents, "LABELLED_ROWS", 200)
    monkeypatch.setattr(documents, "FILE_ROWS", 400)
    monkeypatch.setattr(quality_filter, "find_spec", lambda name: None)  # without fastText
    (tmp_path / "local").mkdir()
    documents.write_documents(tmp_path / "local", documents.collect_documents(["gensim"]), 800)
    shutil.copytree(tmp_path / "local", tmp_path / "cluster")
    options = ["--min-score", "0.6", "train.epochs=2", "model.feature_maps=20", "vectors.dimensions=20"]
    # Other home folders have no compiled kernels.
    kernels = {"NUMBA_CACHE_DIR": str(folder)} if (folder := find_folder()) else {}
    with start_ray_head(**kernels) as head, monkeypatch.context() as patch:
        for name in ("HOME", "RAY_AUTH_MODE", *kernels):
            patch.setenv(name, head.environment[name])
        quality_filter.main(["--folder", str(tmp_path / "cluster"), "--submit", head.dashboard_url, *options])
    output, _ = capfd.readouterr()
    assert len(re.findall("submitted ", output)) == 2, output
    assert re.search("800 documents.*\nthis project: kept ", output), output
    assert "core seconds" not in output
    quality_filter.main(["--folder", str(tmp_path / "local"), *options])
    tables = [pq.read_table(sorted((tmp_path / name / "kept").glob("*.parquet"))) for name in ("cluster", "local")]
    kept, expected = ({row["id"]: row for row in table.to_pylist()} for table in tables)
    assert 100 < len(kept) < 700
    for rows, others in ((kept, expected), (expected, kept)):
        for number, row in rows.items():
            # Two trainings may differ in the last bits, so that only one of them keeps a document at the limit.
            if number in others or row["score"] > 0.601:
                other = others[number]
                assert row | {"score": None} == other | {"score": None}
                assert row["score"] == pytest.approx(other["score"], abs=1e-4)
