"""The words of the commands runs and clean, and of a submitted command."""

from pathlib import Path

import pytest

import cluster.ray_jobs
import finetune_cnn
import jobs.runs.cleaning
import jobs.runs.run_list
from jobs.__main__ import main


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that the commands are called with, relative to the current one; --yes is shown by an exclamation."""
    monkeypatch.chdir(tmp_path)
    calls: list[str] = []

    def record(*folders: str, delete: bool = False, unfinished_days: float | None = None) -> None:
        relative = [folder if "://" in folder else str(Path(folder).relative_to(tmp_path)) for folder in folders]
        days = "" if unfinished_days is None else f" {unfinished_days:g}"
        calls.append(" and ".join(relative) + "!" * delete + days)

    monkeypatch.setattr(jobs.runs.run_list, "log_runs", record)
    monkeypatch.setattr(jobs.runs.cleaning, "clean", record)
    return calls


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        ([], "runs"),
        (["storage=other"], "other"),
        (["name=toy"], "runs/toy"),
        (["data.train=toy.csv"], "runs/toy"),
        (["x.yaml"], "runs/mine"),
        (["x.yaml", "storage=other"], "other/mine"),
        (["runs/toy"], "runs/toy"),
        (["s3://bucket/runs?endpoint_override=host"], "s3://bucket/runs?endpoint_override=host"),
    ],
)
def test_an_experiment_or_a_folder_is_named(words: list[str], folder: str, folders: list[str]) -> None:
    """Without either, all runs of the storage."""
    Path("x.yaml").write_text("name: mine")
    Path("runs/toy").mkdir(parents=True)
    assert main(["runs", *words]) == 0
    assert main(["clean", *words]) == 0
    assert main(["clean", "--yes", *words]) == 0
    assert main(["clean", "--yes", "--unfinished", "30", *words]) == 0
    assert folders == [folder, folder, f"{folder}!", f"{folder}! 30"]


def test_several_folders_are_listed_and_not_cleaned(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nor is a folder together with an experiment, or with settings of one."""
    for folder in ("runs/toy", "other"):
        Path(folder).mkdir(parents=True)
    assert main(["runs", "runs/toy", "other", "s3://bucket/runs"]) == 0
    assert folders == ["runs/toy and other and s3://bucket/runs"]
    assert main(["clean", "--yes", "runs/toy", "other"]) == 2
    assert "2 folders to clean: runs/toy, other; name one" in capsys.readouterr().err
    for word in ("x.yaml", "storage=other"):
        assert main(["runs", "other", word]) == 2
        assert f"other is a folder, and {word} is none" in capsys.readouterr().err
    assert len(folders) == 1


@pytest.fixture
def submissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that `submit` sends."""
    monkeypatch.chdir(tmp_path)
    calls: list[list[str]] = []

    def record(request: cluster.ray_jobs.JobRequest, **_: object) -> int:
        calls.append(list(request.arguments))
        return 0

    monkeypatch.setattr(cluster.ray_jobs, "submit_job", record)
    return calls


def run(*words: str) -> object:
    """Return the exit code of a command; that of argparse too."""
    try:
        return finetune_cnn.main(words)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "x.yaml", "train.epoch=3"], "did you mean 'train.epochs'?"),
        (["train", "x.yaml", "model.embedding=static", "train.vectors_pull=1"], "train.vectors_pull has no effect"),
        (["train"], "no experiment is named"),
        (["tune", "x.yaml", "tune.space={model.droput: [0.1, 0.2]}"], "model.droput"),
        (["cross-validate", "x.yaml", "data.test=t.csv"], "remove data.test"),
        (["cross-validate", "x.yaml", "--folds", "1"], "must be between 2 and 100"),
        (["train", "x.yaml", "--epochs", "3"], "settings are written without dashes: train.epochs=3"),
        (["trian", "x.yaml"], "did you mean 'train'?"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_sent(
    words: list[str], message: str, submissions: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The upload, and the start of the job, take seconds. Its own checkout decides about other commands."""
    Path("x.yaml").write_text("data: {train: /shared/x.csv}\n")
    assert run("submit", "--", *words) == 2
    assert message in capsys.readouterr().err
    assert submissions == []
    if words[0] != "trian":  # `manifest` has its own message
        assert run("manifest", "--image", "i", "--storage", "s3://b/r", "--", *words) == 2
        output = capsys.readouterr()
        assert message in output.err
        assert output.out == ""
    assert run("submit", "--working-dir", ".", "--", *words) == 0
    assert submissions == [words]


@pytest.mark.parametrize(
    "words",
    [
        ["--quiet", "train", "x.yaml", "--promote", "train.workers=4"],
        ["tune", "data.packages=[numpy]"],
        ["show"],
        ["evaluate", "s3://bucket/runs/x", "/shared/x.csv"],
    ],
)
def test_a_valid_command_is_sent_unchanged(words: list[str], submissions: list[list[str]]) -> None:
    """Files of data are those of the nodes, and are not looked for here."""
    Path("x.yaml").write_text("data: {train: /shared/x.csv}\n")
    assert run("submit", "--", *words) == 0
    assert submissions == [words]
