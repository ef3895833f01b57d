"""The command check-data: table, page and csv."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import finetune_cnn
from jobs.__main__ import main
from jobs.config.experiment import Experiment
from jobs.data_checks.check import check_data
from jobs.data_checks.findings import CSV_COLUMNS
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
    rows = read_csv(page.with_name("rows.csv"))
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


def test_the_result_is_the_same_each_time(make_experiment: Callable[..., Experiment], texts: Path) -> None:
    experiment = make_experiment(data__train=str(texts))
    pages = [Path(check_data(experiment, str(texts.parent / name))) for name in ("one", "two")]
    for name in ("data-check.html", "rows.csv"):
        assert pages[0].with_name(name).read_bytes() == pages[1].with_name(name).read_bytes()


def test_the_coverage_of_a_vectors_file_is_a_finding(
    make_experiment: Callable[..., Experiment], texts: Path, messages: list[str]
) -> None:
    vectors = write_word2vec(texts.parent / "v.bin", ["the", "film", "was"], np.ones((3, 4), np.float32))
    settings = {"vectors.path": str(vectors), "vectors.dimensions": 4, "model.embedding": "static"}
    check_data(make_experiment(data__train=str(texts)).replace(settings))
    table = next(message for message in messages if message.startswith("severity"))
    line = next(line for line in table.splitlines() if "vectors" in line)
    assert line.startswith("high")
    assert "of the training tokens have a pretrained vector" in line


@pytest.mark.parametrize("run", [main, finetune_cnn.main], ids=["jobs", "finetune_cnn"])
def test_the_command_takes_an_experiment_settings_and_a_folder(
    run: Callable[[list[str]], int], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tmp_path / "x.yaml"
    experiment.write_text(f"name: mine\ndata: {{train: {json.dumps(str(texts))}}}\nmodel: {{embedding: rand}}\n")
    out = tmp_path / "out"
    assert run(["check-data", str(experiment), "seed=3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {out / 'data-check.html'}"
    assert sorted(path.name for path in out.iterdir()) == ["data-check.html", "rows.csv"]
    assert run(["check-data"]) == 2
    assert "no experiment is named" in capsys.readouterr().err
    assert run(["check-data", "data.train=absent.csv"]) == 2
    assert "absent.csv: no such file" in capsys.readouterr().err
