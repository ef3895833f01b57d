"""Several sources of one prediction: their rows, and what identifies them."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from jobs.__main__ import main
from tests.support.text_formats import encode_rows
from tests.support.toy_data import read_jsonl

TEXTS = [f"word{number}" for number in range(8)]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A file, a folder of two, and a URI, of different formats, with two of the texts each."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    names = ["z.csv", "folder/1.jsonl", "folder/2.jsonl", "a.parquet"]
    for index, name in enumerate(names):
        rows = [("x", text) for text in TEXTS[2 * index : 2 * index + 2]]
        Path(name).write_bytes(encode_rows(rows, Path(name).suffix))
    return ["z.csv", "folder", f"file://{tmp_path}/a.parquet"]


def read_texts(out: str) -> list[object]:
    if out.endswith(".jsonl"):
        return [row["text"] for row in read_jsonl(Path(out))]
    paths = sorted(Path(out).glob("part-*")) if out.endswith("/") else [out]
    return [text for path in paths for text in pyarrow.parquet.read_table(path)["text"].to_pylist()]


@pytest.mark.parametrize("out", ["out.parquet", "out.jsonl", "out/"])
def test_sources_are_read_in_their_order(saved: str, sources: list[str], out: str) -> None:
    """As a list of `data.train`, they may be of different formats."""
    assert main(["predict", saved, *sources, "--out", out]) == 0
    assert read_texts(out) == TEXTS
    assert main(["predict", saved, *sources[::-1], "--out", out, "--force"]) == 0
    assert read_texts(out) == [*TEXTS[6:], *TEXTS[2:6], *TEXTS[:2]]


def test_a_folder_is_completed_with_the_same_sources_only(
    saved: str, sources: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """In the same order; its manifest names them."""
    command = ["predict", saved, "--out", "out/", "--workers", "1"]
    assert main([*command, *sources]) == 0
    assert json.loads(Path("out/_predictions.json").read_text())["source"] == "z.csv and 2 more"
    Path("out/part-00001.parquet").unlink()
    assert main([*command, *sources]) == 0
    assert "8 rows in 4 of 4 files" in (output := capsys.readouterr().out)
    assert "2 rows in 1 of 4 files" in output
    for others in (sources[::-1], sources[:2]):
        assert main([*command, *others]) == 2
        assert "holds predictions of z.csv and 2 more" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["Why", "was", "my", "card", "charged?"], ["z.csv", "-"], ["z.csv", "none.csv"]])
def test_several_words_are_files(
    saved: str, sources: list[str], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    """Neither a text without quotes nor standard input is one of several sources."""
    assert main(["predict", saved, *words]) == 2
    name = "Why" if len(words) > 2 else words[1]
    assert f"{name}: " in (error := capsys.readouterr().err)
    assert "no such file" in error


@pytest.mark.parametrize("out", ["z.csv", "folder/1.jsonl", "folder/"])
def test_no_source_is_replaced(saved: str, sources: list[str], capsys: pytest.CaptureFixture[str], out: str) -> None:
    assert main(["predict", saved, *sources, "--out", out, "--force"]) == 2
    assert "is the " in capsys.readouterr().err
