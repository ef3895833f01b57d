"""Datasets: parts, folds, and errors that name the position."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment, ExperimentError, load_experiment
from jobs.datasets import dataset as dataset_module
from jobs.datasets.dataset import (
    add_out_of_scope_class,
    load_dataset,
    load_folds,
    merge_validation,
    stratified_split,
)
from jobs.datasets.readers import DataError, Split, read_rows
from jobs.datasets.stratification import draw_folds
from jobs.datasets.tokenizer import tokenize
from tests.support.toy_data import make_toy_rows

GOOD = "label,text\ngood,a b\nbad,c d\n"


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


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ((), "4 of 4 classes contain ';', such as 'a; b'; if these are several labels, set data.label_separator=';'"),
        (("data.label_separator=|",), "no row has several labels: none contains '|' (data.label_separator)"),
        (("data.label_separator=;",), None),
    ],
)
def test_a_separator_that_does_not_fit_the_labels_is_noted(
    tmp_path: Path, settings: tuple[str, ...], note: str | None
) -> None:
    labels = ("a; b", "a; c", "b; c", "a; b; c")
    (tmp_path / "a.csv").write_text("label,text\n" + "".join(f"{label},word\n" for label in labels) * 10)
    notes = load_dataset(load_experiment(None, [f"data.train={tmp_path}/a.csv", *settings])).notes
    assert [text for text in notes if "label_separator" in text] == ([note] if note else [])


def test_too_few_rows_to_draw_from_are_an_error(tmp_path: Path) -> None:
    """The message names the setting of the share."""
    (tmp_path / "a.csv").write_text(GOOD)
    with pytest.raises(
        DataError, match=r"2 rows are too few to draw data.test_share=0.1 from: each label has .*data.test$"
    ):
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


def test_small_classes_are_divided(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """With fewer drawn rows than classes, some classes have none; each class is in the training part."""
    rows = "".join(f"text {number} of {label},label{label}\n" for label in range(77) for number in range(8))
    (tmp_path / "small.csv").write_text("text,label\n" + rows)
    experiment = make_experiment(data__train=str(tmp_path / "small.csv"))
    dataset = load_dataset(experiment)
    assert (len(dataset.test), len(dataset.validation), len(dataset.train)) == (62, 56, 498)
    assert set(Counter(dataset.test.labels).values()) == set(Counter(dataset.validation.labels).values()) == {1}
    assert set(dataset.train.labels) == set(dataset.labels)
    lines = [line for part in (dataset.train, dataset.validation, dataset.test) for line in part.line_numbers or []]
    assert sorted(lines) == list(range(2, 77 * 8 + 2))
    assert f"test: 62 rows drawn from {tmp_path}/small.csv, of 62 of 77 labels" in dataset.notes
    assert load_dataset(experiment).test == dataset.test
    assert load_dataset(experiment.replace({"seed": 1})).test != dataset.test
    folds = load_folds(experiment, 8)
    assert all(len(fold.test) == 77 and set(fold.train.labels) == set(dataset.labels) for fold in folds)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("sizes", [(1, 2), (2, 2, 2), (1, 1, 1, 5), (2, 30, 3), (1, 1, 40)])
def test_any_share_leaves_a_row_of_each_class(sizes: tuple[int, ...], share: float) -> None:
    labels = [f"label{label}" for label, size in enumerate(sizes) for _ in range(size)]
    part = Split([f"text {index}" for index in range(len(labels))], labels)
    remaining, drawn = stratified_split(part, share, 0, "data.test_share")
    assert set(remaining.labels) == set(labels)
    assert len(drawn) >= 1
    assert sorted(remaining.texts + drawn.texts) == sorted(part.texts)


def test_texts_with_different_labels_are_noted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("label,text\n" + "x,a\ny,b\n" * 20 + "y,a\nx,c\n")
    [note] = [
        note
        for note in load_dataset(load_experiment(None, [f"data.train={tmp_path}/a.csv"])).notes
        if "rows, such as" in note
    ]
    path = tmp_path / "a.csv"
    assert note == (
        f"1 text has different labels in different rows, such as 'x' in {path}, line 2 and 'y' in {path}, line 42"
    )


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


def test_folds_are_drawn_from_numbers_of_labels(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are those drawn from the labels, an array of which would take the memory of the longest for each row."""
    drawn: list[tuple[object, ...]] = []

    def draw(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
        drawn.append((labels.dtype, folds, seed))
        return draw_folds(labels, folds, seed)

    monkeypatch.setattr(dataset_module, "draw_folds", draw)
    folds = load_folds(make_experiment(), 4)
    assert drawn == [(np.int32, 4, 0)]
    labels = read_rows(make_experiment().data.train, make_experiment().data).labels
    expected = draw_folds(labels, 4, 0)
    for number, fold in enumerate(folds):
        assert [line - 2 for line in fold.test.line_numbers or []] == np.flatnonzero(expected == number).tolist()


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
    assert dataset.pretraining_texts is not None
    docstrings = list(dataset.pretraining_texts.iter_tokens())
    assert sum(map(len, docstrings)) > 100_000
    starts = {tuple(tokens[:8]) for tokens in docstrings}
    in_texts = [
        sum(tuple(tokenize(text)[:8]) in starts for text in part.texts) for part in (dataset.train, dataset.test)
    ]
    assert in_texts[0] > 0.7 * len(dataset.train)
    assert in_texts[1] < 0.2 * len(dataset.test)  # the starts of a few docstrings are the same
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


def test_out_of_scope_rows_are_held_out_or_a_class(make_experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    """The file needs no column of labels. A half of the rows is trained on; validation and test part do not change."""
    path = tmp_path / "other.csv"
    path.write_text("text\n" + "".join(f"weather {number}\n" for number in range(7)))
    plain = load_dataset(make_experiment())
    settings = {"data__out_of_scope": str(path)}
    thresholds = load_dataset(make_experiment(**settings, data__out_of_scope_use="threshold"))
    assert thresholds.out_of_scope is not None
    assert len(thresholds.out_of_scope) == 7
    assert (thresholds.labels, thresholds.train.texts) == (plain.labels, plain.train.texts)
    both, as_class = (
        load_dataset(make_experiment(**settings, data__out_of_scope_use=use)) for use in ("auto", "class")
    )
    assert both.out_of_scope is not None
    assert both.out_of_scope_training is not None
    assert {*both.out_of_scope.texts, *both.out_of_scope_training.texts} == set(thresholds.out_of_scope.texts)
    assert (len(both.out_of_scope), len(both.out_of_scope_training), both.labels) == (3, 4, plain.labels)
    assert add_out_of_scope_class(both).train == as_class.train
    assert as_class.labels == ["bad", "good", "out_of_scope"]
    assert as_class.train.texts == plain.train.texts + both.out_of_scope_training.texts
    assert as_class.train.labels[-4:] == ["out_of_scope"] * 4
    assert as_class.out_of_scope == both.out_of_scope
    assert (as_class.validation, as_class.test) == (plain.validation, plain.test)
    assert "out of scope: 7 rows" in as_class.notes[-1]


def test_out_of_scope_rows_that_cannot_be_used_are_an_error(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A label of that name would be mixed with the class; a class needs a row to train and one to measure."""
    path = tmp_path / "other.csv"
    path.write_text("text\nweather\n")
    with pytest.raises(DataError, match=r"a class needs 2 rows or more.*data.out_of_scope_use=threshold"):
        load_dataset(make_experiment(data__out_of_scope=str(path)))
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("label,text\n" + "out_of_scope,a\nb,c\n" * 20)
    with pytest.raises(DataError, match=r"has the label 'out_of_scope'; name the file"):
        load_dataset(make_experiment(data__train=str(labelled), data__out_of_scope=str(path)))
    experiment = make_experiment(data__validation=str(labelled), data__out_of_scope=str(path))
    with pytest.raises(DataError, match=r"labelled\.csv: has the label 'out_of_scope'"):
        load_dataset(experiment, known_labels=["b", "out_of_scope"])


@pytest.mark.parametrize("num_files", [1, 2])
def test_rows_of_merged_parts_keep_their_files_and_lines(
    make_experiment: Callable[..., Experiment], toy_csv: Path, tmp_path: Path, num_files: int
) -> None:
    """Of the class of out-of-scope texts, and of the validation part in the refit of a search."""
    for name in ("other.csv", "more.csv"):
        (tmp_path / name).write_text("text\n" + "".join(f"weather {number} {name}\n" for number in range(6)))
    copy = tmp_path / "copy.csv"
    copy.write_text(toy_csv.read_text())
    experiment = make_experiment(
        data__train=[str(toy_csv), str(copy)][:num_files], data__out_of_scope_use="class",
        data__out_of_scope=[str(tmp_path / name) for name in ("other.csv", "more.csv")][:num_files],
    )  # fmt: skip
    dataset = load_dataset(experiment)
    train = merge_validation(dataset).train
    assert len(train) == len(dataset.train) + len(dataset.validation)
    files = set()
    for index, text in enumerate(train.texts):
        path, line = train.describe_position(index).rsplit(", line ", 1)
        files.add(Path(path).name)
        assert text in Path(path).read_text().splitlines()[int(line) - 1]
    assert files == {toy_csv.name, "other.csv", "copy.csv", "more.csv"} if num_files == 2 else len(files) == 2
    selected = train.select([len(train) - 1])
    assert selected.describe_position(0) == dataset.validation.describe_position(len(dataset.validation) - 1)
