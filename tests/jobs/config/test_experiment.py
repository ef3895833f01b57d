"""The experiment file: defaults, overrides, and errors that help."""

from pathlib import Path

import pytest
import yaml

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment, ExperimentError, apply_overrides, load_experiment


def test_the_defaults_are_an_experiment_and_survive_yaml(tmp_path: Path) -> None:
    """What `show` prints can be trained."""
    path = tmp_path / "all.yaml"
    path.write_text(Experiment().to_yaml())
    assert load_experiment(str(path)) == Experiment()


def test_settings_override_the_file(tmp_path: Path) -> None:
    """A dotted path reaches any key; values are YAML."""
    path = tmp_path / "my.yaml"
    path.write_text("model: {dropout: 0.1, feature_maps: 7}")
    found = load_experiment(
        str(path), ["model.filter_widths=[2, 3]", "model.dropout=0.3", "data.train=a.csv", "train.use_gpu=null"]
    )
    assert found.model.filter_widths == [2, 3]
    assert found.model.dropout == 0.3
    assert found.model.feature_maps == 7
    assert found.data.train == "a.csv"
    assert found.train.use_gpu is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {dropuot: 0.3}", r"unknown key 'model.dropuot'; did you mean 'model.dropout'\?"),
        ("modle: {dropout: 0.3}", r"unknown key 'modle'; did you mean 'model'\?"),
        ("model: {embedding: nonstatic}", r"model.embedding: .*'non-static'.*given: 'nonstatic'"),
        ("model: {dropout: 1.5}", r"model.dropout: .*less than 1"),
        ("model: {filter_widths: []}", r"model.filter_widths"),
        ("model: {filter_widths: [3, 3]}", r"names a width twice"),
        ("train: {batch_size: many}", r"train.batch_size: .*given: 'many'"),
        ("name: ../else", r"name: .*given: '../else'"),
        ("a: [", r"not valid YAML"),
        ("- a", r"must hold keys and values, not a list"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The message names the file, the key, and the way out."""
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ExperimentError, match=message) as caught:
        load_experiment(str(path))
    assert "my.yaml" in str(caught.value)


@pytest.mark.parametrize("setting", ["model.dropout", "name.x=1", "model.nothing=1", "model=[1", "model.dropout=x"])
def test_a_wrong_setting_is_an_error(setting: str) -> None:
    """On the command line as in the file."""
    with pytest.raises(ExperimentError, match=r"model|name"):
        load_experiment(None, [setting])


def test_a_missing_or_binary_file_is_an_error(tmp_path: Path) -> None:
    """No traceback for a wrong path."""
    with pytest.raises(ExperimentError, match="no such experiment file"):
        load_experiment(str(tmp_path / "none.yaml"))
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_experiment(str(tmp_path / "bytes.yaml"))


def test_overridden_keeps_the_rest() -> None:
    """Evaluation changes the test file and nothing else."""
    changed = apply_overrides(Experiment(), ["data.test=other.csv"])
    assert changed.data.test == "other.csv"
    assert changed.model == Experiment().model


@pytest.mark.parametrize("path", sorted((REPOSITORY / "experiments").glob("*.yaml")), ids=lambda path: path.name)
def test_the_experiment_files_are_valid(path: Path) -> None:
    """Each loads, and is named as its file."""
    assert load_experiment(str(path)).name == path.stem
    assert yaml.safe_load(path.read_text())
