"""Descriptions of the settings in YAML and in the JSON schema."""

import json

import pytest
import yaml

from jobs.config.experiment import SETTING_KEYS, Experiment, ExperimentError, load_experiment
from jobs.config.schema import build_json_schema, to_commented_yaml

CHANGED = Experiment().replace({"name": "x-1", "data.text_column": "a: \u00e9", "vectors.norm": None})


@pytest.mark.parametrize("experiment", [Experiment(), CHANGED], ids=["defaults", "changed"])
def test_the_comments_change_no_setting(experiment: Experiment) -> None:
    assert yaml.safe_load(to_commented_yaml(experiment)) == experiment.model_dump()


def test_each_setting_has_its_description_above_it() -> None:
    lines = to_commented_yaml(Experiment()).splitlines()
    for key in SETTING_KEYS:
        *sections, name = key.split(".")
        indent = "  " * len(sections)
        positions = [index for index, line in enumerate(lines) if line.startswith(f"{indent}{name}:")]
        assert positions, key
        assert all(lines[index - 1].startswith(f"{indent}# ") for index in positions), key
    assert max(map(len, lines)) <= 120


def test_some_settings_only() -> None:
    """Sections without any of them are left out."""
    text = to_commented_yaml(Experiment(), {"name", "train.epochs"})
    assert yaml.safe_load(text) == {"name": "docstrings", "train": {"epochs": 10}}


def test_the_json_schema_describes_every_setting_and_rejects_unknown_keys() -> None:
    schema = json.loads(build_json_schema())
    sections = [schema, *schema["$defs"].values()]
    assert all(section["additionalProperties"] is False for section in sections)
    properties = [item for section in sections for item in section["properties"].values()]
    assert len(properties) == len(SETTING_KEYS)
    assert all("description" in item or "$ref" in item for item in properties)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    ("setting", "suggestion"),
    [
        ("epochs=3", "did you mean 'train.epochs' or 'tune.epochs' or 'vectors.epochs'?"),
        ("dropout=0.1", "did you mean 'model.dropout'?"),
        ("train.dropout=0.1", "did you mean 'model.dropout'?"),
        ("model.dropuot=0.1", "did you mean 'model.dropout'?"),
        ("learningrate=1", "did you mean 'train.learning_rate'?"),
        ("data.label=queue", "did you mean 'data.label_column'?"),
        ("nmae=x", "did you mean 'name'?"),
        ("train=my.csv", "train: is a section and has keys, not a value (given: 'my.csv'); did you mean 'data.train'?"),
        ("vectors=v.bin", "did you mean 'vectors.path'?"),
        ("xyzzy=1", "`finetune-cnn show` prints all keys"),
    ],
)
def test_a_wrong_key_suggests_what_was_meant(setting: str, suggestion: str) -> None:
    with pytest.raises(ExperimentError) as error:
        load_experiment(None, [setting])
    assert suggestion in str(error.value)


def test_settings_that_are_texts_need_no_quotes() -> None:
    """YAML reads `1`, `yes`, `|` and `a: b` as something else."""
    settings = ["data.text_column=1", "data.label_column=yes", "name=2024", "data.encoding=|", "data.train=null"]
    experiment = load_experiment(None, [*settings, "data.folder=a: b", "vectors.path=[x].bin", "model.dropout = 0.25"])
    data = experiment.data
    assert (data.text_column, data.label_column, data.encoding, data.folder) == ("1", "yes", "|", "a: b")
    assert (experiment.name, data.train, experiment.model.dropout) == ("2024", None, 0.25)
    assert experiment.vectors.path == "[x].bin"
    assert load_experiment(None, ["data.packages=[a, b]", "tune.space={}"]).data.packages == ["a", "b"]
