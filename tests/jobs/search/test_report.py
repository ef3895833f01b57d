"""What a person keeps of a search."""

from dataclasses import replace
from pathlib import Path

from matplotlib.image import imread

from jobs.search.analysis import compare_embeddings
from jobs.search.records import TrialRecord
from jobs.search.report import write_search_report
from jobs.search.space import parse_space
from jobs.training.run_folder import BestCheckpoint
from tests.support.trial_records import EXPERIMENT, record, records

BEST = BestCheckpoint(
    "trial-00003/epoch-0001", "accuracy", {"accuracy": 0.9, "epoch": 1}, {"model.dropout": 0.1}, trial=3
)
COMMANDS = ["python -m jobs evaluate runs/x", "python -m serving run runs/x"]


def report(folder: Path, ended: list[TrialRecord], best: BestCheckpoint = BEST) -> str:
    repeated = [record(n, {"model.embedding": kind, "seed": n}, 0.7 + n / 100) for n in (0, 1)
                for kind in ("static", "non-static")]  # fmt: skip
    write_search_report(
        folder,
        EXPERIMENT,
        parse_space(EXPERIMENT),
        ended,
        compare_embeddings(EXPERIMENT, ended, repeated),
        best,
        COMMANDS,
    )
    return (folder / "report.md").read_text()


def test_a_report_says_what_is_best_whether_tuning_pays_and_how_to_go_on(tmp_path: Path) -> None:
    """With pictures that are there, and every trial in a table."""
    text = report(tmp_path, [*records(12), TrialRecord(13, {}, "failed", "out of memory: 9 GiB")])
    assert "**Best: accuracy 0.9000**, trial 3, epoch 1" in text
    assert "* `model.dropout`: 0.1" in text
    assert "13 trials: 12 ran to their end, 0 were stopped before, 1 failed" in text
    assert "\n".join(COMMANDS) in text
    assert "pays" in text.split("## Does fine-tuning the vectors pay?")[1]
    assert "| model.dropout |" in text.split("## Which settings matter")[1]
    assert "| 13 | out of memory: 9 GiB |" in text
    for name in ("embeddings.png", "parallel-coordinates.png", "slices.png"):
        assert f"({name})" in text
        assert imread(tmp_path / name).std() > 0.01
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 14


def test_a_report_of_a_single_trial_can_be_written(tmp_path: Path) -> None:
    """And of one that was trained again on all rows."""
    text = report(tmp_path, records(1), replace(BEST, refit=True, rows=1234))
    assert "There are too few trials to tell" in text
    assert "Trained again on all 1,234 rows" in text
