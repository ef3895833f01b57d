"""Settings that mean nothing beside others are refused, or passed over with a note."""

import pytest

from jobs.config.conflicts import check_settings, drop_ineffective_settings
from jobs.config.experiment import Experiment, ExperimentError


@pytest.mark.parametrize(
    "settings",
    [
        {"train.vectors_learning_rate": 1e-4},
        {"train.vectors_pull": 0.1},
        {"train.frozen_epochs": 1},
        {"model.trained_words": "out-of-vocabulary"},
    ],
)
def test_ways_to_fine_tune_need_vectors_that_are_trained(settings: dict[str, object]) -> None:
    """The message names the setting and the embedding; with a kind that has them all is well."""
    experiment = Experiment().replace(settings)
    with pytest.raises(ExperimentError, match=rf"{next(iter(settings))} has no effect with model.embedding=static"):
        check_settings(experiment, {"static"})
    assert check_settings(experiment, {"static", "non-static"}) == []


def test_random_vectors_are_all_out_of_vocabulary() -> None:
    """So training only those words means nothing."""
    with pytest.raises(ExperimentError, match="no word has a pretrained vector"):
        check_settings(Experiment().replace({"model.trained_words": "out-of-vocabulary"}), {"rand"})


def test_a_search_for_nothing_is_refused() -> None:
    """Where no kind that is searched has the setting."""
    with pytest.raises(ExperimentError, match=r"train.vectors_pull has no effect"):
        check_settings(Experiment(), {"static"}, {"train.vectors_pull": [0.0, 1.0]})


def test_freezing_all_epochs_is_static() -> None:
    """For a run its own epochs count, for a search those of its trials."""
    experiment = Experiment().replace({"train.frozen_epochs": 8, "train.epochs": 20, "tune.epochs": 8})
    assert check_settings(experiment, {"non-static"}) == []
    with pytest.raises(ExperimentError, match=r"frozen_epochs=8 of 8 epochs .* model.embedding=static is that"):
        check_settings(experiment, {"non-static"}, {"model.dropout": [0.1, 0.5]})
    assert check_settings(experiment, {"non-static"}, {"train.frozen_epochs": [0, 7]}) == []
    with pytest.raises(ExperimentError, match=r"frozen_epochs=9 of 8 epochs"):
        check_settings(experiment, {"non-static"}, {"train.frozen_epochs": [0, 9]})


def test_folds_draw_their_own_test_parts() -> None:
    """A test file beside them would not be read."""
    with pytest.raises(ExperimentError, match=r"leave data.test away"):
        check_settings(Experiment().replace({"train.folds": 5, "data.test": "x.csv"}), {"rand"})


def test_folds_pass_over_workers_and_shares() -> None:
    """And a search passes over folds."""
    experiment = Experiment().replace({"train.folds": 5, "train.workers": 2, "data.test_share": 0.3})
    assert [note.split(" has ")[0].split(" have ")[0] for note in check_settings(experiment, {"static"})] == [
        "train.workers and train.use_gpu",
        "data.test_share",
    ]
    assert "not for a search" in check_settings(experiment, {"static"}, {"model.dropout": [0.1, 0.5]})[0]


def test_what_is_passed_over_is_said() -> None:
    """Settings of vectors that are read, for those that are trained, and the other way round."""
    path = {"vectors.path": "v.bin"}
    assert check_settings(Experiment().replace(path), {"rand"}) == [
        "vectors.path is not read with model.embedding=rand"
    ]
    assert check_settings(Experiment().replace(path | {"vectors.window": 3}), {"static"}) == [
        "vectors.window has no effect: the vectors are read from vectors.path, not trained here"
    ]
    assert check_settings(Experiment().replace({"vectors.allow_pickle": True}), {"static"}) == [
        "vectors.allow_pickle has no effect: no file is read: vectors.path is not set"
    ]


def test_what_a_search_found_can_be_trained() -> None:
    """Settings that its embedding does not have are dropped, others stay."""
    found = Experiment().replace({"model.embedding": "static", "train.vectors_pull": 0.1, "model.dropout": 0.2})
    assert check_settings(drop_ineffective_settings(found), {"static"}) == []
    assert drop_ineffective_settings(found).model.dropout == 0.2
    kept = found.replace({"model.embedding": "non-static"})
    assert drop_ineffective_settings(kept) == kept
    assert drop_ineffective_settings(kept.replace({"train.folds": 3})) == kept
