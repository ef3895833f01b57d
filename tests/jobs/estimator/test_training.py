"""Further fits that start from the weights of the one before; callbacks, and logs of fits in trackers."""

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import finetune_cnn
from jobs.config.experiment import Experiment, ExperimentError
from jobs.estimator.inputs import make_dataset
from jobs.estimator.text_cnn import TextCNNClassifier
from jobs.estimator.training import _THREAD_LIMIT, train_on_workers
from jobs.training.history import Epoch
from jobs.training.monitor import RunStatus
from jobs.training.run_files.trackers import Trackers
from tests.support.toy_data import make_toy_rows

LABELS, TEXTS = (list(column) for column in zip(*make_toy_rows(120), strict=True))
SMALL: dict[str, Any] = {"feature_maps": 8, "filter_widths": (1, 2), "epochs": 4, "batch_size": 10}


def fit_twice(**parameters: Any) -> TextCNNClassifier:
    """Return an estimator that was fitted to texts with other words before."""
    model = TextCNNClassifier(
        **SMALL | {"embedding": "rand", "linear": "none", "learning_rate": 0.01, "warm_start": True} | parameters
    )
    return model.fit(TEXTS, LABELS).fit([f"new {text} other" for text in TEXTS], LABELS)


def test_a_warm_start_resumes_from_the_earlier_weights() -> None:
    """Vectors are those of the same words, although the vocabulary has changed; without it they are forgotten."""
    first_losses = [fit_twice(warm_start=warm).epochs_[0].loss or 0 for warm in (True, False)]
    assert first_losses[0] < 0.8 * first_losses[1]
    # Without steps that matter the weights stay as they were.
    small = SMALL | {"embedding": "rand", "linear": "none", "epochs": 1, "settings": {"train.temperature": 1}}
    model = TextCNNClassifier(**small, warm_start=True).fit(TEXTS, LABELS)
    before = model.predict_proba(TEXTS)
    model.set_params(learning_rate=1e-12).fit([f"new {text}" for text in TEXTS], LABELS)
    assert np.allclose(model.predict_proba(TEXTS), before, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "parameters", "message"),
    [
        (["other" if label == "good" else label for label in LABELS], {}, "the earlier fit has the labels"),
        (LABELS, {"feature_maps": 4}, "a network of another size"),
        (LABELS, {"n_workers": 2}, "set n_workers=None"),
    ],
    ids=["labels", "size", "workers"],
)
def test_an_impossible_warm_start_is_an_error(labels: list[str], parameters: dict[str, Any], message: str) -> None:
    model = TextCNNClassifier(**SMALL | {"embedding": "rand", "epochs": 1}, warm_start=True).fit(TEXTS, LABELS)
    with pytest.raises(ValueError, match=message):
        model.set_params(**parameters).fit(TEXTS, labels)


def test_every_way_to_train_starts_from_a_checkpoint(tmp_path: Path) -> None:
    """Also a user's own trainer, whose workers receive the extended corpus; the trials of a tuner cannot."""
    small: dict[str, Any] = SMALL | {"embedding": "rand", "learning_rate": 0.01}
    TextCNNClassifier(**small).fit(TEXTS, LABELS).save(str(tmp_path / "base"))
    continued = TextCNNClassifier(**small, settings={"train.start_from": str(tmp_path / "base")})
    texts = [f"new {text}" for text in TEXTS]
    losses = [(model.fit(texts, LABELS).epochs_[0].loss or 0) for model in (continued, TextCNNClassifier(**small))]
    assert losses[0] < 0.8 * losses[1]
    inputs = continued.train_loop_config([text.replace("brilliant", "good") for text in TEXTS], LABELS)
    assert inputs["experiment"].train.start_from == str(tmp_path / "base")
    assert {"brilliant", "good"} <= set(inputs["corpus"].words)
    with pytest.raises(ExperimentError, match="the trials of a search start from the beginning"):
        continued.trainable(texts, LABELS)


def test_classes_of_the_checkpoint_without_rows_stay(tmp_path: Path) -> None:
    """A loaded model predicts the same; labels that are numbers cannot name them."""
    small: dict[str, Any] = SMALL | {"embedding": "rand", "epochs": 1}
    songs = ["a song to sing"] * 12
    TextCNNClassifier(**small).fit([*TEXTS, *songs], [*LABELS, *["song"] * 12]).save(tmp_path / "base")
    continued = TextCNNClassifier(**small, settings={"train.start_from": str(tmp_path / "base")})
    continued.fit(TEXTS, LABELS).save(tmp_path / "continued")
    loaded = finetune_cnn.load(tmp_path / "continued")
    assert continued.classes_.tolist() == sorted({*LABELS, "song"}) == loaded.labels
    np.testing.assert_allclose(continued.predict_proba(songs), loaded.predict_proba(songs), atol=0.001)
    assert continued.predict([*TEXTS, *songs]).tolist() == loaded.predict([*TEXTS, *songs])
    with pytest.raises(ValueError, match=r"y has numbers; the checkpoint of train\.start_from has the labels .*'song'"):
        continued.fit(TEXTS, [len(label) for label in LABELS])


def test_a_callback_ends_the_training() -> None:
    """The other callbacks are called too, and the best epoch until then is used."""
    seen: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise StopIteration

    fitted = TextCNNClassifier(**SMALL, embedding="rand").fit(TEXTS, LABELS, callbacks=[stop, seen.append])
    assert [epoch.epoch for epoch in seen] == [epoch.epoch for epoch in fitted.epochs_] == [1, 2]
    assert fitted.best_epoch_ in (1, 2)
    assert isinstance(seen[0], finetune_cnn.Epoch)


def test_workers_ignore_a_callback_that_ends_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning: their reports arrive late. Other errors are raised after the last epoch."""
    monkeypatch.setattr("cluster.connection.connect", nullcontext)
    monkeypatch.setattr("jobs.training.train.require_resources", lambda _: (False, None))
    seen: list[Epoch] = []
    error: type[Exception] = StopIteration

    def stop(epoch: Epoch) -> None:
        seen.append(epoch)
        raise error

    def fit(experiment: Experiment, corpus: Any, run: Any, use_gpu: bool, status: RunStatus) -> Any:
        for number in (1, 2):
            status.on_epoch(Epoch(number, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0))
        return SimpleNamespace(progress=SimpleNamespace(best=1, epochs=[]))

    monkeypatch.setattr("jobs.training.train.fit", fit)
    monkeypatch.setattr("jobs.estimator.training.load_trained", lambda path, epochs: "model")
    experiment = Experiment().replace({"model.embedding": "rand"})
    dataset, _ = make_dataset(TEXTS, LABELS, None, None, 0.1, 0)
    assert train_on_workers(experiment, dataset, None, [stop]) == "model"
    assert len(seen) == sum("raised StopIteration, which workers ignore" in line for line in caplog.messages) == 2
    error = KeyError
    with pytest.raises(KeyError):
        train_on_workers(experiment, dataset, None, [stop])
    assert len(seen) == 3


class RecordingTracker:
    """A tracker that records what is logged."""

    name = "recorder"
    errors = (OSError,)

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def start(self, run: Any) -> "RecordingTracker":
        self.entries.append((run.settings["seed"], run.settings["train.batch_size"]))
        return self

    def log(self, epochs: Any) -> None:
        self.entries += [epoch.epoch for epoch, _ in epochs]

    def end(self, ending: Any) -> None:
        self.entries.append(ending.status)


def test_a_fit_is_logged_to_the_trackers_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run with its epochs; variables of the environment alone name none."""
    tracker = RecordingTracker()

    def connect(experiment: Experiment, environment: dict[str, str]) -> Trackers:
        assert environment == {}
        return Trackers([tracker] if experiment.mlflow else [])

    monkeypatch.setattr("jobs.estimator.training.connect_trackers", connect)
    small: dict[str, Any] = SMALL | {"embedding": "rand", "batch_size": None, "epochs": 2, "random_state": 5}
    TextCNNClassifier(**small).fit(TEXTS, LABELS)
    assert tracker.entries == []
    TextCNNClassifier(**small, settings={"mlflow": "http://127.0.0.1:5000"}).fit(TEXTS, LABELS)
    assert tracker.entries == [(5, 1), 1, 2, "finished"]


@pytest.mark.ray
def test_a_trainer_of_a_user_logs_nothing_by_itself(embedded_ray: None, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning."""
    model = TextCNNClassifier(**SMALL | {"embedding": "rand"}, settings={"wandb": "tickets"})
    model.train_loop_config(TEXTS, LABELS)
    model.trainable(TEXTS, LABELS)
    expected = [f"wandb has no effect in a {kind} of your own: nothing is logged" for kind in ("trainer", "tuner")]
    assert [message.partition(";")[0] for message in caplog.messages if "wandb" in message] == expected


def test_overlapping_trainings_leave_the_number_of_threads_as_it_was() -> None:
    """In each thread of the program, in whatever order they end, and in later ones."""
    before, is_limited, may_end = torch.get_num_threads(), threading.Event(), threading.Event()
    after: list[int] = []

    def train() -> None:
        with _THREAD_LIMIT.limit(before + 1):
            is_limited.set()
            may_end.wait(30)
        after.append(torch.get_num_threads())

    other = threading.Thread(target=train)
    with _THREAD_LIMIT.limit(before + 1):
        other.start()
        assert is_limited.wait(30)
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    may_end.set()
    other.join()
    later = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert after == [before, before]
