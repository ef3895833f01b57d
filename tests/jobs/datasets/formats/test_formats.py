"""All formats of labelled texts: the same content gives the same rows, classes and run, from every kind of source."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import fsspec
import pyarrow
import pytest

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.config.formats import SUFFIXES as KNOWN_SUFFIXES
from jobs.config.formats import FormatName, find_format, remove_suffixes
from jobs.config.settings import DataSettings
from jobs.datasets.dataset import load_dataset
from jobs.datasets.readers import READERS, DataError, read_rows
from jobs.training.run_files.run_folder import resolve_run_folder
from tests.support.text_formats import SUFFIXES, compress, encode_rows, encode_table, save_dataset
from tests.support.toy_data import make_test_corpus, make_toy_rows

ROWS = [(label, f"{text} größe {number}") for number, (label, text) in enumerate(make_toy_rows(120))]
CLASS_NAMES = ["bad", "good"]


def write_source(folder: Path, kind: str) -> str | list[str]:
    """Write the rows as a kind of source, such as `folder .csv`; return it."""
    form, _, suffix = kind.partition(" ")
    if form == "dataset":
        numbers = [CLASS_NAMES.index(label) for label, _ in ROWS]
        save_dataset(folder / "saved", {"text": [text for _, text in ROWS], "label": numbers}, CLASS_NAMES)
        return str(folder / "saved")
    suffix, _, compression = suffix.partition("+")
    parts = [ROWS] if form in ("file", "uri", "memory") else [ROWS[:50], ROWS[50:60], ROWS[60:]]
    paths = [folder / "parts" / f"part-{number}{suffix}{compression}" for number in range(len(parts))]
    paths[0].parent.mkdir()
    for path, part in zip(paths, parts, strict=True):
        path.write_bytes(compress(encode_rows(part, suffix), compression))
    if form == "memory":
        fsspec.filesystem("memory").pipe({f"/{folder.name}/a b{suffix}": paths[0].read_bytes()})
        return f"memory:///{folder.name}/a b{suffix}"
    (paths[0].parent / "_SUCCESS").touch()
    (paths[0].parent / f".part-0{suffix}").write_text("hidden")
    return {
        "file": str(paths[0]),
        "uri": f"file://{paths[0]}",
        "folder": f"{paths[0].parent}/",
        "folder-uri": f"file://{paths[0].parent}",
        "glob": f"{folder}/*/part-[0-9]{suffix}{compression}",
        "glob-uri": f"file://{folder}/**/part-*",
        "list": [str(path) for path in paths],
    }[form]


@pytest.mark.parametrize(
    "kind",
    [
        *(f"file {suffix}" for suffix in SUFFIXES),
        *(f"file {suffix}+{compression}" for suffix in SUFFIXES for compression in (".gz", ".zst")),
        *(f"folder {suffix}" for suffix in SUFFIXES),
        *(f"{form} {suffix}" for form in ("uri", "memory", "glob", "list") for suffix in (".csv", ".parquet")),
        "folder-uri .arrow",
        "glob-uri .parquet",
        "folder .jsonl+.zst",
        "dataset",
    ],
)
def test_the_same_content_is_the_same_run(
    make_experiment: Callable[..., Experiment], tmp_path: Path, kind: str
) -> None:
    """Rows, classes, drawn parts and the key of the run are those of one csv."""
    (tmp_path / "all.csv").write_bytes(encode_rows(ROWS, ".csv"))
    expected = make_experiment(data__train=str(tmp_path / "all.csv"))
    experiment = make_experiment(data__train=write_source(tmp_path, kind))
    datasets = [load_dataset(each) for each in (expected, experiment)]
    for name in ("train", "validation", "test"):
        parts = [getattr(dataset, name) for dataset in datasets]
        assert parts[0].texts == parts[1].texts
        assert parts[0].labels == parts[1].labels
    assert datasets[0].labels == datasets[1].labels == CLASS_NAMES
    folders = [resolve_run_folder("train", each, make_test_corpus(each)) for each in (expected, experiment)]
    assert folders[0].path == folders[1].path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".feather", ".txt"])
@pytest.mark.parametrize("values", [[1, 2], [1.0, 2.0], [1, 2.5], [True, False], ["1.0", "TRUE"], ["007", "1.50"]])
def test_numbers_and_booleans_are_spelled_alike_in_all_formats(
    tmp_path: Path, suffix: str, values: list[object]
) -> None:
    """1.0 is 1, and True is true; other strings stay, such as 007."""
    if suffix in (".parquet", ".feather"):
        content = encode_table(pyarrow.table({"text": ["a", "b"], "label": pyarrow.array(values)}), suffix)
    elif suffix == ".jsonl":
        content = "".join(json.dumps({"text": "a", "label": value}) + "\n" for value in values).encode()
    else:
        content = encode_rows([(str(value), "a b") for value in values], suffix)
    (tmp_path / f"a{suffix}").write_bytes(content)
    expected = {
        "[1, 2]": ["1", "2"],
        "[1.0, 2.0]": ["1", "2"],
        "[1, 2.5]": ["1", "2.5"],
        "[True, False]": ["true", "false"],
        "['1.0', 'TRUE']": ["1", "true"],
        "['007', '1.50']": ["007", "1.50"],
    }
    assert read_rows(str(tmp_path / f"a{suffix}"), DataSettings()).labels == expected[str(values)]


def test_rows_of_several_files_name_their_file(tmp_path: Path) -> None:
    """In the messages of rows, also after a selection."""
    (tmp_path / "a.csv").write_text("label,text\nx,a\ny,b\n")
    (tmp_path / "b.parquet").write_bytes(encode_rows([("x", "c"), ("y", "d")], ".parquet"))
    rows = read_rows(["a.csv", "b.parquet"], DataSettings(folder=str(tmp_path)))
    assert rows.path == f"{tmp_path}/a.csv and 1 more"
    positions = [rows.describe_position(index).removeprefix(f"{tmp_path}/") for index in range(4)]
    assert positions == ["a.csv, line 2", "a.csv, line 3", "b.parquet, row 1", "b.parquet, row 2"]
    selected = rows.select([3, 0])
    assert [selected.describe_position(index) for index in range(2)] == [f"{tmp_path}/{positions[n]}" for n in (3, 0)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_without_a_known_name_are_recognized_by_their_content(tmp_path: Path, suffix: str) -> None:
    """fastText's own examples are called cooking.train; text with columns needs a name."""
    path = tmp_path / "cooking.train"
    path.write_bytes(encode_rows(ROWS, suffix))
    if find_format(f"x{suffix}") in ("parquet", "fasttext") or suffix == ".feather":
        assert read_rows(str(path), DataSettings()).labels == [label for label, _ in ROWS]
        path.write_bytes(gzip.compress(path.read_bytes()))
        assert read_rows(str(path), DataSettings()).labels == [label for label, _ in ROWS]
    else:
        with pytest.raises(DataError, match=r"cooking\.train: the name must end in \.csv, \.tsv"):
            read_rows(str(path), DataSettings())


def test_every_format_has_a_reader_and_a_suffix() -> None:
    assert set(READERS) == set(get_args(FormatName)) == set(KNOWN_SUFFIXES.values())


@pytest.mark.parametrize(
    ("path", "known", "stem"),
    [
        ("a/b.CSV", "csv", "b"),
        ("s3://b/x.tsv.gz?endpoint_override=http://h", "tsv", "x"),
        ("x.ndjson.ZST", "jsonl", "x"),
        ("what?.feather", "arrow", "what?"),
        ("x.csv.bz2", None, "x.csv.bz2"),
        ("folder/", None, "folder"),
        (".csv", "csv", ""),
    ],
)
def test_the_name_shows_the_format(path: str, known: str | None, stem: str) -> None:
    assert (find_format(path), remove_suffixes(path)) == (known, stem)


def test_suffixes_are_listed_once() -> None:
    """Other files import the table of formats."""
    paths = [path for folder in ("jobs", "cluster") for path in (REPOSITORY / folder).rglob("*.py")]
    listing = [path.name for path in paths if '".csv"' in path.read_text() and '".tsv"' in path.read_text()]
    assert sorted(listing) == ["formats.py", "prediction_output.py"]  # the second: formats that are written
