"""TensorBoard's HParams page shows every trial."""

from pathlib import Path

from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from jobs.search.hparams import log_to_tensorboard
from tests.support.tensorboard import events, scalars
from tests.support.trial_records import record


def test_a_trial_is_in_the_log_with_its_settings_and_what_it_reached(tmp_path: Path) -> None:
    """Beside the scalars of a run."""
    settings = {"model.dropout": 0.3, "model.filter_widths": [3, 4], "model.embedding": "static"}
    log_to_tensorboard(str(tmp_path), record(5, settings, 0.75))
    [written] = (tmp_path / "trial-00005").iterdir()
    assert scalars(written)["best/accuracy"] == [(1, 0.75)]
    assert scalars(written)["validation/accuracy"] == [(1, 0.75)]
    plugins = {
        value.tag: HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events(written)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }
    found = plugins["_hparams_/session_start_info"].session_start_info.hparams
    assert found["model.dropout"].number_value == 0.3
    assert found["model.filter_widths"].string_value == "[3, 4]"
    assert found["model.embedding"].string_value == "static"


def test_a_trial_that_failed_is_in_the_log_too(tmp_path: Path) -> None:
    """With its settings alone."""
    log_to_tensorboard(str(tmp_path), record(6, {"model.dropout": 0.3}, None))
    [written] = (tmp_path / "trial-00006").iterdir()
    assert "best/accuracy" not in scalars(written)
    assert "_hparams_/session_start_info" in scalars(written)
