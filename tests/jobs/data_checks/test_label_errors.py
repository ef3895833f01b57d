"""Suspicious labels: folds, out-of-fold probabilities, and the rows that are checked."""

import re
from collections.abc import Collection

import numpy as np
import pytest

from jobs.config.settings import TextSettings
from jobs.data_checks.findings import Severity
from jobs.data_checks.label_errors import (
    LABELS,
    NUM_FOLDS,
    assign_folds,
    check_labels,
    predict_held_out,
    vectorize_terms,
)
from jobs.data_checks.page import render_data_check
from jobs.data_checks.rows import collect_rows
from jobs.datasets.dataset import Dataset
from jobs.datasets.readers import Split
from jobs.datasets.text_checks import find_first_copies
from tests.support.data_checks import make_rows
from tests.support.label_sets import make_label_set_rows
from tests.support.toy_data import make_toy_rows


def toy(count: int, seed: int = 0, changed: Collection[int] = ()) -> list[tuple[str, str]]:
    """Return toy rows, those at some indices with the other label."""
    other = {"good": "bad", "bad": "good"}
    rows = enumerate(make_toy_rows(count, seed))
    return [(text, other[label] if index in changed else label) for index, (label, text) in rows]


def test_each_class_is_divided_evenly_and_groups_are_in_one_fold() -> None:
    labels = np.array([0] * 50 + [1] * 5 + [0] * 50)
    groups = np.arange(105)
    groups[60:70] = 3  # copies of the row 3
    folds = assign_folds(labels, groups, seed=1)
    assert len(set(folds[60:70])) == 1
    assert sorted(folds[50:55]) == list(range(NUM_FOLDS))
    alone = np.bincount(folds[np.setdiff1d(np.arange(105), np.arange(60, 70))])
    assert alone.max() - alone.min() <= 1
    assert (folds == assign_folds(labels, groups, seed=1)).all()
    assert (folds != assign_folds(labels, groups, seed=2)).any()


def test_a_row_is_predicted_by_a_model_that_was_not_trained_on_it() -> None:
    """A word that occurs in one row only, or only in copies of one row, says nothing about its label."""
    texts = [["alpha", f"w{number}"] for number in range(40)] + [["beta", f"w{number}"] for number in range(40)]
    labels = np.repeat([0, 1], 40)
    texts += [["unique"]] * 5
    labels = np.append(labels, [1] * 5)
    folds = assign_folds(labels, find_first_copies(texts), seed=0)
    probabilities = predict_held_out(vectorize_terms(texts), labels, folds, seed=0)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(85))
    assert (probabilities.argmax(axis=1) == labels)[:80].all()
    assert probabilities[80:, 1].max() < probabilities[40:80, 1].min()


def test_changed_labels_are_the_most_suspicious_rows() -> None:
    changed = set(range(3, 400, 20))
    rows = make_rows(toy(400, changed=changed), toy(40, 1))
    [finding] = check_labels(rows, find_first_copies(rows.tokens), seed=0)
    assert finding.name == LABELS
    found = [row.index for row in finding.rows]
    assert set(found[:10]) <= changed
    assert len(changed.intersection(found)) > 0.6 * len(changed)
    scores = [row.score or 0 for row in finding.rows]
    assert scores == sorted(scores, reverse=True)
    assert all(row.suggested and row.suggested != rows.labels[row.index] for row in finding.rows)


def test_the_finding_is_less_serious_if_the_model_is_poor() -> None:
    """Random labels: the model cannot agree with them."""
    generator = np.random.default_rng(0)
    train = [(f"w{number % 7} v{number % 11}", "xy"[generator.integers(2)]) for number in range(200)]
    rows = make_rows(train)
    [poor] = check_labels(rows, np.arange(200), seed=0)
    assert poor.severity == Severity.MEDIUM
    assert "most of the suspicious ones may be right" in poor.message
    good = make_rows(toy(400, changed=range(3, 400, 20)))
    assert check_labels(good, find_first_copies(good.tokens), seed=0)[0].severity == Severity.HIGH


def test_the_test_part_is_neither_checked_nor_used() -> None:
    """Other test rows change nothing, not even if all of them are wrong."""
    train, first, second = toy(200, changed=range(3, 200, 20)), toy(60, 1), [(text, "good") for text, _ in toy(30, 2)]
    results = []
    for test in ([], first, second):
        rows = make_rows(train, toy(20, 3), test)
        results.append(check_labels(rows, find_first_copies(rows.tokens), seed=0))
    assert results[0] == results[1] == results[2] != []
    assert all(row.index < 220 for row in results[1][0].rows)


def test_classes_with_few_rows_and_texts_without_words_are_left_out() -> None:
    train = [*toy(100), ("a rare thing", "rare"), ("", "good"), ("", "bad")]
    rows = make_rows(train)
    findings = check_labels(rows, find_first_copies(rows.tokens), seed=0)
    assert not {100, 101, 102} & {row.index for finding in findings for row in finding.rows}
    assert all(row.suggested != "rare" for finding in findings for row in finding.rows)
    rare = make_rows([("a b", "x"), ("c d", "y"), ("e", "z")])
    assert check_labels(rare, find_first_copies(rare.tokens), seed=0) == []


def test_labels_that_are_wrong_or_missing_are_found_among_several() -> None:
    """Those of a row are suggested together; the test part is neither checked nor used."""
    rows = make_label_set_rows(400)
    changed = {index: rows[index][0] for index in range(3, 400, 20)}
    noisy = [
        (tuple(sorted({*own} ^ {"sound"})) if index in changed else own, text) for index, (own, text) in enumerate(rows)
    ]
    splits = []
    for part in (noisy, noisy[:40], [((), text) for _, text in noisy]):
        sets = [own for own, _ in part]
        splits.append(Split([text for _, text in part], list(map(", ".join, sets)), "x", label_sets=sets))
    checked = collect_rows(Dataset(*splits, ["price", "sight", "sound"], []), TextSettings())
    [finding] = check_labels(checked, find_first_copies(checked.tokens), seed=0)
    found = [row for row in finding.rows if row.index < 400]
    assert {row.index for row in found[:10]} <= set(changed)
    assert len(set(changed).intersection(row.index for row in found)) >= 0.8 * len(changed)
    assert all(row.index < 440 for row in finding.rows)
    row = found[0]
    assert (row.suggested, row.labels) == (", ".join(changed[row.index]), ["sound"])
    is_missing = "sound" in changed[row.index]
    assert ("'sound' is missing" in row.note) == is_missing
    assert "micro F1" in finding.message
    page = render_data_check("x", checked, [finding], "rows.csv")
    suspicious = sum("sound" in row.labels for row in finding.rows)
    assert re.search(rf"<bdi>sound</bdi></td>.*?<td class=\"number\">{suspicious}</td><td class=\"bar", page)


def test_a_label_that_no_model_finds_is_not_judged() -> None:
    """Otherwise nearly every row that has it would be suspicious, or every row that lacks it."""
    rows = make_label_set_rows(400)
    choose = np.random.default_rng(0)
    sets = [tuple(sorted({*own, *(["chance"] if choose.random() < 0.1 else [])})) for own, _ in rows]
    train = Split([text for _, text in rows], list(map(", ".join, sets)), "x", label_sets=sets)
    none = Split([], [], "x", label_sets=[])
    checked = collect_rows(Dataset(train, none, none, sorted(train.distinct_labels()), []), TextSettings())
    findings = check_labels(checked, find_first_copies(checked.tokens), seed=0)
    assert not any("chance" in row.labels for finding in findings for row in finding.rows)


def test_the_micro_f1_is_that_of_the_labels_with_a_model() -> None:
    """A label that only copies of one text have does not lower it."""
    rows = make_label_set_rows(400)
    changed = [(tuple(sorted({*own} ^ {"sound"})) if index % 20 == 3 else own, text)
               for index, (own, text) in enumerate(rows)]  # fmt: skip

    def measure(part: list[tuple[tuple[str, ...], str]]) -> str:
        sets = [own for own, _ in part]
        train = Split([text for _, text in part], list(map(", ".join, sets)), "x", label_sets=sets)
        none = Split([], [], "x", label_sets=[])
        labels = sorted(train.distinct_labels())
        checked = collect_rows(Dataset(train, none, none, labels, []), TextSettings())
        [finding] = check_labels(checked, find_first_copies(checked.tokens), seed=0)
        return re.search(r"micro F1 on all labels is (\d+)%", finding.message)[1]  # type: ignore[index]

    alone = int(measure(changed))
    assert abs(int(measure(changed + [(("copied",), "always the same")] * 300)) - alone) <= 3


@pytest.mark.parametrize("others", [0, 30])
def test_a_class_of_copies_of_one_text_is_left_out(others: int) -> None:
    """A model that was not trained on the copies would not know it."""
    train = [(f"sound w{number}", "a") for number in range(60)] + [("always the same", "b")] * 12
    rows = make_rows(train + [(f"sight v{number}", "c") for number in range(others)])
    assert check_labels(rows, find_first_copies(rows.tokens), seed=0) == []


def test_labels_that_only_copies_of_one_text_lack_are_not_checked() -> None:
    """A model that was not trained on the copies would know no row without the label."""
    kinds = (("a",), "music"), (("a", "b"), "sound")
    rows = [(own, f"{word} w{number}") for number in range(30) for own, word in kinds]
    rows += [(("b",), "always the same")] * 12
    sets = [own for own, _ in rows]
    train = Split([text for _, text in rows], list(map(", ".join, sets)), "x", label_sets=sets)
    none = Split([], [], "x", label_sets=[])
    checked = collect_rows(Dataset(train, none, none, ["a", "b"], []), TextSettings())
    findings = check_labels(checked, find_first_copies(checked.tokens), seed=0)
    assert not any("a" in row.labels for finding in findings for row in finding.rows)


def test_texts_without_common_words_can_be_checked() -> None:
    rows = make_rows([(f"text{number}", "xy"[number % 2]) for number in range(20)])
    check_labels(rows, find_first_copies(rows.tokens), seed=0)


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_many_texts_without_a_common_word_are_a_finding(is_multi_label: bool) -> None:
    """Such as identifiers, which are read if the column of the texts is another one."""
    names = ["xy"[number % 2] for number in range(2000)]
    sets = [(name,) for name in names] if is_multi_label else None
    train = Split([f"id{number}" for number in range(2000)], names, "x", label_sets=sets)
    none = Split([], [], "x", label_sets=[] if is_multi_label else None)
    rows = collect_rows(Dataset(train, none, none, ["x", "y"], []), TextSettings())
    [finding] = check_labels(rows, find_first_copies(rows.tokens), seed=0)
    assert (finding.name, finding.severity, finding.rows) == (LABELS, Severity.HIGH, ())
    assert "no word is in two of 2,000 rows; is data.text_column the column of the texts?" in finding.message
    assert finding.message in render_data_check("x", rows, [finding], "rows.csv")
