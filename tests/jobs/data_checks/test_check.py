"""The command check-data: table, page and csv."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import finetune_cnn
from cluster.storage import StorageError
from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.config.settings import TextSettings
from jobs.data_checks import check
from jobs.data_checks.check import CSV_NAME, PAGE_NAME, check_data
from jobs.data_checks.findings import CSV_COLUMNS
from jobs.datasets.dataset import load_dataset
from jobs.datasets.tokenizer import tokenize
from jobs.training.corpora.building import build_corpus
from tests.support.label_sets import make_label_set_rows, write_label_sets
from tests.support.step_bars import record_steps
from tests.support.toy_data import make_toy_rows, write_word2vec


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A csv of 300 rows, in which lines 4 to 6 are the same text with two labels, and line 8 has no words."""
    rows = [[label, text] for label, text in make_toy_rows(300)]
    rows[2] = rows[3] = ["good", "a text, that was copied"]
    rows[4] = ["bad", "A text, that was COPIED"]
    rows[6][1] = " "
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["label", "text"], *rows])
    return path


def test_rows_are_written_with_their_lines_worst_first(
    make_experiment: Callable[..., Experiment], texts: Path, messages: list[str]
) -> None:
    page = Path(check_data(make_experiment(data__train=str(texts))))
    assert page == texts.parent / "runs" / "toy" / "data-check" / "data-check.html"
    rows = read_csv(page.with_name("data-check-rows.csv"))
    assert tuple(rows[0]) == CSV_COLUMNS
    severities = [row["severity"] for row in rows]
    assert severities == sorted(severities, key=["high", "medium", "info"].index)
    by_finding: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        assert row["file"] == str(texts)
        by_finding.setdefault(row["finding"], set()).add((row["line"], row["label"]))
    assert {("4", "good"), ("5", "good"), ("6", "bad")} <= by_finding["different labels"]
    assert by_finding["texts without words"] == {("8", "good")}
    table = next(message for message in messages if message.startswith("severity"))
    assert all(name in table for name in by_finding)
    assert "rows and classes" in table


def test_the_steps_are_reported(
    make_experiment: Callable[..., Experiment], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the share of the models that are trained."""
    steps = record_steps(check, monkeypatch)
    check_data(make_experiment(data__train=str(texts)))
    assert list(dict.fromkeys(step for step, _ in steps)) == list(check.STEPS)
    assert [share for step, share in steps if step == check.PREDICTING] == [0, 0, 0.2, 0.4, 0.6, 0.8]
    rows = write_label_sets(texts.with_name("several.jsonl"), make_label_set_rows(120))
    steps.clear()
    check_data(make_experiment(data__train=str(rows), data__multi_label=True))
    assert [share for step, share in steps if step == check.PREDICTING] == [0, 0, 1 / 3, 2 / 3]


def test_the_result_is_the_same_each_time(make_experiment: Callable[..., Experiment], texts: Path) -> None:
    experiment = make_experiment(data__train=str(texts))
    pages = [Path(check_data(experiment, str(texts.parent / name))) for name in ("one", "two")]
    for name in ("data-check.html", "data-check-rows.csv"):
        assert pages[0].with_name(name).read_bytes() == pages[1].with_name(name).read_bytes()


def test_low_coverage_by_a_vectors_file_is_the_finding_that_training_warns_of(
    make_experiment: Callable[..., Experiment], texts: Path, messages: list[str]
) -> None:
    words = sorted({word for row in read_csv(texts) for word in tokenize(row["text"], TextSettings(lowercase=False))})
    vectors = write_word2vec(texts.parent / "v.bin", ["the", "film", "was"], np.ones((3, 4), np.float32))
    settings = {"vectors.path": str(vectors), "vectors.dimensions": 4, "model.embedding": "static"}
    experiment = make_experiment(data__train=str(texts)).replace(settings)
    check_data(experiment)
    table = next(message for message in messages if message.startswith("severity"))
    line = next(line for line in table.splitlines() if "vectors" in line)
    assert line.startswith("high")
    messages.clear()
    build_corpus(experiment, load_dataset(experiment), use_pretrained=True)
    [warning] = [message for message in messages if message.startswith("only ")]
    assert line.endswith(warning)
    settings["vectors.path"] = str(
        write_word2vec(texts.parent / "all.bin", words, np.ones((len(words), 4), np.float32))
    )
    messages.clear()
    check_data(experiment.replace(settings))
    table = next(message for message in messages if message.startswith("severity"))
    line = next(line for line in table.splitlines() if "vectors" in line)
    assert line.startswith("info")
    assert line.endswith("100.0% of the training tokens")


@pytest.mark.parametrize("name", [PAGE_NAME, CSV_NAME])
@pytest.mark.parametrize("key", ["train", "validation", "test"])
def test_no_file_of_the_data_is_replaced(
    make_experiment: Callable[..., Experiment], texts: Path, messages: list[str], key: str, name: str
) -> None:
    """Neither a csv in a folder, nor lines of fastText. The error comes before the texts are read."""
    folder = texts.parent / "data"
    folder.mkdir()
    target = folder / name
    lines = [f"__label__{row['label']} {row['text']}\n" for row in read_csv(texts)]
    content = texts.read_text() if name == CSV_NAME else "".join(lines)
    target.write_text(content)
    source = str(folder if name == CSV_NAME else target)
    experiment = make_experiment(**{"data__train": str(texts), f"data__{key}": source})
    with pytest.raises(StorageError, match=f"{name}: is the input file"):
        check_data(experiment, str(folder))
    assert target.read_text() == content
    assert [path.name for path in folder.iterdir()] == [name]
    assert messages == []


def test_files_in_the_output_folder_stay(make_experiment: Callable[..., Experiment], texts: Path) -> None:
    rows = texts.rename(texts.with_name("rows.csv"))
    content = rows.read_bytes()
    check_data(make_experiment(data__train=str(rows)), str(texts.parent))
    assert rows.read_bytes() == content
    assert {path.name for path in texts.parent.iterdir()} >= {"rows.csv", PAGE_NAME, CSV_NAME}


def test_files_that_cannot_be_written_leave_the_earlier_ones(
    make_experiment: Callable[..., Experiment], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(data__train=str(texts))
    page = Path(check_data(experiment))
    contents = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    monkeypatch.setattr("jobs.data_checks.findings.CSV_COLUMNS", None)
    with pytest.raises(csv.Error):
        check_data(experiment)
    assert {path.name: path.read_bytes() for path in page.parent.iterdir()} == contents


def test_rows_of_several_files_have_their_own_file(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """In the csv, and on the page, where a line alone does not name a row."""
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, seed in zip(paths, (0, 1), strict=True):
        rows = [("good", "a text, that was copied"), *make_toy_rows(60, seed=seed)]
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([["label", "text"], *rows])
    experiment = make_experiment(
        data__train=[str(path) for path in paths], data__test=str(paths[0]), data__validation=str(paths[1])
    )
    page = Path(check_data(experiment))
    copies = [row for row in read_csv(page.with_name(CSV_NAME)) if row["text"] == "a text, that was copied"]
    [copy] = [row for row in copies if row["finding"] == "copies"]
    assert (copy["file"], copy["line"], copy["note"]) == (str(paths[1]), "2", f"as training, {paths[0]}, line 2")
    assert {row["file"] for row in copies if row["part"] == "test"} == {str(paths[0])}
    assert f"training, {paths[1]}, line 2" in page.read_text()
    assert "test, line 2" in page.read_text()


@pytest.mark.parametrize("run", [main, finetune_cnn.main], ids=["jobs", "finetune_cnn"])
def test_the_command_takes_an_experiment_settings_and_a_folder(
    run: Callable[[list[str]], int], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tmp_path / "x.yaml"
    experiment.write_text(f"name: mine\ndata: {{train: {json.dumps(str(texts))}}}\nmodel: {{embedding: rand}}\n")
    out = tmp_path / "out"
    assert run(["check-data", str(experiment), "seed=3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"wrote {out / 'data-check.html'}",
        f"next: finetune-cnn train {experiment} seed=3",
    ]
    assert sorted(path.name for path in out.iterdir()) == [CSV_NAME, PAGE_NAME]
    assert run(["check-data"]) == 2
    assert "no experiment is named" in capsys.readouterr().err
    assert run(["check-data", "data.train=absent.csv"]) == 2
    assert "absent.csv: no such file" in capsys.readouterr().err
