"""Rows to label next: uncertain ones that differ from each other."""

import csv
import datetime
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from jobs.__main__ import main
from jobs.datasets.chunks import Chunk
from jobs.datasets.formats.rows import DataError
from jobs.inference.batch.uncertain_rows import CANDIDATES_PER_ROW, select_uncertain_rows
from jobs.inference.classifier import Classifier
from jobs.inference.file_prediction import predict_file
from jobs.model.checkpoint import Checkpoint, save_checkpoint
from tests.support.checkpoints import checkpoint_of


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return checkpoint_of("non-static")


@pytest.fixture(scope="module")
def classifier(checkpoint: Checkpoint) -> Classifier:
    return Classifier(checkpoint, share_table=False)


def margins_of(classifier: Classifier, texts: list[str]) -> np.ndarray:
    best = np.sort(classifier.predict_proba(texts), axis=1)
    return best[:, -1] - best[:, -2]


def test_the_selected_rows_are_among_the_least_certain_ones(checkpoint: Checkpoint, classifier: Classifier) -> None:
    """The least certain first, with their records, whatever the sizes of the chunks; a text is selected once."""
    texts = [f"word{number} word{number + 3}" for number in range(150)]
    chunks = [
        Chunk(texts[start : start + 40] * 2, [{"id": text} for text in texts[start : start + 40] * 2])
        for start in range(0, 150, 40)
    ]
    selected = select_uncertain_rows(checkpoint, classifier, chunks, 10)
    assert len(selected.texts) == len(set(selected.texts)) == 10
    assert [record["id"] for record in selected.records] == selected.texts
    chosen = margins_of(classifier, selected.texts)
    assert chosen.tolist() == sorted(chosen)
    candidates = np.sort(margins_of(classifier, texts))[: CANDIDATES_PER_ROW * 10]
    assert chosen.max() <= candidates.max() + 1e-6
    whole = select_uncertain_rows(checkpoint, classifier, [Chunk(texts, [{"id": text} for text in texts])], 10)
    assert whole.texts == selected.texts


def test_similar_rows_are_not_selected_together(checkpoint: Checkpoint, classifier: Classifier) -> None:
    """Of several groups of texts with the same words in another order, each has a row."""
    groups = [[f"word{base} word{base + 1} word{base + 2}", f"word{base + 2} word{base} word{base + 1}",
               f"word{base + 1} word{base + 2} word{base}"] for base in range(0, 60, 10)]  # fmt: skip
    texts = [text for group in groups for text in group]
    selected = select_uncertain_rows(checkpoint, classifier, [Chunk(texts, [{} for _ in texts])], 6)
    assert [sum(text in group for text in selected.texts) for group in groups] == [1] * 6


def test_all_rows_are_selected_if_there_are_no_more(checkpoint: Checkpoint, classifier: Classifier) -> None:
    """Those without words are left out: there is nothing to label."""

    def make_chunks() -> Iterator[Chunk]:
        yield Chunk(["word1", "word2", "", " \n"], [{}, {}, {}, {}])

    assert select_uncertain_rows(checkpoint, classifier, make_chunks(), 5).texts == ["word1", "word2"]
    with pytest.raises(DataError, match="no text has a word"):
        select_uncertain_rows(checkpoint, classifier, [Chunk(["", " "], [{}, {}])], 5)


def test_columns_keep_their_types_in_parquet(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Those of several files; files with different types are an error."""
    save_checkpoint(tmp_path / "c", checkpoint)
    (tmp_path / "pool").mkdir()
    days = [datetime.date(2026, 1, number) for number in range(1, 25)]
    for part, numbers in enumerate((range(12), range(12, 24))):
        columns = {"text": [f"word{number} word{2 * number}" for number in numbers], "day": [days[n] for n in numbers]}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "pool" / f"{part}.parquet")
    command = ["predict", str(tmp_path / "c"), str(tmp_path / "pool"), "--uncertain", "20"]
    assert main([*command, "--out", str(tmp_path / "out.parquet")]) == 0
    written = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert [str(kind) for kind in written.schema.types[:2]] == ["string", "date32[day]"]
    rows = {f"word{number} word{2 * number}": day for number, day in enumerate(days)}
    assert len(written) == 20
    assert all(rows[row["text"]] == row["day"] for row in written.to_pylist())
    other = pyarrow.table({"text": ["word50"], "day": ["today"]})
    pyarrow.parquet.write_table(other, tmp_path / "pool" / "2.parquet")
    with pytest.raises(DataError, match=r"different types: 'day' is date32\[day\] and string; write jsonl"):
        predict_file(str(tmp_path / "c"), str(tmp_path / "pool"), str(tmp_path / "2.parquet"), None, uncertain=25)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_predict_writes_the_selected_rows_with_all_their_columns(
    checkpoint: Checkpoint, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "c", checkpoint)
    rows = [{"id": number, "text": f"word{number} word{2 * number}"} for number in range(90)]
    pool, out = tmp_path / "pool.jsonl", tmp_path / f"next{suffix}"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["predict", str(tmp_path / "c"), str(pool), "--uncertain", "7"]
    assert main([*command, "--out", str(out)]) == 0
    if suffix == ".csv":
        with out.open(newline="") as stream:
            written = list(csv.DictReader(stream))
    else:
        written = pyarrow.parquet.read_table(out).to_pylist()
    assert list(written[0]) == ["id", "text", "label", "score"]
    assert len({row["id"] for row in written}) == 7
    assert all(rows[int(row["id"])]["text"] == row["text"] for row in written)
    assert main([*command, "--out", f"{tmp_path}/out/"]) == 2
    assert "--uncertain writes a single file" in capsys.readouterr().err


def test_with_several_labels_per_text_the_least_certain_one_decides() -> None:
    """The rows are those with a score next to the threshold of its label, not those with two equal scores."""
    several = checkpoint_of("non-static", **{"data.multi_label": True})
    several.metrics["label_thresholds"] = {"values": [0.5, 0.5, 0.9]}
    classifier = Classifier(several, share_table=False)
    texts = [f"word{number} word{number + 7}" for number in range(60)]
    selected = select_uncertain_rows(several, classifier, [Chunk(texts, [{} for _ in texts])], 4)
    distances = np.abs(classifier.predict_proba(texts) - [0.5, 0.5, 0.9]).min(axis=1)
    allowed = {texts[index] for index in np.argsort(distances)[: CANDIDATES_PER_ROW * 4]}
    assert set(selected.texts) <= allowed


def test_the_share_of_invalid_rows_is_that_of_all_rows_that_were_read(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Not that of the few selected ones."""
    save_checkpoint(tmp_path / "c", checkpoint)
    lines = [f'{{"text": "word{number} word{2 * number}"}}\n' for number in range(60)]
    (tmp_path / "pool.jsonl").write_text("".join([*lines, "[1]\n"]))
    command = ["predict", str(tmp_path / "c"), str(tmp_path / "pool.jsonl"), "--uncertain", "5", "--max-invalid"]
    out = tmp_path / "next.jsonl"
    assert main([*command, "5", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 5
    assert len((tmp_path / "next.jsonl.invalid.jsonl").read_text().splitlines()) == 1
    assert main([*command, "1", "--force", "--out", str(out)]) == 2
