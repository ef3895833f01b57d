"""Experiment files: defaults, overrides, and helpful errors."""

import re
from pathlib import Path

import pytest
import yaml

from cluster.package import REPOSITORY
from jobs.config.experiment import (
    SETTING_KEYS,
    Experiment,
    ExperimentError,
    apply_overrides,
    load_experiment,
)


def test_yaml_contains_all_settings_and_is_read_back(tmp_path: Path) -> None:
    """The output of `show` is an experiment file."""
    experiment = Experiment().replace(
        {"seed": 7, "data.train": "für.csv", "train.workers": [2, 8], "tune.epochs": None}
    )
    text = experiment.to_yaml()
    values = yaml.safe_load(text)
    for key in SETTING_KEYS:
        value = values
        for name in key.split("."):
            value = value[name]
    path = tmp_path / "all.yaml"
    path.write_text(text)
    assert load_experiment(str(path)) == experiment != Experiment()


def test_settings_override_the_file(tmp_path: Path) -> None:
    """A setting is a dotted path and a YAML value."""
    path = tmp_path / "my.yaml"
    path.write_text("model: {dropout: 0.1, feature_maps: 7}\ntrain: {use_gpu: true}")
    experiment = load_experiment(
        str(path), ["model.filter_widths=[2, 3]", "model.dropout=0.3", "data.train=a.csv", "train.use_gpu=null"]
    )
    assert experiment.model.filter_widths == [2, 3]
    assert experiment.model.dropout == 0.3
    assert experiment.model.feature_maps == 7
    assert experiment.data.train == "a.csv"
    assert experiment.train.use_gpu is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x.csv", "x"),
        ("data/My tickets.TSV.GZ", "My-tickets"),
        ("s3://bucket/a/größe.jsonl?endpoint_override=h", "gr-e"),
        ("data/trec/", "trec"),
        ("a.b.parquet", "a.b"),
        ("[data/first.csv, second.csv]", "first"),
        ("data/*.csv", "experiment"),
    ],
)
def test_an_experiment_without_a_name_is_named_after_its_texts(tmp_path: Path, path: str, name: str) -> None:
    """In a file, or on the command line; so two files never share a folder of runs by accident."""
    file = tmp_path / "my.yaml"
    file.write_text(f"data: {{train: {path if path[0] == '[' else repr(path)}}}")
    assert load_experiment(str(file)).name == name
    assert load_experiment(None, [f"data.train={path}"]).name == name
    assert load_experiment(str(file), ["name=other"]).name == "other"
    assert load_experiment(None).name == "docstrings"
    assert apply_overrides(load_experiment(None, ["name=old"]), [f"data.train={path}"]).name == "old"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[a.csv, s3://b/c.csv?d=e]", ["a.csv", "s3://b/c.csv?d=e"]),
        ("['*.csv', 2]", None),
        ("[]", None),
        ("[ab]*.csv", "[ab]*.csv"),
        ("*.csv", "*.csv"),
        ("a: b.csv", "a: b.csv"),
    ],
)
def test_data_may_be_a_list_of_paths(tmp_path: Path, text: str, value: object) -> None:
    """In brackets on the command line, where other words are a path; or in the file."""
    for key in ("train", "validation", "test"):
        if value is None:
            with pytest.raises(ExperimentError, match=rf"data\.{key}: must be a path, or a list of paths"):
                load_experiment(None, [f"data.{key}={text}"])
            continue
        experiment = load_experiment(None, [f"data.{key}={text}"])
        assert getattr(experiment.data, key) == value
        (tmp_path / "x.yaml").write_text(experiment.to_yaml())
        assert load_experiment(str(tmp_path / "x.yaml")) == experiment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {dropuot: 0.3}", r"unknown key 'model.dropuot'; did you mean 'model.dropout'\?"),
        ("modle: {dropout: 0.3}", r"unknown key 'modle'; did you mean 'model'\?"),
        ("model: {embedding: nonstatic}", r"model.embedding: .*'non-static'.*given: 'nonstatic'"),
        ("model: {dropout: 1.5}", r"model.dropout: .*less than 1"),
        ("model: {filter_widths: []}", r"model.filter_widths"),
        ("model: {filter_widths: [3, 3]}", r"model.filter_widths: contains a width twice"),
        ("train: {batch_size: many}", r"train.batch_size: .*given: 'many'"),
        ("train: {workers: [3, 2]}", r"train.workers: must be a number of at least 1, or \[minimum, maximum\]"),
        ("train: {workers: 0}", r"train.workers: must be a number of at least 1"),
        ("name: ../else", r"name: .*given: '../else'"),
        ("a: [", r"not valid YAML"),
        ("- a", r"must contain keys and values, not a list"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ExperimentError, match=message) as error:
        load_experiment(str(path))
    assert "my.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.dropout", r"'model.dropout' is not a setting; write key=value"),
        ("name.x=1", r"name: Input should be a valid string"),
        ("model.dropout.x=1", r"model.dropout: Input should be a valid number"),
        ("model.nothing=1", r"unknown key 'model.nothing'"),
        ("zzzzzz=1", r"unknown key 'zzzzzz'; `finetune-cnn show` prints all keys"),
        ("model=[1", r"model: '\[1' is not a YAML value"),
        ("model.dropout=x", r"model.dropout: .*given: 'x'"),
        (
            "train.class_weights=equal",
            r"train.class_weights: must be balanced, or a weight for each label, as in .*equal",
        ),
        ("train.class_weights={}", r"train.class_weights: must be balanced, or a weight for each label"),
        ("train.class_weights={a: 1, b: 0}", r"train.class_weights: the weight of 'b' must be a number above 0, not 0"),
        ("train.class_weights={a: .inf}", r"the weight of 'a' must be a number above 0, not inf"),
        ("train.class_weights={a: true}", r"the weight of 'a' must be a number above 0, not True"),
        (
            "train.threshold_objective=macro_F1",
            r"train.threshold_objective: must be micro_f1, macro_f1, or a precision",
        ),
        ("train.thresholds=1", r"train.thresholds: must be a number above 0 and below 1, or one for each label"),
        ("train.thresholds={a: b}", r"the threshold of 'a' must be a number above 0 and below 1, not 'b'"),
        ("train.abstention_thresholds={a: 1}", r"train.abstention_thresholds.a: Input should be 'retention'"),
    ],
)
def test_an_invalid_setting_is_an_error(setting: str, message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        load_experiment(None, [setting])


@pytest.mark.parametrize("key", SETTING_KEYS)
def test_an_invalid_value_has_one_message(key: str) -> None:
    """Also of a setting with several types, of which pydantic reports each."""
    messages = []
    for value in ("x", "-1", "1.5", "true", "null", "[z]", "{z: 0.5}"):
        try:
            load_experiment(None, [f"{key}={value}"])
        except ExperimentError as error:
            messages.append(str(error))
    for message in messages:
        assert message.startswith("command line: ")
        assert f"; {key}" not in message
        assert not re.search(r"literal\[|dict\[|constrained|\[key\]", message)


def test_an_error_names_the_command_line_or_the_file(tmp_path: Path) -> None:
    """Whichever has the invalid value; a value of the file that the command line replaces is none."""
    path = tmp_path / "my.yaml"
    path.write_text("train: {epochs: 0}\nmodel: {dropout: 2}\n")
    with pytest.raises(ExperimentError) as error:
        load_experiment(str(path), ["train.epochs=x", "model={filter_widths: [3, 3]}"])
    assert re.fullmatch(r"command line: model\.filter_widths: .*; train\.epochs: .*\(given: 'x'\)", str(error.value))
    with pytest.raises(ExperimentError, match=r"^command line: seed: [^;]*; [^;]*my.yaml: model.dropout: [^;]*$"):
        load_experiment(str(path), ["seed=-1", "train.epochs=1"])
    with pytest.raises(ExperimentError, match=r"^command line: model.dropout: "):
        load_experiment(None, ["model.dropout.x=1"])
    path.write_text("train: {class_weights: {a: -1, b: 1}}\n")
    with pytest.raises(ExperimentError, match=r"my.yaml and command line: train.class_weights: the weight of 'a'"):
        load_experiment(str(path), ["train.class_weights.b=2"])


def test_a_value_has_no_keys() -> None:
    """The experiment has values already, unlike the empty one above."""
    with pytest.raises(ExperimentError, match=r"name.x: 'name' is not a section and has no keys"):
        apply_overrides(Experiment(), ["name.x=1"])


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no such experiment file"):
        load_experiment(str(tmp_path / "none.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_experiment(str(tmp_path / "bytes.yaml"))


def test_overrides_change_only_their_keys() -> None:
    """Evaluation changes the test file and nothing else."""
    experiment = Experiment().replace({"model.dropout": 0.1, "data.train": "train.csv"})
    changed = apply_overrides(experiment, ["data.test=other.csv"])
    assert changed.data.test == "other.csv"
    assert changed.data.train == "train.csv"
    assert changed.model.dropout == 0.1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("balanced", "balanced"),
        ("{spam: 2, ham: 1e-1}", {"spam": 2.0, "ham": 0.1}),
        ("{2: 2, true: 3, 'no': 1}", {"2": 2.0, "true": 3.0, "no": 1.0}),
    ],
)
def test_weights_of_classes_are_a_name_or_a_mapping(tmp_path: Path, text: str, value: object) -> None:
    """The labels may be numbers or booleans; the settings are read back as they are."""
    experiment = load_experiment(None, [f"train.class_weights={text}"])
    assert experiment.train.class_weights == value
    (tmp_path / "x.yaml").write_text(experiment.to_yaml())
    assert load_experiment(str(tmp_path / "x.yaml")) == experiment


def test_thresholds_may_be_of_labels_that_are_numbers_or_booleans(tmp_path: Path) -> None:
    """As weights of classes; a single one is of all labels."""
    experiment = load_experiment(None, ["train.thresholds={2: 0.5, true: 0.25, b: 0.75}"])
    assert experiment.train.thresholds == {"2": 0.5, "true": 0.25, "b": 0.75}
    (tmp_path / "x.yaml").write_text(experiment.to_yaml())
    assert load_experiment(str(tmp_path / "x.yaml")) == experiment
    assert load_experiment(None, ["train.thresholds=0.5"]).train.thresholds == 0.5
    with pytest.raises(ExperimentError, match=r"train\.thresholds"):
        load_experiment(None, ["train.thresholds={1: 2}"])


@pytest.mark.parametrize("value", ["null", "5"])
def test_train_folds_of_earlier_versions(tmp_path: Path, value: str) -> None:
    """null, which `show` and searches of earlier versions wrote, is ignored; a number refers to the command."""
    path = tmp_path / "old.yaml"
    path.write_text(f"train: {{folds: {value}, epochs: 3}}")
    if value == "null":
        experiment = load_experiment(str(path))
        assert experiment == Experiment().replace({"train.epochs": 3})
        assert "folds" not in experiment.to_yaml()
        assert apply_overrides(experiment, ["train.folds=null"]) == experiment
        assert Experiment.model_validate(yaml.safe_load(path.read_text())) == experiment
    else:
        with pytest.raises(ExperimentError, match=r"old.yaml: train.folds .* `finetune-cnn cross-validate --folds 5`"):
            load_experiment(str(path))
        with pytest.raises(ExperimentError, match=r"cross-validate --folds 5`"):
            apply_overrides(Experiment(), ["train.folds=5"])
    assert "train.folds" not in SETTING_KEYS


@pytest.mark.parametrize("path", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda path: path.name)
def test_the_experiment_files_are_valid(path: Path) -> None:
    """The name of each experiment is that of its file."""
    assert load_experiment(str(path)).name == path.stem


def test_labels_of_a_setting_are_the_text_that_is_written(tmp_path: Path) -> None:
    """YAML 1.1 would read them as booleans, null, and other numbers."""
    weights = {"no": 1.0, "off": 2.0, "null": 3.0, "010": 4.0, "12:30": 5.0, "1": 6.0}
    text = "{no: 1, off: 2, null: 3, 010: 4, 12:30: 5, 1: 6}"
    assert load_experiment(None, [f"train.class_weights={text}"]).train.class_weights == weights
    path = tmp_path / "x.yaml"
    path.write_text(f"train:\n  class_weights: {text}\n")
    loaded = load_experiment(str(path), [])
    assert loaded.train.class_weights == weights
    path.write_text(loaded.to_yaml())
    assert load_experiment(str(path), []).train.class_weights == weights
