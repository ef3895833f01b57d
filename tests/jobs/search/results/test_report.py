"""Report of a search: report.md, report.html and trials.csv."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from jobs.search.records import TrialRecord
from jobs.search.results import page
from jobs.search.results.analysis import compare_embeddings
from jobs.search.results.plots import plot_parallel_coordinates
from jobs.search.results.report import write_search_report
from jobs.search.space import parse_space
from jobs.training.run_files.run_folder import BestCheckpoint
from tests.support.trial_records import EXPERIMENT, make_record, make_records

BEST = BestCheckpoint(
    "trial-00003/epoch-0001", "accuracy", {"accuracy": 0.9, "epoch": 1}, {"model.dropout": 0.1}, trial=3
)
COMMANDS = ["finetune-cnn evaluate runs/x", "finetune-cnn serve runs/x"]
REPEATED = [
    make_record(n, {"model.embedding": kind, "seed": n}, 0.7 + n / 100)
    for n in (0, 1)
    for kind in ("static", "non-static")
]


def write_report(folder: Path, records: list[TrialRecord], best: BestCheckpoint = BEST) -> str:
    kinds = compare_embeddings(EXPERIMENT, records, REPEATED)
    write_search_report(
        folder, EXPERIMENT, parse_space(EXPERIMENT), records, kinds, best, COMMANDS, np.repeat([0, 1], [4, 6])
    )
    return (folder / "report.md").read_text()


def test_a_report_names_the_best_whether_fine_tuning_pays_and_the_next_steps(tmp_path: Path) -> None:
    """With charts, and every trial in a table."""
    text = write_report(tmp_path, [*make_records(12), TrialRecord(13, {}, "failed", "out of memory: 9 GiB")])
    assert "**Best: accuracy 0.9000**, 9 of 10 validation rows correct, trial 3, epoch 1" in text
    assert "* `model.dropout`: 0.1" in text
    assert "13 trials: 12 finished, 0 were stopped early, 1 failed" in text
    assert "\n".join(COMMANDS) in text
    assert "pays" in text.split("## Does fine-tuning the vectors pay?")[1]
    assert "| model.dropout |" in text.split("## Which settings matter")[1]
    assert "| 13 | out of memory: 9 GiB |" in text
    for name in ("embeddings.png", "parallel-coordinates.png", "slices.png"):
        assert f"({name})" in text
        assert imread(tmp_path / name).std() > 0.01
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 14


def test_the_best_trials_are_listed_first(tmp_path: Path) -> None:
    records = make_records(25)
    table = write_report(tmp_path, records).split("## The best 20 trials")[1]
    listed = [int(line.split("|")[1]) for line in table.splitlines() if line.startswith("| ") and line[2].isdigit()]
    ranked = sorted(records, key=lambda record: record.ranking_key("accuracy"), reverse=True)
    assert listed == [record.number for record in ranked[:20]]
    assert f"| {round(10 * ranked[0].best_value('accuracy'))} of 10 |" in table


def test_null_is_listed_as_a_value(tmp_path: Path) -> None:
    """A setting that was not varied in a trial has a dash."""
    experiment = EXPERIMENT.replace({"tune.space": {"train.class_weights": {"grid": [None, "balanced"]}}})
    settings: list[dict[str, Any]] = [{"train.class_weights": None}, {"train.class_weights": "balanced"}, {}]
    records = [make_record(number, own, 0.5 + number / 100) for number, own in enumerate(settings, 1)]
    best = replace(BEST, settings={"train.class_weights": None})
    space = parse_space(experiment)
    kinds = compare_embeddings(experiment, records, [])
    write_search_report(tmp_path, experiment, space, records, kinds, best, COMMANDS, np.array([0, 1]))
    text = (tmp_path / "report.md").read_text()
    assert "* `train.class_weights`: null" in text
    table = [
        line.split("|")[6].strip() for line in text.split("## The best 3 trials")[1].splitlines() if "finished" in line
    ]
    assert table == ["-", "balanced", "null"]


def test_a_report_of_a_single_trial_can_be_written(tmp_path: Path) -> None:
    """Also of one that was refitted on all rows."""
    text = write_report(tmp_path, make_records(1), replace(BEST, refit=True, rows=1234))
    [axes] = plot_parallel_coordinates(EXPERIMENT, parse_space(EXPERIMENT), make_records(1)).axes
    assert axes.get_ylim() == (-0.05, 1.05)  # every value of the settings has room
    assert "importance of the settings is not listed" in text
    assert "results of at least 12 trials" in text
    assert "has results of 1 trial." in text
    assert "## The best 1 trials" in text
    assert "trained again on all 1,234 training and validation rows" in text


def test_the_page_has_what_the_markdown_has_and_a_line_of_each_trial_in_every_chart(tmp_path: Path) -> None:
    """With the learning curves, and values that are escaped."""
    failed = TrialRecord(13, {}, "failed", "out of memory: <b>9 GiB")
    text = write_report(tmp_path, [*make_records(12), failed])
    content = (tmp_path / "report.html").read_text(encoding="utf-8")
    verdict = text.split("## Does fine-tuning the vectors pay?")[1].split("|")[0].strip()
    for part in (
        verdict,
        *COMMANDS,
        "9 of 10 validation rows correct",
        "model.dropout",
        "out of memory: &lt;b&gt;9 GiB",
    ):
        assert part in content
    for number in range(1, 13):
        assert f'<tr data-trial="{number}">' in content
        assert 6 <= content.count(f'data-trial="{number}"') <= 8  # the table, coordinates, settings and two curves
    assert 'data-trial="13"' not in content


def test_of_many_trials_the_page_charts_and_lists_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so; the csv has all."""
    monkeypatch.setattr(page, "MAX_CHARTED_TRIALS", 5)
    monkeypatch.setattr(page, "MAX_TABLE_TRIALS", 10)
    records = make_records(12)
    write_report(tmp_path, records)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The charts have the best 5 of 12 trials." in text
    assert "The best 10 of 12 trials." in text
    assert text.count("<tr data-trial=") == 10
    best = max(records, key=lambda record: record.best_value("accuracy")).number
    assert text.index(f'<tr data-trial="{best}">') < text.index("<tr data-trial=") + 1
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 13
