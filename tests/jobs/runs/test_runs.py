"""The list of runs, and the deletion of what nothing references."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cluster.console.tables import format_size
from cluster.storage import lock_folder
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import CheckpointError
from jobs.model.checkpoint_leases import remove_lease, write_lease
from jobs.runs.cleaning import clean, find_abandoned_runs, plan_removals
from jobs.runs.run_list import RunsError, build_rows, find_experiments, load_runs, log_runs
from jobs.training.run_files.ray_snapshot import RAY_SNAPSHOT
from jobs.training.run_files.run_folder import BestCheckpoint, RunFolder
from tests.support.stored_checkpoints import publish

MakeRun = Callable[..., RunFolder]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def make_run(storage: Path) -> MakeRun:
    """Function that writes a run of the experiment `toy` with three checkpoints, the second of which is the best."""

    def make(
        name: str,
        rows: str = "rows",
        *,
        validation_rows: int = 11,
        finished: bool = True,
        accuracy: float = 0.5,
        **settings: object,
    ) -> RunFolder:
        run = RunFolder(str(storage / "toy"), name, validation=rows)
        folder = Path(run.path)
        for number in (1, 2, 3):
            write_checkpoint(folder / f"epoch-000{number}", validation_rows)
        values = {key.replace("__", "."): value for key, value in settings.items()}
        (folder / "experiment.yaml").write_text(Experiment().replace(values).to_yaml())
        if finished:
            publish(run, BestCheckpoint("epoch-0002", "accuracy", {"epoch": 2, "accuracy": accuracy, "loss": 0.5}))
        return run

    return make


def write_checkpoint(folder: Path, validation_rows: int = 11) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"validation_rows": validation_rows}))
    (folder / "weights.safetensors").write_bytes(b"w" * 1000)
    (folder / "manifest.json").write_text(json.dumps({"files": {"weights.safetensors": {"bytes": 1000}}}))


def write_cache(storage: Path, name: str, days: float) -> Path:
    path = storage / "cache" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"c" * 500)
    os.utime(path, (time.time() - days * 86400,) * 2)
    return path


def list_rows(storage: Path) -> Mapping[str, Mapping[str, object]]:
    return {str(row["run"]): row for row in build_rows(load_runs(str(storage / "toy")))}


def relative_removals(storage: Path) -> set[str]:
    return {str(Path(item.path).relative_to(storage)) for item in plan_removals(str(storage))}


def test_the_list_has_differing_settings_metrics_sizes_and_the_current_run(
    storage: Path, make_run: MakeRun, messages: list[str]
) -> None:
    make_run("train-00000001", accuracy=0.9, train__epochs=5, train__workers=2)
    make_run("train-00000002", accuracy=0.8, train__epochs=6, data__text_column="body")
    make_run("train-00000003", finished=False, train__epochs=5)
    make_run("tune-00000004", "other rows", accuracy=0.7, tune__samples=9, train__epochs=5)
    rows = list_rows(storage)
    assert rows["train-00000001"]["settings"] == "data.text_column=text, train.epochs=5, other texts or vectors"
    assert rows["train-00000002"]["settings"] == "data.text_column=body, train.epochs=6"
    assert rows["tune-00000004"]["settings"] == "data.text_column=text, train.epochs=5"
    assert [rows[name]["accuracy"] for name in sorted(rows)] == ["0.9000", "0.8000", "", "0.7000"]
    assert rows["train-00000001"]["status"] == "finished"
    assert rows["train-00000003"]["status"] == "unfinished"
    assert rows["tune-00000004"]["status"] == "current, finished"
    assert str(rows["train-00000001"]["size"]).endswith(" kB")
    messages.clear()
    log_runs(str(storage))
    assert messages[0].startswith(f"{storage}/toy: ")
    assert messages[1].splitlines()[0].split()[:3] == ["run", "date", "status"]
    assert len(messages[1].splitlines()) == 5


def test_a_run_of_an_earlier_version_is_listed_with_what_its_settings_were(storage: Path, make_run: MakeRun) -> None:
    make_run("train-00000001")
    earlier = Path(make_run("train-00000002").path, "experiment.yaml")
    earlier.write_text(earlier.read_text().replace("  linear: words-and-pairs\n", ""))
    assert list_rows(storage)["train-00000002"]["settings"] == "model.linear=none"


def test_the_number_of_validation_rows_is_listed_if_it_differs(storage: Path, make_run: MakeRun) -> None:
    """Different rows of the same number get letters: their metrics cannot be compared either."""
    make_run("train-00000001", "some")
    assert "validation rows" not in list_rows(storage)["train-00000001"]
    make_run("train-00000002", "others", validation_rows=200)
    refit = make_run("tune-00000003", "others", validation_rows=0)
    write_checkpoint(Path(refit.path, "trial-00001/epoch-0001"), 200)
    make_run("train-00000004", "more", validation_rows=200)
    damaged = make_run("train-00000005", "damaged")
    for path in Path(damaged.path).glob("*/metrics.json"):
        path.write_text("[")
    make_run("train-00000006", finished=False)
    rows = list_rows(storage)
    assert [rows[name]["validation rows"] for name in sorted(rows)] == [
        "11", "200 (B)", "200 (A)", "unknown", "", "200 (B)",
    ]  # fmt: skip


def test_a_cross_validation_and_runs_of_other_versions_are_listed(storage: Path, make_run: MakeRun) -> None:
    """Unknown settings are compared as they are, unreadable ones are empty."""
    make_run("train-00000001")
    Path(make_run("train-00000002").path, "experiment.yaml").write_text("model: {new: 3}\n")
    Path(make_run("train-00000003").path, "experiment.yaml").write_text("{")
    folds = storage / "toy" / "folds-00000004"
    folds.mkdir()
    (folds / "folds.json").write_text(json.dumps({"mean": {"accuracy": 0.25}}))
    rows = list_rows(storage)
    assert rows["folds-00000004"]["accuracy"] == "0.2500"
    assert "model.new=3" in str(rows["train-00000002"]["settings"])
    assert rows["train-00000003"]["settings"] == "-"


def test_experiments_are_found_from_the_storage_an_experiment_or_a_run(storage: Path, make_run: MakeRun) -> None:
    run = make_run("train-00000001")
    for folder in (str(storage), f"{storage}/toy", run.path):
        assert find_experiments(folder) == [f"{storage}/toy"]
    with pytest.raises(RunsError, match="contains no runs"):
        find_experiments(f"{run.path}/epoch-0001")


def test_a_damaged_best_json_is_an_error(storage: Path, make_run: MakeRun) -> None:
    make_run("train-00000001")
    for content in ("[", "[]", '{"checkpoint": [1]}', "[" * 100_000, f'{{"checkpoint": "{"x" * (1 << 24)}"}}'):
        (storage / "toy" / "best.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"toy/best.json: (is not a best.json|cannot be read)"):
            load_runs(str(storage / "toy"))


def test_a_malicious_experiment_file_is_not_expanded(storage: Path, make_run: MakeRun) -> None:
    """Aliases, deep nesting and long files count as no settings; values that JSON lacks are shown as text."""
    aliases = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 4))
    for number, content in enumerate((aliases, "[" * 1000, f"model: {{x: {'y' * (1 << 22)}}}", "day: 2026-99-99")):
        run = make_run(f"train-0000000{number}")
        Path(run.path, "experiment.yaml").write_text(content)
    make_run("train-00000008")
    Path(make_run("train-00000009").path, "experiment.yaml").write_text("model: {new: [2026-01-02]}\n")
    rows = list_rows(storage)
    assert {rows[f"train-0000000{number}"]["settings"] for number in range(4)} == {"other texts or vectors"}
    earlier = "text.tokenizer=words, model.linear=none"  # the file names neither
    assert rows["train-00000009"]["settings"] == f'{earlier}, model.new=["2026-01-02"]'


def test_cleaning_keeps_what_is_referenced(storage: Path, make_run: MakeRun, messages: list[str]) -> None:
    """The best checkpoints of all runs, unfinished runs, and what a service uses."""
    make_run("train-00000001", accuracy=0.9)
    served = make_run("train-00000002")
    make_run("train-00000003", finished=False)
    write_lease(f"{served.path}/epoch-0001", "service", {"service": "toy"})
    before = {path for path in storage.rglob("*") if path.is_file()}
    messages.clear()
    clean(str(storage), delete=False)
    assert {path for path in storage.rglob("*") if path.is_file()} == before
    assert "3.2 kB in total; nothing is deleted without --yes" in messages[-1]
    expected = {
        "toy/train-00000001/epoch-0001",
        "toy/train-00000001/epoch-0003",
        "toy/train-00000002/epoch-0003",
    }
    assert relative_removals(storage) == expected
    clean(str(storage), delete=True)
    assert messages[-1] == "deleted 3 of 3, 3.2 kB"
    assert not any((storage / path).exists() for path in expected)
    assert {path for path in before if path.exists()} == {
        path for path in before if not any(path.is_relative_to(storage / name) for name in expected)
    }
    clean(str(storage), delete=True)
    assert "nothing to delete" in messages[-1]
    remove_lease(f"{served.path}/epoch-0001", "service")
    assert relative_removals(storage) == {"toy/train-00000002/epoch-0001"}


def test_what_the_experiments_best_json_names_stays(storage: Path, make_run: MakeRun) -> None:
    """It may name another checkpoint than that of the run, if a command was killed between the two files."""
    make_run("train-00000001")
    path = storage / "toy" / "best.json"
    path.write_text(path.read_text().replace("epoch-0002", "epoch-0003"))
    assert relative_removals(storage) == {"toy/train-00000001/epoch-0001"}


def test_a_single_run_is_not_cleaned(storage: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its experiment would be too."""
    run = Path(make_run("train-00000001").path)
    monkeypatch.chdir(run)
    for folder in (str(run), f"{run}/", "."):
        with pytest.raises(RunsError, match="is a run; name the folder of its experiment"):
            clean(folder, delete=True)
    assert sorted(run.iterdir())


def test_the_trials_of_a_search_are_cleaned(storage: Path) -> None:
    """Folders of trials without a referenced checkpoint are deleted as a whole, and partial checkpoints too."""
    run = RunFolder(str(storage / "toy"), "tune-00000001", validation="rows")
    for name in (
        "trial-00001/epoch-0002",
        "trial-00002/epoch-0001",
        "trial-00002/epoch-0002",
        "refit/.epoch-0004.x.part",
    ):
        write_checkpoint(Path(run.path, name))
    publish(run, BestCheckpoint("trial-00002/epoch-0002", "accuracy", {"epoch": 2, "accuracy": 1.0, "loss": 0.1}))
    names = {"trial-00001", "trial-00002/epoch-0001", "refit/.epoch-0004.x.part"}
    assert relative_removals(storage) == {f"toy/tune-00000001/{name}" for name in names}


def test_files_with_several_names_are_counted_once(storage: Path, make_run: MakeRun) -> None:
    """Checkpoints may share files; what the best one needs frees nothing."""
    folder = Path(make_run("train-00000001").path)
    for name in ("epoch-0001", "epoch-0003"):
        (folder / name / "weights.safetensors").unlink()
        os.link(folder / "epoch-0002" / "weights.safetensors", folder / name / "weights.safetensors")
    [run] = load_runs(str(storage / "toy"))
    assert str(list_rows(storage)["train-00000001"]["size"]) < "7"
    assert len(run.files) == 11
    assert sum(len(item.files) for item in plan_removals(str(storage))) == 6


def test_a_run_that_another_command_uses_is_not_cleaned(storage: Path, make_run: MakeRun, messages: list[str]) -> None:
    run = make_run("train-00000001")
    with lock_folder(run.path):
        clean(str(storage), delete=True)
    assert Path(run.path, "epoch-0001").exists()
    assert "another command is using this run folder" in "\n".join(messages)
    assert messages[-1] == "deleted 0 of 2, 0 B"


def age_run(run: RunFolder, days: float) -> None:
    for path in Path(run.path).rglob("*"):
        os.utime(path, (time.time() - days * 86400,) * 2)


def test_abandoned_runs_are_listed_and_deleted_on_request_only(
    storage: Path, make_run: MakeRun, messages: list[str]
) -> None:
    """As a whole, with their best.json, once nothing has changed for the given time."""
    make_run("train-00000001")
    old, new = make_run("train-00000002", finished=False), make_run("tune-00000003", finished=False)
    new.write_best(BestCheckpoint("epoch-0002", "accuracy", {"epoch": 2}, finished=False))
    age_run(old, 40)
    age_run(new, 3)
    Path(old.path, ".lock").touch()  # as each check whether it is locked does
    clean(str(storage), delete=True)
    assert Path(old.path).exists()
    table = next(message for message in messages if "unfinished runs, which stay unless --unfinished DAYS" in message)
    rows = [line.split(maxsplit=3) for line in table.splitlines() if "/toy/" in line]
    assert [(row[0], row[3]) for row in rows] == [(old.path, "40 days"), (new.path, "3 days")]
    clean(str(storage), delete=False, unfinished_days=7)
    assert f"{old.path}  " in messages[-2]
    assert "unfinished, and unchanged for 40 days" in messages[-2]
    assert Path(old.path).exists()
    clean(str(storage), delete=True, unfinished_days=7)
    assert not Path(old.path).exists()
    assert Path(new.path).exists()
    clean(str(storage), delete=True, unfinished_days=0)
    assert not Path(new.path).exists()
    assert Path(storage, "toy/train-00000001/epoch-0002").exists()


def test_an_unfinished_run_in_use_is_not_abandoned(
    storage: Path, make_run: MakeRun, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a command, by a service, or by the experiment's best.json, also one of an earlier version."""
    running, served, current, old_current = (
        make_run(f"tune-0000000{number}", finished=False) for number in (1, 2, 3, 4)
    )
    write_lease(f"{served.path}/epoch-0001", "service", {})
    current.update_best(BestCheckpoint("epoch-0002", "accuracy", {"epoch": 2}))
    with lock_folder(running.path):
        assert [run.removal.path for run in find_abandoned_runs(str(storage))] == [old_current.path]
        (storage / "toy/best.json").write_text('{"checkpoint": "tune-00000004/epoch-0001"}')
        assert [run.removal.path for run in find_abandoned_runs(str(storage))] == [current.path]
        clean(str(storage), delete=True, unfinished_days=0)
    assert [run.path for run in (running, served, current, old_current) if not Path(run.path).exists()] == [
        current.path
    ]


def test_a_run_that_changes_while_cleaning_stays(
    storage: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """A command may have resumed and finished it after it was listed."""
    run = make_run("train-00000001", finished=False)
    abandoned = find_abandoned_runs(str(storage))
    monkeypatch.setattr("jobs.runs.cleaning.find_abandoned_runs", lambda folder: abandoned)
    write_checkpoint(Path(run.path, "epoch-0004"))
    clean(str(storage), delete=True, unfinished_days=0)
    assert Path(run.path, "epoch-0001").exists()
    assert f"{run.path} stays: it has changed meanwhile" in messages


def test_unfinished_runs_of_an_object_store_are_deleted_after_a_day_at_the_earliest(
    storage: Path, make_run: MakeRun
) -> None:
    """There are no locks, so a run that changes may be in use."""
    run = make_run("train-00000001", finished=False)
    age_run(run, 3)
    with pytest.raises(RunsError, match="have no locks, so one that changed within a day may be running"):
        clean(f"file://{storage}", delete=True, unfinished_days=0.5)
    clean(f"file://{storage}", delete=True, unfinished_days=2)
    assert not Path(run.path).exists()


def test_unfinished_runs_on_a_file_system_without_locks_are_deleted_after_a_day_at_the_earliest(
    storage: Path, make_run: MakeRun, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command may be using them."""
    monkeypatch.setattr("cluster.storage.lock", lambda stream: False)
    new, old = (make_run(f"train-0000000{number}", finished=False) for number in (1, 2))
    age_run(old, 3)
    clean(str(storage), delete=True, unfinished_days=0)
    assert Path(new.path).exists()
    assert not Path(old.path).exists()
    assert f"{new.path} stays: it has no locks and changed within a day; it may be running" in messages


def test_ray_trains_list_of_a_cleaned_run_is_removed(storage: Path, make_run: MakeRun) -> None:
    """It names the deleted checkpoints. That of a run without a deleted checkpoint stays."""
    snapshots = [Path(make_run(f"train-0000000{number}").path, RAY_SNAPSHOT) for number in (1, 2)]
    for snapshot in snapshots:
        snapshot.write_text("{}")
    for number in (1, 3):
        shutil.rmtree(snapshots[1].parent / f"epoch-000{number}")
    clean(str(storage), delete=True)
    assert [snapshot.exists() for snapshot in snapshots] == [False, True]


def test_a_lease_that_appears_while_cleaning_is_respected(
    storage: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    run = make_run("train-00000001")
    removals = plan_removals(str(storage))
    monkeypatch.setattr("jobs.runs.cleaning.plan_removals", lambda folder: removals)
    write_lease(f"{run.path}/epoch-0001", "service", {})
    clean(str(storage), delete=True)
    assert Path(run.path, "epoch-0001").exists()
    assert not Path(run.path, "epoch-0003").exists()
    assert any("epoch-0001 stays: a service uses it" in line for line in messages)


def test_unused_caches(storage: Path, make_run: MakeRun) -> None:
    """Those that no run could use, and those that were not used for a month while no run is unfinished."""
    make_run("train-00000001", model__embedding="rand", data__train="x.csv")
    vectors = write_cache(storage, "vectors-0123abcd.bin", 2)
    docstrings = write_cache(storage, "docstrings-0123abcd.jsonl", 2)
    new = write_cache(storage, "vectors-0123abce.bin", 0)
    texts = write_cache(storage, "texts-0123abcd.arrays", 2)
    left = write_cache(storage, ".vectors-0123abcd.bin.12.part", 2)
    other = write_cache(storage, "notes.txt", 99)

    def planned() -> set[Path]:
        return {Path(item.path) for item in plan_removals(str(storage)) if not item.folder}

    assert planned() == {vectors, docstrings, left}
    make_run("train-00000002")  # could use both
    assert planned() == {left}
    old = write_cache(storage, "vectors-0123abcf.safetensors", 40)
    tokens = write_cache(storage, "tokens-0123abcd.arrays", 40)
    assert planned() == {left, old, tokens}
    reasons = [{item.reason for item in plan_removals(root)} for root in (str(storage), f"file://{storage}")]
    assert "not used for 40 days" in reasons[0]
    assert "not written for 40 days" in reasons[1]  # an object store has no times of use
    make_run("train-00000003", finished=False)  # of docstrings
    assert planned() == {left, tokens}
    unknown = make_run("train-00000004", finished=False)
    Path(unknown.path, "experiment.yaml").write_text("{")  # it could use any
    assert planned() == {left}
    assert new.exists()
    assert texts.exists()
    assert other.exists()


def test_caches_that_no_run_could_use_are_cleaned(storage: Path, make_run: MakeRun) -> None:
    """All in a storage without runs; prepared texts of files if all runs are of docstrings."""
    path = write_cache(storage, "vectors-0123abcd.bin", 2)
    clean(str(storage), delete=True)
    assert not path.exists()
    with pytest.raises(RunsError, match="contains no runs"):
        clean(str(storage), delete=True)
    make_run("train-00000001")
    path = write_cache(storage, "texts-0123abcd.arrays", 2)
    clean(str(storage), delete=True)
    assert not path.exists()


def test_runs_of_an_object_store_are_listed_and_cleaned(storage: Path, make_run: MakeRun) -> None:
    """Through pyarrow's file system."""
    make_run("train-00000001")
    uri = f"file://{storage}"
    [run] = load_runs(f"{uri}/toy")
    assert run.is_current
    assert run.finish_time > 0
    clean(uri, delete=True)
    assert sorted(path.name for path in Path(storage / "toy" / "train-00000001").glob("epoch-*")) == ["epoch-0002"]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (75_210_000, "75.2 MB"), (5 * 10**15, "5000.0 TB")]
)
def test_sizes_have_a_unit(size: int, text: str) -> None:
    assert format_size(size) == text


def test_a_cache_that_another_command_has_deleted_does_not_end_the_cleaning(
    storage: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    gone, path = write_cache(storage, "vectors-0123abcd.bin", 2), write_cache(storage, "vectors-0123abce.bin", 2)
    planned = plan_removals(str(storage))
    monkeypatch.setattr("jobs.runs.cleaning.plan_removals", lambda *_, **__: planned)
    gone.unlink()
    clean(str(storage), delete=True)
    assert not path.exists()
    assert any(f"{gone} stays" in message for message in messages)
