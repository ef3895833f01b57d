"""Batch size where the settings name none."""

from collections.abc import Callable

import pytest

from jobs.config.experiment import Experiment
from jobs.config.training_defaults import choose_batch_size
from jobs.training.corpora.building import load_texts
from tests.support.loops import make_loop


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (89, 1), (180, 2), (1000, 11), (4500, 50), (1_000_000, 50)])
def test_few_rows_have_small_batches(rows: int, expected: int) -> None:
    """An epoch has at least 90 steps, or as many as rows."""
    assert choose_batch_size(rows) == expected


def test_the_loop_chooses_by_its_training_rows(make_experiment: Callable[..., Experiment]) -> None:
    loop = make_loop(make_experiment(train__batch_size=None, train__epochs=1))
    for _ in loop.train_epochs():
        pass
    assert (loop.batch_size, loop.steps) == (1, len(loop.corpus.train))
    assert make_loop(make_experiment(train__batch_size=7)).batch_size == 7


def test_small_batches_are_logged(make_experiment: Callable[..., Experiment], messages: list[str]) -> None:
    """Unless the settings name their size."""
    load_texts(make_experiment(train__batch_size=7))
    assert not [message for message in messages if "batches of" in message]
    load_texts(make_experiment(train__batch_size=None))
    assert "batches of 1, since there are few training rows; train.batch_size sets another size" in messages
