"""Settings without effect are an error, or a note."""

from pathlib import Path

import pytest

from jobs.config import experiment as experiment_module
from jobs.config.conflicts import check_fold_settings, check_settings, drop_ineffective_settings
from jobs.config.experiment import Experiment, ExperimentError, load_experiment


def test_settings_that_no_checkpoint_can_hold_are_an_error_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_settings(Experiment(), {"rand"}) == []
    monkeypatch.setattr(experiment_module, "MAX_YAML_BYTES", 500)
    with pytest.raises(ExperimentError, match=r"have \d,\d{3} bytes as YAML, of which a checkpoint can hold 500"):
        check_settings(Experiment(), {"rand"})


@pytest.mark.parametrize(
    "settings",
    [
        {"train.vectors_learning_rate": 1e-4},
        {"train.vectors_pull": 0.1},
        {"train.frozen_epochs": 1},
        {"model.trained_words": "out-of-vocabulary"},
    ],
)
def test_fine_tuning_settings_need_trained_vectors(settings: dict[str, object]) -> None:
    """The error names the setting and the embedding; one kind of embedding that has the setting is enough."""
    experiment = Experiment().replace(settings)
    with pytest.raises(ExperimentError, match=rf"{next(iter(settings))} has no effect with model.embedding=static"):
        check_settings(experiment, {"static"})
    assert check_settings(experiment, {"static", "non-static"}) == []


def test_out_of_vocabulary_training_needs_pretrained_vectors() -> None:
    with pytest.raises(ExperimentError, match="no word has a pretrained vector"):
        check_settings(Experiment().replace({"model.trained_words": "out-of-vocabulary"}), {"rand"})


def test_a_searched_setting_must_apply_to_a_searched_embedding() -> None:
    with pytest.raises(ExperimentError, match=r"train.vectors_pull has no effect"):
        check_settings(Experiment(), {"static"}, {"train.vectors_pull": [0.0, 1.0]})
    assert check_settings(Experiment(), {"rand"}, {"train.vectors_pull": [0.0, 1.0]}) == []


def test_all_epochs_frozen_is_an_error() -> None:
    """A run has train.epochs, a trial tune.epochs unless train.epochs is searched."""
    experiment = Experiment().replace({"train.frozen_epochs": 8, "train.epochs": 20, "tune.epochs": 8})
    assert check_settings(experiment, {"non-static"}) == []
    with pytest.raises(ExperimentError, match=r"frozen_epochs=8 of 8 epochs .* set model.embedding=static"):
        check_settings(experiment, {"non-static"}, {"model.dropout": [0.1, 0.5]})
    assert check_settings(experiment, {"non-static"}, {"train.frozen_epochs": [0, 7]}) == []
    with pytest.raises(ExperimentError, match=r"frozen_epochs=9 of 8 epochs"):
        check_settings(experiment, {"non-static"}, {"train.frozen_epochs": [0, 9]})
    assert check_settings(experiment, {"non-static"}, {"train.epochs": [4, 16]}) == []
    with pytest.raises(ExperimentError, match=r"frozen_epochs=20 of 20 epochs"):
        check_settings(experiment.replace({"train.frozen_epochs": 20, "tune.epochs": None}), {"rand"}, {"seed": [0]})


def test_ineffective_vector_settings_are_noted() -> None:
    """A path without a reader, and settings of files without a path."""
    path = {"vectors.path": "v.bin"}
    assert check_settings(Experiment().replace(path), {"rand"}) == [
        "vectors.path is not read with model.embedding=rand"
    ]
    assert check_settings(Experiment().replace({"vectors.allow_pickle": True}), {"static"}) == [
        "vectors.allow_pickle has no effect: no file is read: vectors.path is not set"
    ]


def test_settings_of_pretraining_are_noted_if_they_are_on_the_command_line(tmp_path: Path, messages: list[str]) -> None:
    """In a file they are for a run without `vectors.path`, so a run with it logs nothing about them."""
    file = tmp_path / "experiment.yaml"
    file.write_text("vectors: {epochs: 50, min_count: 1}")
    experiment = load_experiment(str(file), ["vectors.path=v.bin"])
    assert check_settings(experiment, {"static"}) == []
    load_experiment(str(file), ["vectors.window=3", "seed=1"])  # the vectors are trained
    assert messages == []
    load_experiment(str(file), ["vectors.window=3", "vectors.path=v.bin", "vectors.norm=1"])
    assert messages == ["vectors.window has no effect: the vectors are read from vectors.path, not trained here"]


def test_settings_without_effect_in_a_cross_validation() -> None:
    """A test file is an error; workers, GPUs and trackers are noted, the shares of parts are not: `train` has them."""
    with pytest.raises(ExperimentError, match=r"draws a test part for each fold; remove data.test"):
        check_fold_settings(Experiment().replace({"data.test": "x.csv"}))
    assert check_fold_settings(Experiment().replace({"data.validation": "x.csv", "data.test_share": 0.3})) == []
    for settings in ({"train.workers": 2}, {"train.workers": [1, 2]}, {"train.use_gpu": True}):
        [note] = check_fold_settings(Experiment().replace(settings))
        assert note.startswith("train.workers and train.use_gpu have no effect")
    notes = check_fold_settings(Experiment().replace({"mlflow": "http://127.0.0.1:5000", "wandb": "tickets"}))
    assert notes == [f"{key} has no effect in a cross-validation: nothing is logged" for key in ("mlflow", "wandb")]


def test_a_column_of_weights_needs_files_and_is_no_other_column() -> None:
    with pytest.raises(ExperimentError, match=r"data.weight_column has no effect without data.train"):
        check_settings(Experiment().replace({"data.weight_column": "weight"}), {"rand"})
    for other in ("text", "label"):
        experiment = Experiment().replace({"data.train": "a.csv", "data.weight_column": other})
        with pytest.raises(ExperimentError, match=f"data.weight_column and data.{other}_column are both '{other}'"):
            check_settings(experiment, {"rand"})


def test_settings_that_a_search_chose_can_be_trained() -> None:
    """Settings that do not apply to the embedding are reset, others do not change."""
    static = Experiment().replace({"model.embedding": "static", "train.vectors_pull": 0.1, "model.dropout": 0.2})
    assert check_settings(drop_ineffective_settings(static), {"static"}) == []
    assert drop_ineffective_settings(static).model.dropout == 0.2
    trained = static.replace({"model.embedding": "non-static"})
    assert drop_ineffective_settings(trained) == trained
    none = Experiment().replace({"model.linear": "none"})
    alone = none.replace({"train.linear_weight": 2.0, "train.linear_weight_growth": 0.5})
    assert drop_ineffective_settings(alone) == none
    linear = alone.replace({"model.linear": "words-and-pairs"})
    assert drop_ineffective_settings(linear) == linear


def test_the_use_of_out_of_scope_texts_needs_such_texts_and_one_set_of_weights() -> None:
    """Weights of labels fit one of the two trainings of `auto` only; a cross-validation measures no abstention."""
    with pytest.raises(ExperimentError, match=r"data.out_of_scope_use has no effect without data.out_of_scope"):
        check_settings(Experiment().replace({"data.out_of_scope_use": "class"}), {"rand"})
    weighted = Experiment().replace({"data.out_of_scope": "oos.csv", "train.class_weights": {"a": 1, "b": 2}})
    with pytest.raises(ExperimentError, match=r"train.class_weights has the weights of one of the two"):
        check_settings(weighted, {"rand"})
    assert check_settings(weighted.replace({"data.out_of_scope_use": "threshold"}), {"rand"}) == []
    fixed = Experiment().replace({"data.out_of_scope": "oos.csv", "train.abstention_thresholds": {"retention": 0.5}})
    with pytest.raises(ExperimentError, match=r"train.abstention_thresholds sets them"):
        check_settings(fixed, {"rand"})
    assert check_settings(fixed.replace({"data.out_of_scope_use": "threshold"}), {"rand"}) == []
    [note] = check_fold_settings(weighted)
    assert note.startswith("data.out_of_scope has no effect in a cross-validation")


def test_settings_of_a_linear_classifier_need_one() -> None:
    """A search may choose whether there is one."""
    none = Experiment().replace({"model.linear": "none"})
    experiment = none.replace({"train.linear_weight": 0.5})
    with pytest.raises(ExperimentError, match=r"train.linear_weight has no effect with model.linear=none"):
        check_settings(experiment, {"rand"})
    with pytest.raises(ExperimentError, match=r"train.linear_weight has no effect"):
        check_settings(none, {"rand"}, {"train.linear_weight": [0.1, 1.0]})
    growth = Experiment().replace({"train.linear_weight_growth": 0.5})
    with pytest.raises(ExperimentError, match=r"train.linear_weight_growth has no effect without train.linear_weight"):
        check_settings(growth, {"rand"})
    assert check_settings(growth, {"rand"}, {"train.linear_weight": [0.1, 1.0]}) == []
    linear = {"model.linear": "words-and-pairs"}
    assert check_settings(experiment.replace(linear), {"rand"}) == []
    assert check_settings(experiment, {"rand"}, {"model.linear": ["none", "words-and-pairs"]}) == []
