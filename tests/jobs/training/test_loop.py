"""Training loop: its steps, epochs and rates, and exact resuming. Several workers: test_data_parallel.py."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.package import REPOSITORY
from jobs.config.class_weights import ClassWeights
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import load_training_state
from jobs.model.network import Network
from jobs.training.corpora import token_blocks
from jobs.training.history import Epoch, Progress
from jobs.training.loop import Loop, TrainingDiverged
from jobs.training.run_files.snapshot import capture, gather_optimizer_state, gather_weights, restore
from tests.support.loops import make_loop
from tests.support.toy_data import make_test_corpus


@pytest.mark.parametrize(
    ("within", "class_weights", "linear", "blocks"),
    [
        (False, None, "none", False),
        (True, None, "words-and-pairs", False),
        (True, {"good": 1, "bad": 3}, "none", False),
        (True, None, "none", True),
    ],
)
def test_a_resumed_run_ends_as_one_that_never_stopped(
    make_experiment: Callable[..., Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    within: bool,
    class_weights: ClassWeights,
    linear: str,
    blocks: bool,
) -> None:
    """The results are equal bit for bit, dropout included, for runs resumed after an epoch or within one."""
    if blocks:
        monkeypatch.setattr(token_blocks, "BLOCK_TOKENS", 100)
    experiment = make_experiment(
        model__embedding="multichannel", train__epochs=4, train__patience=9, train__frozen_epochs=1,
        train__vectors_pull=0.1, train__vectors_learning_rate=0.003, train__batch_size=4, model__max_norm=0.5,
        train__weight_decay=0.1, train__class_weights=class_weights, model__linear=linear,
    )  # fmt: skip
    whole = make_loop(experiment)
    list(whole.train_epochs())
    first = make_loop(experiment)
    for _ in first.train_with_intervals(interval_s=0):
        if len(first.progress.epochs) == 2 and bool(first.progress.steps) == within:
            break
    capture(experiment, first.corpus, first, resumable=True)(tmp_path / "checkpoint")
    second = make_loop(experiment)
    restore(second, load_training_state(tmp_path / "checkpoint"))
    assert bool(second.progress.steps) == within
    assert [epoch.epoch for epoch, _ in second.train_epochs()] == [3, 4]
    for gather in (gather_weights, gather_optimizer_state):
        for key, value in gather(whole).items():
            assert torch.equal(value, gather(second)[key]), key
    for expected, epoch in zip(whole.progress.epochs, second.progress.epochs, strict=True):
        assert (epoch.train_loss, epoch.loss, epoch.accuracy) == (expected.train_loss, expected.loss, expected.accuracy)


def test_yields_within_an_epoch_come_after_the_interval(make_experiment: Callable[..., Experiment]) -> None:
    """These yields do not change the result; without an interval only epochs are yielded."""
    experiment = make_experiment(train__epochs=2, train__batch_size=2)
    expected, paused = make_loop(experiment), make_loop(experiment)
    assert all(epoch is not None for epoch in expected.train_with_intervals())
    yielded = list(paused.train_with_intervals(interval_s=0))
    assert sum(epoch is None for epoch in yielded) == 2 * ((-(-len(paused.corpus.train) // 2) - 1) // 16)
    assert [epoch.train_loss for epoch in yielded if epoch] == [e.train_loss for e in expected.progress.epochs]
    assert torch.equal(expected.network.filters, paused.network.filters)


def test_progress_with_blocks_reaches_the_end(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last batch of each block has fewer rows."""
    monkeypatch.setattr(token_blocks, "BLOCK_TOKENS", 15)
    loop = make_loop(make_experiment(train__epochs=1, train__batch_size=4))
    seen = [loop.epoch_progress() for epoch in loop.train_with_intervals(interval_s=0) if epoch is None]
    assert seen[-1].steps == loop.texts.num_batches > len(loop.corpus.train) / 4 + 5
    assert all(progress.seconds_left > 0 for progress in seen)
    assert seen[-1].step == 16 * ((seen[-1].steps - 1) // 16)


def test_a_word_that_decides_the_class_is_learned(make_experiment: Callable[..., Experiment]) -> None:
    loop = make_loop(make_experiment(train__epochs=12, train__patience=12, train__decay="none"))
    epochs = [epoch for epoch, _ in loop.train_epochs()]
    assert epochs[-1].accuracy > 0.85
    assert epochs[-1].train_loss < epochs[0].train_loss / 2


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_only_trained_vectors_move_and_padding_never(
    make_experiment: Callable[..., Experiment], embedding: str
) -> None:
    """Padding, row 0, stays zero; the fixed channel is unchanged."""
    loop = make_loop(make_experiment(model__embedding=embedding))
    list(loop.train_epochs())
    network = loop.network
    if network.vectors is not None:
        assert not network.vectors[0].any()
        assert not np.array_equal(network.vectors.detach().numpy(), loop.corpus.vectors)
    assert np.array_equal(network.initial_vectors.numpy(), loop.corpus.vectors)
    if network.has_fixed:
        assert np.array_equal(network.vectors_by_channel()["fixed_vectors"].numpy(), loop.corpus.vectors)


@pytest.mark.parametrize("class_weights", [None, {"good": 1, "bad": 3}])
def test_a_step_is_that_of_torchs_adam_on_the_whole_network(
    make_experiment: Callable[..., Experiment], class_weights: ClassWeights
) -> None:
    """Filters, output and the batch's words are updated; the vectors of other words stay unchanged.

    The loss is that of torch, also with weights of the classes.
    """
    experiment = make_experiment(
        model__embedding="non-static", model__dropout=0.0, model__max_norm=None, train__class_weights=class_weights,
        train__vectors_learning_rate=0.01,
    )  # fmt: skip
    loop = make_loop(experiment)
    rows = np.arange(4)
    initial = loop.network.vectors.detach().clone()
    reference = Network(experiment.model, loop.corpus.vectors, len(loop.corpus.labels), experiment.seed)
    batch = loop.texts.collator.collate(rows)
    words = torch.nn.Parameter(reference.vectors[batch.word_ids].detach().clone())
    adam = torch.optim.Adam([*reference.dense_parameters().values(), words], lr=experiment.train.learning_rate)
    scores = reference.forward_features(batch, words) @ reference.output.T + reference.output_bias
    weights = torch.tensor([3.0, 1.0]) if class_weights else None  # bad, good
    labels = torch.from_numpy(loop.corpus.train.labels[rows])
    loss = torch.nn.functional.cross_entropy(scores, labels, weight=weights)
    loss.backward()
    adam.step()
    loop.network.train()
    row_weights = loop.corpus.row_weights(class_weights)
    total_weight = 4 if row_weights is None else row_weights[rows].sum()
    assert loop.step(rows).item() / total_weight == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(loop.network.vectors[batch.word_ids], words.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in loop.network.dense_parameters().items():
        torch.testing.assert_close(parameter, reference.dense_parameters()[name], rtol=1e-5, atol=1e-6)
    others = torch.ones(len(initial), dtype=torch.bool)
    others[batch.word_ids] = False
    assert torch.equal(loop.network.vectors[others], initial[others])


def test_the_norm_of_output_rows_is_limited(make_experiment: Callable[..., Experiment]) -> None:
    """Norms are limited after an epoch, and in the scores of every step; shorter rows are unchanged."""
    loop = make_loop(make_experiment(model__max_norm=0.01, model__dropout=0.0, model__linear="none", train__epochs=1))
    list(loop.train_epochs())
    assert loop.network.output.norm(dim=1).max() <= 0.01 + 1e-6
    network = loop.network
    with torch.no_grad():
        network.output[0] *= 100
        network.output[1] *= 0.5
    shorter = network.output[1].clone()
    loop.dense_optimizer.param_groups[0]["lr"] = 0.0
    loss = loop.step(np.arange(8))
    assert network.output[0].norm().item() == pytest.approx(0.01, rel=1e-4)
    assert torch.equal(network.output[1], shorter)
    batch = loop.texts.collator.collate(np.arange(8))
    expected = torch.nn.functional.cross_entropy(network(batch), torch.from_numpy(loop.corpus.train.labels[:8]))
    assert loss.item() / 8 == pytest.approx(expected.item(), rel=1e-3)


def test_weight_decay_shrinks_filters_and_output_weights_but_not_biases_and_word_vectors(
    make_experiment: Callable[..., Experiment],
) -> None:
    loops = [make_loop(make_experiment(train__weight_decay=decay)) for decay in (0.0, 0.5)]
    for loop in loops:
        loop.network.biases.data.fill_(0.5)  # at 0 there is nothing to shrink
        loop.network.output_bias.data.fill_(0.5)
        loop.network.train()
        loop.step(np.arange(4))
    free, decayed = (loop.network for loop in loops)
    for name in ("filters", "output"):
        assert getattr(decayed, name).norm() < getattr(free, name).norm()
    for name in ("biases", "output_bias", "vectors"):
        assert torch.equal(getattr(decayed, name), getattr(free, name)), name


def test_every_step_drops_other_features(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dropout` is the share of dropped features."""
    loop = make_loop(make_experiment(model__dropout=0.3, model__feature_maps=50, train__epochs=2))
    masks = []
    dropout_mask = loop.dropout_mask
    monkeypatch.setattr(loop, "dropout_mask", lambda *step: masks.append(dropout_mask(*step)) or masks[-1])
    list(loop.train_epochs())
    first, second = masks[0], masks[len(masks) // 2]
    assert len({mask[0].sum().item() for mask in masks}) > len(masks) / 2
    assert not torch.equal(first, second)
    drawn = torch.cat(masks)
    assert (drawn == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(drawn.max(), torch.tensor(1 / 0.7))


def test_training_stops_when_nothing_improves(make_experiment: Callable[..., Experiment]) -> None:
    """After `patience` epochs without improvement; the best epoch is recorded."""
    loop = make_loop(make_experiment(train__epochs=50, train__patience=3, train__learning_rate=0.03))
    flags = [improved for _, improved in loop.train_epochs()]
    assert len(flags) < 50
    assert flags[-3:] == [False] * 3
    assert flags[loop.progress.best - 1]


def test_a_nan_loss_is_an_error_that_names_the_setting_to_change(
    make_experiment: Callable[..., Experiment],
) -> None:
    loop = make_loop(make_experiment())
    with torch.no_grad():
        loop.network.output.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match=r"lower train.learning_rate \(0.01\)"):
        list(loop.train_epochs())


def pretrained_loop(experiment: Experiment) -> Loop:
    """Return a loop on a corpus where words of even ids have pretrained vectors."""
    corpus = make_test_corpus(experiment)
    pretrained = np.arange(len(corpus.pretrained)) % 2 == 0
    pretrained[:2] = False
    corpus = dataclasses.replace(corpus, pretrained=pretrained)
    network = Network(experiment.model, corpus.vectors, len(corpus.labels), experiment.seed)
    return Loop(network, corpus, experiment.train, experiment.seed)


def changed_vectors(loop: Loop) -> np.ndarray:
    """Return which words' vectors differ from their initial vectors, `(words,)` bool."""
    assert loop.network.vectors is not None
    return (loop.network.vectors.detach().numpy() != loop.corpus.vectors).any(axis=1)


@pytest.mark.parametrize("embedding", ["non-static", "multichannel"])
def test_only_words_without_a_pretrained_vector_may_be_trained(
    make_experiment: Callable[..., Experiment], embedding: str
) -> None:
    """All such words of the training texts are trained, and no others."""
    loop = pretrained_loop(make_experiment(model__embedding=embedding, model__trained_words="out-of-vocabulary"))
    list(loop.train_epochs())
    expected = ~loop.corpus.pretrained & (
        np.bincount(loop.corpus.train.tokens.ids, minlength=len(changed_vectors(loop))) > 0
    )
    assert changed_vectors(loop).tolist() == expected.tolist()
    assert expected.any()


def test_frozen_vectors_are_trained_after_their_epochs(make_experiment: Callable[..., Experiment]) -> None:
    """Patience does not end a run before that."""
    loop = pretrained_loop(make_experiment(model__embedding="non-static", train__frozen_epochs=2, train__epochs=3))
    epochs = loop.train_epochs()
    for frozen in (True, True, False):
        next(epochs)
        assert changed_vectors(loop).any() != frozen
    loop = pretrained_loop(
        make_experiment(
            model__embedding="non-static", train__frozen_epochs=4, train__epochs=9, train__patience=1,
            train__learning_rate=1e-9, train__vectors_learning_rate=1e-9,
        )
    )  # fmt: skip
    loop.progress = Progress([Epoch(1, 0, -1, 2, 2, 1, 1)], best=1)  # no epoch can be better
    assert [epoch.epoch for epoch, _ in loop.train_epochs()] == [2, 3, 4, 5]


def test_vectors_may_have_another_learning_rate(make_experiment: Callable[..., Experiment]) -> None:
    """With a tenth of the rate a word moves a tenth as far in its first step."""
    distances = []
    for rate in (0.01, 0.001):
        loop = pretrained_loop(make_experiment(model__embedding="non-static", train__vectors_learning_rate=rate))
        rows = np.arange(8)
        loop.network.train()
        loop.step(rows)
        assert loop.network.vectors is not None
        distances.append(np.abs(loop.network.vectors.detach().numpy() - loop.corpus.vectors).max())
    assert distances[0] == pytest.approx(0.01, rel=1e-3)
    assert distances[1] == pytest.approx(0.001, rel=1e-3)


def test_the_pull_is_the_gradient_of_an_l2_penalty_on_the_batchs_words(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The penalty is half the strength times the squared distance from the initial vectors, derived by torch."""
    experiment = make_experiment(model__embedding="non-static", train__vectors_pull=0.3, model__dropout=0.0)
    pulled, free = pretrained_loop(experiment), pretrained_loop(experiment.replace({"train.vectors_pull": 0.0}))
    steps = []
    for loop in (pulled, free):
        with torch.no_grad():
            loop.network.vectors += 0.1 * torch.arange(12)  # type: ignore[operator]
        loop.network.train()
        optimizer = loop.vectors_optimizer
        monkeypatch.setattr(
            optimizer, "step", lambda *step, used=optimizer: steps.append((step[0], used.pull_gradient(*step).clone()))
        )
        loop.step(np.arange(8))
    (words, with_pull), (_, without) = steps
    table = pulled.network.vectors.detach().clone().requires_grad_()  # type: ignore[union-attr]
    (0.5 * 0.3 * ((table - torch.from_numpy(pulled.corpus.vectors))[words] ** 2).sum()).backward()
    torch.testing.assert_close(with_pull - without, table.grad[words], rtol=1e-4, atol=1e-6)


def test_a_strong_pull_keeps_vectors_near(make_experiment: Callable[..., Experiment]) -> None:
    """Over many steps the vectors stay near; a step that overshoots would let them oscillate."""
    distances = []
    for pull in (0.0, 10.0):
        loop = pretrained_loop(
            make_experiment(model__embedding="non-static", train__epochs=6, train__vectors_pull=pull)
        )
        list(loop.train_epochs())
        assert loop.network.vectors is not None
        distances.append(np.linalg.norm(loop.network.vectors.detach().numpy() - loop.corpus.vectors))
    assert distances[1] < distances[0] / 2


def test_learning_rates_fall_to_zero_over_the_epochs(make_experiment: Callable[..., Experiment]) -> None:
    """Each rate falls linearly from step to step, from its initial value; without decay it is constant."""
    for decay, expected in (("linear", [1, 0.75, 0.5, 0.25]), ("none", [1, 1, 1, 1])):
        loop = pretrained_loop(
            make_experiment(
                model__embedding="non-static", train__decay=decay, train__epochs=2, train__patience=9,
                train__batch_size=49, train__vectors_learning_rate=0.2,
            )
        )  # fmt: skip
        rates: list[tuple[float, ...]] = []
        step = loop.step

        def recorded_step(rows: np.ndarray, *number: int, loop: Loop = loop, step=step, rates=rates) -> torch.Tensor:
            rates.append((loop.dense_optimizer.param_groups[0]["lr"], loop.vectors_optimizer.learning_rate))
            return step(rows, *number)

        loop.step = recorded_step  # type: ignore[method-assign]
        list(loop.train_epochs())
        np.testing.assert_allclose(rates, [[0.01 * share, 0.2 * share] for share in expected])


def test_random_vectors_learn_faster_by_default(make_experiment: Callable[..., Experiment]) -> None:
    """Pretrained vectors have half the rate of other parameters, random ones more; a configured rate holds for both."""
    for embedding, rate, expected in (("rand", None, 0.015), ("non-static", None, 0.005), ("rand", 0.002, 0.002)):
        loop = pretrained_loop(make_experiment(model__embedding=embedding, train__vectors_learning_rate=rate))
        loop.network.train()
        loop.step(np.arange(8))
        assert loop.network.vectors is not None
        assert np.abs(loop.network.vectors.detach().numpy() - loop.corpus.vectors).max() == pytest.approx(
            expected, rel=1e-3
        )


def test_training_imports_neither_the_compiler_of_torch_nor_sympy() -> None:
    """torch imports them for some calls, and that takes longer than the training of a small data set."""
    script = """
import sys
from jobs.config.experiment import Experiment
from tests.support.loops import make_loop
list(make_loop(Experiment().replace({"train.epochs": 1})).train_epochs())
print({"torch._dynamo", "sympy"} & sys.modules.keys())
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout == "set()\n"
