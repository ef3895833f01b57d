"""What a search found: which settings matter, and whether fine-tuning pays, no surer than the seeds allow."""

import csv
import io

import numpy as np
import pytest

from jobs.search.analysis import (
    EmbeddingResult,
    compare_embeddings,
    compute_axis_positions,
    compute_importances,
    format_trials_csv,
    summarize_fine_tuning,
)
from jobs.search.records import TrialRecord
from jobs.search.space import Dimension, parse_space
from tests.support.trial_records import EXPERIMENT, record, records


def test_the_setting_that_matters_comes_first_and_one_without_effect_last() -> None:
    """A conditional one is measured where it was varied."""
    found = compute_importances(EXPERIMENT, parse_space(EXPERIMENT), [*records(60), record(61, {}, None)])
    assert next(iter(found)) == "model.dropout"
    assert found["model.dropout"] > 0.5
    assert found["model.feature_maps"] < 0.05
    assert found["train.vectors_learning_rate"] > 0.02


def test_few_trials_tell_nothing_about_what_matters() -> None:
    """Nor do those that are all alike."""
    space = parse_space(EXPERIMENT)
    assert compute_importances(EXPERIMENT, space, records(3)) == {}
    same = [record(number, {**records(1)[0].settings, "model.embedding": "static"}, 0.5) for number in range(1, 9)]
    assert set(compute_importances(EXPERIMENT, space, same).values()) == {0.0}


def kind(name: str, *values: float) -> EmbeddingResult:
    return EmbeddingResult(name, 1, record(1, {"model.embedding": name}, values[0]), dict(enumerate(values)))


@pytest.mark.parametrize(
    ("static", "tuned", "said"),
    [
        ((0.80, 0.81, 0.80, 0.81), (0.84, 0.85, 0.84, 0.84), r"^Fine-tuning the vectors pays: .*\+0\.03"),
        ((0.84, 0.85, 0.84, 0.84), (0.80, 0.81, 0.80, 0.81), r"^Fine-tuning the vectors does not pay: .*-0\.03"),
        ((0.80, 0.84, 0.79, 0.83), (0.82, 0.81, 0.83, 0.80), r"^Whether fine-tuning the vectors pays is not clear"),
        ((0.80, 0.81), (0.82, 0.825), r"^Whether fine-tuning the vectors pays is not clear"),
        ((0.80,), (0.9,), r"from a single seed each"),
    ],
)
def test_fine_tuning_pays_where_the_seeds_agree(static: tuple, tuned: tuple, said: str) -> None:
    """Two seeds hardly ever do."""
    import re

    found = summarize_fine_tuning(EXPERIMENT, [kind("non-static", *tuned), kind("static", *static)])
    assert re.search(said, found), found


def test_the_better_of_the_tuned_kinds_is_compared_and_less_may_be_better() -> None:
    """By its mean; without both sides nothing is said."""
    rivals = [kind("static", 0.8, 0.8), kind("non-static", 0.7, 0.71), kind("multichannel", 0.9, 0.91)]
    assert "multichannel accuracy 0.9050" in summarize_fine_tuning(EXPERIMENT, rivals)
    assert "non-static loss 0.7050" in summarize_fine_tuning(EXPERIMENT.replace({"tune.metric": "loss"}), rivals)
    assert "was not asked" in summarize_fine_tuning(EXPERIMENT, rivals[:1])


def test_kinds_stand_side_by_side_with_their_best_settings_over_the_seeds() -> None:
    """A kind whose trials all failed is not there."""
    ended = [
        record(1, {"model.embedding": "static"}, 0.7),
        record(2, {"model.embedding": "non-static"}, 0.8),
        record(3, {"model.embedding": "static"}, 0.75),
        record(4, {"model.embedding": "multichannel"}, None),
    ]
    repeated = [record(n, {"model.embedding": "static", "seed": n}, 0.7 + n / 100) for n in (0, 1)]
    first, second = compare_embeddings(EXPERIMENT, ended, repeated)
    assert (first.embedding, first.num_trials, first.values_by_seed, first.std) == ("non-static", 1, {0: 0.8}, None)
    assert (second.embedding, second.num_trials, second.best_record.number) == ("static", 2, 3)
    assert second.values_by_seed == {0: 0.7, 1: 0.71}
    assert second.mean == pytest.approx(0.705)


def test_the_table_has_every_trial_with_the_settings_it_was_trained_with() -> None:
    """Also those that were not varied in it, and the reason of one that failed."""
    ended = [
        record(2, {"model.embedding": "static", "model.dropout": 0.1, "model.feature_maps": 50}, 0.8),
        TrialRecord(1, {"model.embedding": "non-static"}, "failed", "out of memory"),
    ]
    rows = list(csv.DictReader(io.StringIO(format_trials_csv(EXPERIMENT, parse_space(EXPERIMENT), ended))))
    assert [row["trial"] for row in rows] == ["1", "2"]
    assert (rows[0]["reason"], rows[0]["accuracy"]) == ("out of memory", "")
    assert (rows[1]["model.dropout"], rows[1]["accuracy"], rows[1]["best_epoch"]) == ("0.1", "0.8", "1")


def test_values_stand_in_their_order_on_an_axis() -> None:
    """Evenly where they are listed, by the logarithm where they were drawn so."""
    at, marks = compute_axis_positions(Dimension("x", "choice", ["a", [1, 2], 3]), [3, "a", None, [1, 2]])
    np.testing.assert_allclose(at, [1, 0, np.nan, 0.5])
    assert [name for _, name in marks] == ["a", "[1, 2]", "3"]
    at, marks = compute_axis_positions(Dimension("x", "loguniform", [1e-4, 1e-2]), [1e-3, 1e-4])
    np.testing.assert_allclose(at, [0.5, 0.0])
    assert [name for _, name in marks] == ["0.0001", "0.001", "0.01"]
