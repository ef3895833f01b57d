"""Labelled texts: every way they can be wrong has an error that says where."""

import gzip
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.config.experiment import load_experiment as load_experiment
from jobs.config.settings import DataSettings
from jobs.datasets.dataset import load_dataset, stratified_split
from jobs.datasets.readers import DataError, Split, read_rows
from tests.conftest import make_toy_rows

GOOD = "label,text\ngood,a b\nbad,c d\n"


def reading(tmp_path: Path, name: str, content: bytes | str, **settings: object) -> Split:
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(content)
    return read_rows(name, DataSettings(folder=str(tmp_path), **settings))


def test_csv_tsv_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    """Plain and gzipped, with a byte order mark or without."""
    expected = (['say "hi", now', "it\u2019s"], ["a", "b"])
    csv = 'label,text\na,"say ""hi"", now"\nb,it\u2019s\n'
    tsv = 'label\ttext\na\tsay "hi", now\nb\tit\u2019s\n'
    jsonl = '{"text": "say \\"hi\\", now", "label": "a"}\n\n{"label": "b", "text": "it\u2019s"}\n'
    for name, content in (("a.csv", csv), ("a.tsv", tsv), ("a.jsonl", jsonl)):
        for suffix, data in (("", content.encode()), (".gz", gzip.compress(content.encode()))):
            part = reading(tmp_path, name + suffix, data)
            assert (part.texts, part.labels) == expected
    assert reading(tmp_path, "bom.csv", "\ufeff" + csv).texts == expected[0]


def test_columns_and_encoding_are_settings(tmp_path: Path) -> None:
    """Files are as their owners made them."""
    part = reading(
        tmp_path,
        "a.csv",
        "id,Klasse,Satz\n1,x,f\u00fcr\n".encode("latin-1"),
        text_column="Satz",
        label_column="Klasse",
        encoding="latin-1",
    )
    assert (part.texts, part.labels) == (["f\u00fcr"], ["x"])


def test_json_labels_may_be_numbers(tmp_path: Path) -> None:
    """1 and true are labels too."""
    assert reading(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": true}').labels == [
        "1",
        "true",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: is empty"),
        ("a.csv", "label,text\n", r"a\.csv: has no rows"),
        ("a.csv", "label,body\nx,y\n", r"a\.csv: has no column 'text' \(data.text_column\); it has label, body"),
        ("a.csv", "text\nx\n", r"has no column 'label' \(data.label_column\)"),
        ("a.csv", "label,text\nx,a\ny\n", r"a\.csv, line 3: has 1 columns where the header has 2"),
        ("a.csv", 'label,text\nx,"a\n', r"a\.csv, line 2: not valid csv"),
        ("a.csv", "label,text\n,a\n", r"a\.csv, line 2: the label in 'label' is empty"),
        (
            "a.tsv",
            b"label\ttext\nx\ta\ny\t\xff\xfe\n",
            r"a\.tsv, line 3: byte 0xff at 3 is not utf-8; set data.encoding",
        ),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text"', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", "[1]", r"line 1: must be a JSON object, not a list"),
        ("a.jsonl", '{"label": "x"}', r"line 1: has no 'text' \(data.text_column\); it has label"),
        ("a.jsonl", '{"text": 5, "label": "x"}', r"line 1: 'text' must be a string, not 5"),
        ("a.jsonl", '{"text": "a", "label": null}', r"line 1: the label in 'label' is empty"),
        ("a.jsonl", "[" * 100_000, r"line 1: not valid JSON"),
        ("a.jsonl", '{"text": "\\ud800", "label": "x"}', r"line 1: holds half of a surrogate pair"),
        ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}", r"line 1: not valid JSON"),
        ("a.csv.gz", b"\x1f\x8bnot gzip", r"a\.csv\.gz: cannot be read"),
        ("a.xlsx", "x", r"must end in .csv, .tsv, .jsonl"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    """The message says file, line and setting."""
    with pytest.raises(DataError, match=message):
        reading(tmp_path, name, content)


def test_a_broken_gzip_is_named(tmp_path: Path) -> None:
    """Not zlib's own error."""
    content = bytearray(gzip.compress(b"label,text\n" + b"good,a fine film\n" * 99))
    content[15:25] = bytes(10)
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(str(path), DataSettings())


def test_a_class_may_be_called_null(tmp_path: Path) -> None:
    """In a csv it is a word like another; in JSON null is no label."""
    path = tmp_path / "rows.csv"
    path.write_text("label,text\nnull,a\n")
    assert read_rows(str(path), DataSettings()).labels == ["null"]


def test_an_encoding_of_two_bytes_a_character_is_refused(tmp_path: Path) -> None:
    """Lines are found by their bytes."""
    path = tmp_path / "rows.csv"
    path.write_text("label,text\ngood,a\n", encoding="utf-16")
    with pytest.raises(DataError, match="utf-16 is not supported; convert"):
        read_rows(str(path), DataSettings(encoding="utf-16"))
    for unknown in ("undefined", "a\0b"):
        with pytest.raises(DataError, match="Python knows no encoding"):
            read_rows(str(path), DataSettings(encoding=unknown))


def test_a_missing_file_and_an_unknown_encoding(tmp_path: Path) -> None:
    """Wrong settings, not wrong files."""
    with pytest.raises(DataError, match="no such file"):
        read_rows("none.csv", DataSettings(folder=str(tmp_path)))
    with pytest.raises(DataError, match="no encoding 'klingon'"):
        reading(tmp_path, "a.csv", GOOD, encoding="klingon")


def test_one_class_only_is_an_error(tmp_path: Path) -> None:
    """There is nothing to tell apart."""
    (tmp_path / "a.csv").write_text("label,text\n" + "x,a\n" * 40)
    with pytest.raises(DataError, match="all rows have the label 'x'"):
        load_dataset(load_experiment(None, [f"data.train={tmp_path}/a.csv"]))


def test_a_label_that_training_never_saw_is_named_with_its_line(tmp_path: Path) -> None:
    """File, line and label."""
    (tmp_path / "train.csv").write_text("label,text\n" + "x,a\ny,b\n" * 20)
    (tmp_path / "test.csv").write_text("label,text\nx,a\nz,b\n")
    settings = [f"data.folder={tmp_path}", "data.train=train.csv", "data.test=test.csv"]
    with pytest.raises(DataError, match=r"test\.csv, line 3: the label 'z' never occurs in .*train\.csv"):
        load_dataset(load_experiment(None, settings))


def test_too_few_rows_to_draw_from(tmp_path: Path) -> None:
    """The share that was asked for is named."""
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"too few to draw data.test_share=0.1"):
        load_dataset(load_experiment(None, [f"data.train={tmp_path}/a.csv"]))


def test_parts_are_drawn_evenly_with_the_seed(make_experiment: Callable[..., Experiment]) -> None:
    """No row twice, none lost, the same share of each class, the same rows for the same seed."""
    found = load_dataset(make_experiment())
    parts = (found.train, found.validation, found.test)
    assert sum(map(len, parts)) == 120
    assert sorted(line for part in parts for line in part.line_numbers or []) == list(range(2, 122))
    assert Counter(found.test.labels) == {"good": 6, "bad": 6}
    assert load_dataset(make_experiment()).test.line_numbers == found.test.line_numbers
    assert load_dataset(make_experiment(seed=1)).test.line_numbers != found.test.line_numbers


def test_a_class_of_one_row_stays_in_training() -> None:
    """A stratified draw would refuse it."""
    labels = ["x", "y"] * 20 + ["rare"]
    kept, drawn = stratified_split(Split(["t"] * 41, labels), 0.2, 0, "data.test_share")
    assert "rare" in kept.labels
    assert "rare" not in drawn.labels


def test_texts_that_training_has_too_are_counted(tmp_path: Path) -> None:
    """A leak is told, not hidden."""
    rows = "".join(f"{label},{text.replace(',', '')}\n" for label, text in make_toy_rows(40))
    (tmp_path / "train.csv").write_text("label,text\n" + rows)
    (tmp_path / "test.csv").write_text("label,text\ngood,never seen before\n" + rows.splitlines()[0] + "\n")
    settings = [f"data.folder={tmp_path}", "data.train=train.csv", "data.test=test.csv"]
    notes = load_dataset(load_experiment(None, [*settings, "data.validation=test.csv"])).notes
    assert "test: 1 of 2 texts stand in the training part too" in notes


@pytest.mark.ray
def test_the_default_corpus_from_two_packages(embedded_ray: None, tmp_path: Path) -> None:
    """Rows of each class, none twice, the names masked; the second reading takes what the first wrote."""
    experiment = load_experiment(
        None, ["data.packages=[networkx, gensim]", "data.max_rows_per_class=300", f"storage={tmp_path}"]
    )
    found = load_dataset(experiment)
    texts = found.train.texts + found.validation.texts + found.test.texts
    assert len(texts) == len({text.casefold() for text in texts}) == 600
    assert found.labels == ["gensim", "networkx"]
    assert not [text for text in texts if "networkx" in text.lower() or "gensim" in text.lower()]
    assert found.pretraining_file is not None
    assert len(found.pretraining_file.read_text().split()) > 100_000
    assert any(note.startswith("networkx: 300 rows of") for note in found.notes)
    again = load_dataset(experiment)
    assert again.train == found.train


@pytest.mark.parametrize("name", ["nope.sub", "../etc", "__main__", ""])
def test_what_is_no_package_is_named(tmp_path: Path, name: str) -> None:
    """Nothing is imported to find out."""
    experiment = Experiment().replace({"data.packages": [name, "numpy"], "storage": str(tmp_path)})
    with pytest.raises(DataError, match=f"'{re.escape(name)}' is not installed"):
        load_dataset(experiment)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    """Before anything is parsed."""
    settings = ["data.packages=[networkx, no_such_package]", f"storage={tmp_path}"]
    with pytest.raises(DataError, match="'no_such_package' is not installed"):
        load_dataset(load_experiment(None, settings))


@pytest.mark.parametrize(("name", "classes", "test_rows"), [("trec", 6, 500), ("sst2", 2, 1821)])
def test_the_sets_of_the_experiments_are_read(shared_data: Path, name: str, classes: int, test_rows: int) -> None:
    """With nothing but their folder given."""
    path = str(REPOSITORY / "experiments" / f"{name}.yaml")
    found = load_dataset(load_experiment(path, [f"data.folder={shared_data / name}"]))
    assert len(found.labels) == classes
    assert len(found.test) == test_rows
