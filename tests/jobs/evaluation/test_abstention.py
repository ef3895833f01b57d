"""Abstention: thresholds that hold for new rows, the risk-coverage curve, and its report."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jobs.config.abstention import OUT_OF_SCOPE, AbstentionRule
from jobs.config.settings import TrainSettings
from jobs.evaluation.abstention import (
    compute_auroc,
    compute_risk_coverage,
    draw_risk_coverage,
    measure_abstention,
    select_balanced_threshold,
    select_precision_threshold,
    select_retention_threshold,
    select_thresholds,
    write_abstention,
)
from tests.support.checkpoints import checkpoint_of

SIMULATIONS = 2000


@pytest.mark.parametrize("rows", [19, 30, 100])
@pytest.mark.parametrize("retention", [0.8, 0.95])
def test_new_rows_reach_the_threshold_of_retention_on_average(rows: int, retention: float) -> None:
    """Scores are uniform, so a threshold t is reached by 1 - t of all rows; the mean share is at least the target."""
    random = np.random.default_rng(0)
    thresholds = [select_retention_threshold(random.random(rows), retention) for _ in range(SIMULATIONS)]
    assert 1 - np.mean(thresholds) >= retention - 0.003
    assert 1 - np.mean(thresholds) <= retention + 1.1 / rows  # and not much more careful than that


def test_too_few_rows_for_a_retention_reject_nothing() -> None:
    assert select_retention_threshold(np.linspace(0.5, 1, 18), 0.95) == 0
    assert select_retention_threshold(np.linspace(0.5, 1, 19), 0.95) == 0.5
    assert select_retention_threshold(np.empty(0), 0.95) == 0


@pytest.mark.parametrize("rows", [30, 200])
def test_labels_of_new_rows_that_reach_the_threshold_have_the_precision_on_average(rows: int) -> None:
    """A row with score s is correct with probability s; so above t, (1 + t) / 2 are. Without the added wrong row the
    thresholds of 30 rows would be too low."""
    random = np.random.default_rng(0)
    risks = []
    for _ in range(SIMULATIONS):
        scores = random.random(rows)
        threshold = select_precision_threshold(scores, random.random(rows) < scores, 0.8)
        risks.append(0 if threshold is None else (1 - threshold) / 2)
    assert np.mean(risks) <= 0.2


def test_the_precision_of_few_rows_cannot_be_shown() -> None:
    """19 correct rows do not show 95 %; 20 do, and then every row has a label. A lower score of a wrong row counts."""
    scores = np.linspace(0.3, 0.9, 20)
    assert select_precision_threshold(scores[:19], np.ones(19, bool), 0.95) is None
    assert select_precision_threshold(scores, np.ones(20, bool), 0.95) == 0
    with_wrong = np.append(scores, 0.1), np.append(np.ones(20, bool), False)
    assert select_precision_threshold(*with_wrong, 0.95) == 0.3
    assert select_precision_threshold(scores, np.zeros(20, bool), 0.5) is None


def test_the_balanced_threshold_separates_both_kinds() -> None:
    """It is between the scores of both kinds; wrong rows in scope count for neither side."""
    threshold, share = select_balanced_threshold(np.array([0.5, 0.7]), np.ones(2, bool), np.array([0.1, 0.3]))
    assert (threshold, share) == (pytest.approx(0.4), 1)
    threshold, share = select_balanced_threshold(np.array([0.2, 0.7]), np.array([False, True]), np.array([0.1, 0.3]))
    assert (threshold, share) == (pytest.approx(0.5), 0.75)
    assert select_balanced_threshold(np.array([0.9]), np.ones(1, bool), np.array([1.0]))[0] < 0.9


def test_auroc_is_that_of_scikit_learn() -> None:
    """Also with equal scores."""
    random = np.random.default_rng(0)
    scores, others = random.integers(0, 9, 300) / 9, random.integers(0, 6, 50) / 9
    kinds = np.repeat([1, 0], [300, 50])
    assert compute_auroc(scores, others) == pytest.approx(roc_auc_score(kinds, np.concatenate([scores, others])))


def test_the_risk_curve_is_that_of_every_threshold() -> None:
    """Rows with equal scores are answered together."""
    scores, correct = np.array([0.5, 0.9, 0.7, 0.7]), np.array([False, True, False, True])
    curve = compute_risk_coverage(scores, correct)
    assert curve.thresholds.tolist() == [0.9, 0.7, 0.5]
    for threshold, coverage, risk in zip(curve.thresholds, curve.coverage, curve.risk, strict=True):
        answered = scores >= threshold
        assert (coverage, risk) == (answered.mean(), pytest.approx((~correct[answered]).mean()))


def test_the_area_under_the_risk_coverage_curve_is_the_mean_risk() -> None:
    """Rows with equal scores are answered together, so their order does not matter."""
    curve = compute_risk_coverage(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3])
    assert curve.area == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert curve.at(0.75) == pytest.approx((2 / 3, 1 / 2))
    assert curve.at(0.95) == (0, None)
    for correct in ([True, False], [False, True]):
        tied = compute_risk_coverage(np.array([0.5, 0.5]), np.array(correct))
        assert (tied.coverage.tolist(), tied.risk.tolist(), tied.area) == ([1], [0.5], 0.5)


def test_thresholds_of_a_checkpoint() -> None:
    """Out-of-scope rows are wrong rows of the precision; the class of such rows is never a label in scope."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200)
    logits = np.zeros((200, 3))
    logits[np.arange(200), labels] = random.uniform(2, 5, 200)
    others = random.uniform(0, 3, (50, 3))
    settings = TrainSettings()
    plain = select_thresholds(logits, labels, 1.0, settings, ["a", "b", "c"], None)
    assert (list(plain), list(plain["thresholds"])) == (["rows", "thresholds"], ["retention", "precision"])
    assert plain["thresholds"]["precision"] == 0
    with_others = select_thresholds(logits, labels, 1.0, settings, ["a", "b", "c"], others)
    assert with_others["thresholds"]["precision"] > 0
    assert with_others["thresholds"]["retention"] == plain["thresholds"]["retention"]
    assert with_others["out_of_scope_rows"] == 50
    as_class = select_thresholds(logits, labels, 1.0, settings, ["a", "b", OUT_OF_SCOPE], others)
    assert as_class["out_of_scope"] == 2
    assert as_class["auroc"] > with_others["auroc"]  # the third score is not one of a class in scope
    chosen = TrainSettings(abstention_thresholds={"precision": 0.7})
    fixed = select_thresholds(logits[:0], labels[:0], 1.0, chosen, ["a", "b", OUT_OF_SCOPE], others)
    assert fixed == {"out_of_scope": 2, "thresholds": {"precision": 0.7}}
    # Higher temperatures lower the scores, and with them the thresholds.
    warm = select_thresholds(logits, labels, 3.0, settings, ["a", "b", "c"], None)["thresholds"]["retention"]
    assert warm < plain["thresholds"]["retention"]


def test_the_report_has_the_curve_and_the_thresholds(tmp_path: Path, messages: list[str]) -> None:
    abstention = {"thresholds": {"retention": 0.6, "precision": None, "balanced": 0.99}, "out_of_scope": 2}
    checkpoint = replace(checkpoint_of("rand"), metrics={"epoch": 1, "abstention": abstention})
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.7, 0.2, 0.1], [0.3, 0.5, 0.2]])
    text = "\n".join(write_abstention(tmp_path, measure_abstention(checkpoint, labels, probabilities), "tickets"))
    values = json.loads((tmp_path / "abstention.json").read_text())
    assert values["risk_coverage_area"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert values["risk_coverage"]["thresholds"] == pytest.approx([0.8, 0.7, 0.5, 0.2])
    assert values["objectives"][0] == {
        "objective": "retention",
        "threshold": 0.6,
        "coverage": 0.5,
        "precision": pytest.approx(0.5),
    }
    assert [row["objective"] for row in values["objectives"]] == ["retention", "balanced"]
    assert values["objectives"][1]["precision"] is None  # no row reaches it
    assert "retention" in text
    assert (tmp_path / "risk-coverage.png").stat().st_size > 1000
    assert any("area under the risk-coverage curve 0.2708" in message for message in messages)
    figure = draw_risk_coverage(measure_abstention(checkpoint, labels, probabilities), "tickets")
    assert len(figure.axes[0].lines) == 3  # curve, risk of all rows, one threshold


def test_a_rule_selects_the_best_class_in_scope() -> None:
    probabilities = np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    classes, scores = AbstentionRule(0.15, out_of_scope=1).apply(probabilities)
    assert classes.tolist() == [0, 0, -1]
    assert scores.tolist() == [0.2, 0.6, 0.1]
    assert AbstentionRule(0.7).apply(probabilities)[0].tolist() == [1, -1, 1]
    assert probabilities[0, 1] == 0.7  # unchanged
