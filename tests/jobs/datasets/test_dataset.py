"""Readers of labelled texts and datasets: rows, splits, folds, and errors that name the position."""

import gzip
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment, ExperimentError, load_experiment
from jobs.config.settings import DataSettings
from jobs.datasets.dataset import load_dataset, load_folds, merge_validation, stratified_split
from jobs.datasets.readers import DataError, Split, read_rows
from tests.support.toy_data import make_toy_rows

GOOD = "label,text\ngood,a b\nbad,c d\n"


def read_file(tmp_path: Path, name: str, content: bytes | str, **settings: object) -> Split:
    content = content.encode() if isinstance(content, str) else content
    (tmp_path / name).write_bytes(content)
    return read_rows(name, DataSettings(folder=str(tmp_path), **settings))


def test_csv_tsv_and_jsonl_have_the_same_rows(tmp_path: Path) -> None:
    """Files are plain or gzipped, with or without a byte order mark."""
    expected = (['say "hi", now', "it\u2019s"], ["a", "b"])
    csv = 'label,text\na,"say ""hi"", now"\nb,it\u2019s\n'
    tsv = 'label\ttext\na\tsay "hi", now\nb\tit\u2019s\n'
    jsonl = '{"text": "say \\"hi\\", now", "label": "a"}\n\n{"label": "b", "text": "it\u2019s"}\n'
    for name, content in (("a.csv", csv), ("a.tsv", tsv), ("a.jsonl", jsonl)):
        for suffix, data in (("", content.encode()), (".gz", gzip.compress(content.encode()))):
            part = read_file(tmp_path, name + suffix, data)
            assert (part.texts, part.labels) == expected
    assert read_file(tmp_path, "bom.csv", "\ufeff" + csv).texts == expected[0]


def test_columns_and_encoding_are_settings(tmp_path: Path) -> None:
    part = read_file(
        tmp_path,
        "a.csv",
        "id,Klasse,Satz\n1,x,f\u00fcr\n".encode("latin-1"),
        text_column="Satz",
        label_column="Klasse",
        encoding="latin-1",
    )
    assert (part.texts, part.labels) == (["f\u00fcr"], ["x"])


def test_json_labels_may_be_numbers_and_booleans(tmp_path: Path) -> None:
    assert read_file(tmp_path, "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": true}').labels == [
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
        ("a.csv", "label,text\nx,a\ny\n", r"a\.csv, line 3: has 1 columns, but the header has 2"),
        ("a.csv", 'label,text\nx,"a\n', r"a\.csv, line 2: not valid csv"),
        ("a.csv", "label,text\n,a\n", r"a\.csv, line 2: the label in 'label' is empty"),
        (
            "a.tsv",
            b"label\ttext\nx\ta\ny\t\xff\xfe\n",
            r"a\.tsv, line 3: byte 0xff at position 3 is not utf-8; set data.encoding",
        ),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text"', r"a\.jsonl, line 2: not valid JSON"),
        ("a.jsonl", "[1]", r"line 1: must be a JSON object, not a list"),
        ("a.jsonl", '{"label": "x"}', r"line 1: has no 'text' \(data.text_column\); it has label"),
        ("a.jsonl", '{"text": 5, "label": "x"}', r"line 1: 'text' must be a string, not 5"),
        ("a.jsonl", '{"text": "a", "label": null}', r"line 1: the label in 'label' is empty"),
        ("a.jsonl", "[" * 100_000, r"line 1: not valid JSON"),
        ("a.jsonl", '{"text": "\\ud800", "label": "x"}', r"line 1: contains a lone surrogate"),
        ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}", r"line 1: not valid JSON"),
        ("a.csv.gz", b"\x1f\x8bnot gzip", r"a\.csv\.gz: cannot be read"),
        ("a.xlsx", "x", r"must end in .csv, .tsv, .jsonl"),
    ],
)
def test_errors_name_file_line_and_setting(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_file(tmp_path, name, content)


def test_a_broken_gzip_is_an_error(tmp_path: Path) -> None:
    """zlib's own exception does not reach the caller."""
    content = bytearray(gzip.compress(b"label,text\n" + b"good,a fine film\n" * 99))
    content[15:25] = bytes(10)
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(str(path), DataSettings())


def test_null_is_a_label_in_csv(tmp_path: Path) -> None:
    """In JSON, unlike in csv, null is no label."""
    path = tmp_path / "rows.csv"
    path.write_text("label,text\nnull,a\n")
    assert read_rows(str(path), DataSettings()).labels == ["null"]


def test_an_encoding_with_other_line_ends_is_an_error(tmp_path: Path) -> None:
    """Lines are split before they are decoded."""
    path = tmp_path / "rows.csv"
    path.write_text("label,text\ngood,a\n", encoding="utf-16")
    with pytest.raises(DataError, match="utf-16 is not supported; convert"):
        read_rows(str(path), DataSettings(encoding="utf-16"))
    for unknown in ("undefined", "a\0b"):
        with pytest.raises(DataError, match=r"data\.encoding: unknown encoding"):
            read_rows(str(path), DataSettings(encoding=unknown))


def test_a_missing_file_and_an_unknown_encoding_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows("none.csv", DataSettings(folder=str(tmp_path)))
    with pytest.raises(DataError, match="unknown encoding 'klingon'"):
        read_file(tmp_path, "a.csv", GOOD, encoding="klingon")


def test_a_single_class_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,text\n" + "x,a\n" * 40)
    with pytest.raises(DataError, match="all rows have the label 'x'"):
        load_dataset(load_experiment(None, [f"data.train={tmp_path}/a.csv"]))


def test_a_label_that_is_not_in_the_training_part_is_an_error(tmp_path: Path) -> None:
    """The message names file, line and label."""
    (tmp_path / "train.csv").write_text("label,text\n" + "x,a\ny,b\n" * 20)
    (tmp_path / "test.csv").write_text("label,text\nx,a\nz,b\n")
    settings = [f"data.folder={tmp_path}", "data.train=train.csv", "data.test=test.csv"]
    with pytest.raises(DataError, match=r"test\.csv, line 3: the label 'z' does not occur in .*train\.csv"):
        load_dataset(load_experiment(None, settings))


def test_too_few_rows_to_draw_from_are_an_error(tmp_path: Path) -> None:
    """The message names the setting of the share."""
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(DataError, match=r"too few to draw data.test_share=0.1"):
        load_dataset(load_experiment(None, [f"data.train={tmp_path}/a.csv"]))


def test_parts_are_drawn_with_the_seed(make_experiment: Callable[..., Experiment]) -> None:
    """Each row is in one part, each class has the same share, and the same seed draws the same rows."""
    dataset = load_dataset(make_experiment())
    parts = (dataset.train, dataset.validation, dataset.test)
    assert sum(map(len, parts)) == 120
    assert sorted(line for part in parts for line in part.line_numbers or []) == list(range(2, 122))
    assert Counter(dataset.test.labels) == {"good": 6, "bad": 6}
    assert load_dataset(make_experiment()).test.line_numbers == dataset.test.line_numbers
    assert load_dataset(make_experiment(seed=1)).test.line_numbers != dataset.test.line_numbers


def test_a_class_of_one_row_stays_in_training() -> None:
    labels = ["x", "y"] * 20 + ["rare"]
    remaining, drawn = stratified_split(Split(["t"] * 41, labels), 0.2, 0, "data.test_share")
    assert "rare" in remaining.labels
    assert "rare" not in drawn.labels


def test_merged_parts_have_all_rows(make_experiment: Callable[..., Experiment]) -> None:
    """The test part does not change."""
    dataset = load_dataset(make_experiment())
    merged = merge_validation(dataset)
    assert merged.train.texts == dataset.train.texts + dataset.validation.texts
    assert merged.train.labels == dataset.train.labels + dataset.validation.labels
    assert len(merged.validation) == 0
    assert merged.test == dataset.test


def test_folds_test_each_row_once(make_experiment: Callable[..., Experiment]) -> None:
    """Each class has the same share in each test part, the parts of a fold are disjoint, the seed decides."""
    folds = load_folds(make_experiment(), 4)
    tested = [line for fold in folds for line in fold.test.line_numbers or []]
    assert sorted(tested) == list(range(2, 122))
    for fold in folds:
        assert Counter(fold.test.labels) == {"good": 15, "bad": 15}
        assert len(fold.validation) == 9
        lines = [line for part in (fold.train, fold.validation, fold.test) for line in part.line_numbers or []]
        assert sorted(lines) == list(range(2, 122))
    assert [fold.test for fold in load_folds(make_experiment(), 4)] == [fold.test for fold in folds]
    assert load_folds(make_experiment(seed=1), 4)[0].test.line_numbers != folds[0].test.line_numbers


def test_folds_share_a_validation_file(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    (tmp_path / "dev.csv").write_text(GOOD)
    for fold in load_folds(make_experiment(data__validation=str(tmp_path / "dev.csv")), 3):
        assert fold.validation.texts == ["a b", "c d"]
        assert len(fold.train) == 80


def test_folds_that_cannot_be_drawn_are_an_error(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """A class has too few rows, the number is out of range, or there is a test file."""
    (tmp_path / "few.csv").write_text("label,text\n" + "a,x\n" * 20 + "b,y\n" * 2)
    with pytest.raises(DataError, match=r"2 rows have the label 'b', fewer than 3 folds; lower --folds"):
        load_folds(make_experiment(data__train=str(tmp_path / "few.csv")), 3)
    for folds in (-1, 0, 1, 101):
        with pytest.raises(DataError, match=rf"--folds {folds}: must be from 2 to 100"):
            load_folds(make_experiment(), folds)
    with pytest.raises(ExperimentError, match=r"remove data.test"):
        load_folds(make_experiment(data__test=str(tmp_path / "few.csv")), 3)


def test_texts_that_are_also_in_the_training_part_are_noted(tmp_path: Path) -> None:
    rows = "".join(f"{label},{text.replace(',', '')}\n" for label, text in make_toy_rows(40))
    (tmp_path / "train.csv").write_text("label,text\n" + rows)
    (tmp_path / "test.csv").write_text("label,text\ngood,never seen before\n" + rows.splitlines()[0] + "\n")
    settings = [f"data.folder={tmp_path}", "data.train=train.csv", "data.test=test.csv"]
    notes = load_dataset(load_experiment(None, [*settings, "data.validation=test.csv"])).notes
    assert "test: 1 of 2 texts are also in the training part" in notes


@pytest.mark.slow
def test_the_default_corpus_from_two_packages(tmp_path: Path) -> None:
    """Each class has different rows without the names of the libraries."""
    experiment = load_experiment(
        None, ["data.packages=[networkx, gensim]", "data.max_rows_per_class=300", f"storage={tmp_path}"]
    )
    dataset = load_dataset(experiment)
    texts = dataset.train.texts + dataset.validation.texts + dataset.test.texts
    assert len(texts) == len({text.casefold() for text in texts}) == 600
    assert dataset.labels == ["gensim", "networkx"]
    assert not [text for text in texts if "networkx" in text.lower() or "gensim" in text.lower()]
    assert dataset.pretraining_file is not None
    assert len(dataset.pretraining_file.read_text().split()) > 100_000
    assert any(note.startswith("networkx: 300 rows of") for note in dataset.notes)


@pytest.mark.parametrize("name", ["nope.sub", "../etc", "__main__", ""])
def test_an_invalid_package_name_is_an_error(tmp_path: Path, name: str) -> None:
    experiment = Experiment().replace({"data.packages": [name, "numpy"], "storage": str(tmp_path)})
    with pytest.raises(DataError, match=f"'{re.escape(name)}' is not installed"):
        load_dataset(experiment)


def test_a_package_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    settings = ["data.packages=[networkx, no_such_package]", f"storage={tmp_path}"]
    with pytest.raises(DataError, match="'no_such_package' is not installed"):
        load_dataset(load_experiment(None, settings))


@pytest.mark.parametrize(("name", "classes", "test_rows"), [("trec", 6, 500), ("sst2", 2, 1821)])
def test_the_data_of_the_experiments_are_read(shared_data: Path, name: str, classes: int, test_rows: int) -> None:
    """Only data.folder has to be set."""
    path = str(REPOSITORY / "experiments" / f"{name}.yaml")
    dataset = load_dataset(load_experiment(path, [f"data.folder={shared_data / name}"]))
    assert len(dataset.labels) == classes
    assert len(dataset.test) == test_rows
