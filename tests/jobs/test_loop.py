"""The training loop: the same with any number of workers, and exact when it goes on."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from jobs.batches import Batch, collate
from jobs.experiment import Experiment
from jobs.loop import Epoch, Loop, Progress, TrainingDiverged, Workers, score
from jobs.network import Network
from tests.conftest import corpus_of

ALONE = Workers()


def loop_of(experiment: Experiment, workers: Workers = ALONE) -> Loop:
    corpus = corpus_of(experiment)
    network = Network(experiment.model, corpus.vectors, len(corpus.labels), experiment.seed)
    return Loop(network, corpus, experiment.train, experiment.seed, workers)


def losses_of(loop: Loop) -> list[float]:
    """Train, and return the loss of each step over the global batch."""
    losses = []
    step = loop.step

    def watched(batch: Batch) -> torch.Tensor:
        total = step(batch)
        losses.append(loop.workers.add_up(total.double().clone()).item() / batch.size)
        return total

    loop.step = watched  # type: ignore[method-assign]
    list(loop.epochs())
    return losses


def worker(rank: int, size: int, experiment: Experiment, folder: str) -> None:
    """One of several processes that train together; writes its step losses and its weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    loop = loop_of(experiment, Workers(rank, size))
    losses = losses_of(loop)
    torch.save({"losses": losses, "weights": loop.network.state_dict()}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_what_is_learned(toy: Callable[..., Experiment], tmp_path: Path) -> None:
    """1, 2 and 4 workers give the same losses to 1e-5, step by step, dropout and all, and end alike.

    The last batch of an epoch has fewer rows than there are workers.
    """
    experiment = toy(
        model__embedding="multichannel", train__epochs=3, train__batch_size=19, train__frozen_epochs=1,
        train__vectors_pull=0.1, train__vectors_learning_rate=0.003,
    )  # fmt: skip
    alone = losses_of(loop_of(experiment))
    for size in (2, 4):
        folder = tmp_path / str(size)
        folder.mkdir()
        run = functools.partial(worker, size=size, experiment=experiment, folder=str(folder))
        multiprocessing.spawn(run, nprocs=size)
        found = [torch.load(folder / f"{rank}.pt") for rank in range(size)]
        np.testing.assert_allclose(found[0]["losses"], alone, atol=1e-5)
        for other in found[1:]:
            for key, value in found[0]["weights"].items():
                assert torch.equal(value, other["weights"][key]), f"{key} differs between workers"


def test_a_run_that_goes_on_ends_as_one_that_never_stopped(toy: Callable[..., Experiment]) -> None:
    """Bit for bit, dropout and all."""
    experiment = toy(
        model__embedding="multichannel", train__epochs=4, train__patience=9, train__frozen_epochs=1,
        train__vectors_pull=0.1, train__vectors_learning_rate=0.003,
    )  # fmt: skip
    whole = loop_of(experiment)
    list(whole.epochs())
    first = loop_of(experiment)
    epochs = first.epochs()
    for _ in range(2):
        next(epochs)
    weights = {key: value.clone() for key, value in first.network.state_dict().items()}
    state = {key: value.clone() for key, value in first.state().items()}
    second = loop_of(experiment)
    second.resume(weights, state, Progress.from_json(first.progress.to_json()))
    assert [epoch.epoch for epoch, _ in second.epochs()] == [3, 4]
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[key]), key


def test_it_learns(toy: Callable[..., Experiment]) -> None:
    """A word decides the class, and is found."""
    epochs = [epoch for epoch, _ in loop_of(toy(train__epochs=12, train__patience=12, train__decay="none")).epochs()]
    assert epochs[-1].accuracy > 0.85
    assert epochs[-1].train_loss < epochs[0].train_loss / 2


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_only_trained_vectors_move_and_padding_never(toy: Callable[..., Experiment], embedding: str) -> None:
    """Row 0 stays zero; the fixed channel stays as it came."""
    loop = loop_of(toy(model__embedding=embedding))
    list(loop.epochs())
    network = loop.network
    if network.vectors is not None:
        assert not network.vectors[0].any()
        assert not np.array_equal(network.vectors.detach().numpy(), loop.corpus.vectors)
    if network.fixed_vectors is not None:
        assert np.array_equal(network.fixed_vectors.numpy(), loop.corpus.vectors)


def test_the_vectors_optimiser_is_lazy_adam(toy: Callable[..., Experiment]) -> None:
    """A word that a step does not touch stays where it was; a touched one moves as torch's Adam moves it."""
    experiment = toy(model__embedding="non-static", model__dropout=0.0)
    loop = loop_of(experiment)
    batch = collate(loop.corpus.train, np.arange(4))
    initial = loop.network.vectors.detach().clone()
    dense = Network(experiment.model, loop.corpus.vectors, len(loop.corpus.labels), experiment.seed)
    # SparseAdam adds eps before it corrects the second moment's bias, Adam after.
    eps = 1e-8 / math.sqrt(1 - 0.999)
    adam = torch.optim.Adam(dense.parameters(), lr=experiment.train.learning_rate, eps=eps)
    scores = dense(batch.words, batch.tokens, batch.lengths)
    torch.nn.functional.cross_entropy(scores, batch.labels).backward()
    dense.vectors.grad = dense.vectors.grad.to_dense()
    adam.step()
    loop.step(batch)
    touched = batch.words[1:]
    torch.testing.assert_close(loop.network.vectors[touched], dense.vectors[touched], rtol=1e-5, atol=1e-7)
    others = torch.ones(len(initial), dtype=torch.bool)
    others[touched] = False
    assert torch.equal(loop.network.vectors[others], initial[others])


def test_a_step_keeps_the_norm_of_the_last_layer(toy: Callable[..., Experiment]) -> None:
    """However long the rows were."""
    loop = loop_of(toy(model__max_norm=0.01))
    loop.step(collate(loop.corpus.train, np.arange(4)))
    assert loop.network.output.weight.norm(dim=1).max() <= 0.01 + 1e-6


def test_weight_decay_draws_the_filters_to_zero(toy: Callable[..., Experiment]) -> None:
    """And leaves the word vectors alone."""
    free, decayed = (loop_of(toy(train__weight_decay=decay)) for decay in (0.0, 0.5))
    for loop in (free, decayed):
        torch.manual_seed(0)
        loop.step(collate(loop.corpus.train, np.arange(4)))
    assert decayed.network.filters[0].norm() < free.network.filters[0].norm()
    assert torch.equal(decayed.network.vectors, free.network.vectors)


def test_each_epoch_drops_other_features(toy: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of them that `dropout` says."""
    loop = loop_of(toy(model__dropout=0.3, model__feature_maps=50, train__epochs=2))
    masks = []
    draw = loop.network.dropout_mask
    monkeypatch.setattr(loop.network, "dropout_mask", lambda rows: masks.append(draw(rows)) or masks[-1])
    list(loop.epochs())
    first, second = masks[0], masks[len(masks) // 2]
    assert not torch.equal(first, second)
    drawn = torch.cat(masks)
    assert (drawn == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(drawn.max(), torch.tensor(1 / 0.7))


def test_training_stops_when_nothing_improves(toy: Callable[..., Experiment]) -> None:
    """After `patience` epochs, with the best one remembered."""
    loop = loop_of(toy(train__epochs=50, train__patience=3, train__learning_rate=0.03))
    flags = [improved for _, improved in loop.epochs()]
    assert len(flags) < 50
    assert flags[-3:] == [False] * 3
    assert flags[loop.progress.best - 1]


def test_a_loss_that_is_no_number_ends_the_run(toy: Callable[..., Experiment]) -> None:
    """With the setting that would help."""
    loop = loop_of(toy())
    with torch.no_grad():
        loop.network.output.weight.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match=r"lower train.learning_rate \(0.01\)"):
        list(loop.epochs())


def test_the_best_epoch_is_by_the_metric_asked_for() -> None:
    """A lower loss is better, a higher accuracy is; among equals the lower loss decides."""
    epoch = Epoch(1, 0.5, 0.4, 0.9, 0.8, 100.0, 1.0)
    assert [score(vars(epoch), metric)[0] for metric in ("loss", "accuracy", "macro_f1")] == [-0.4, 0.9, 0.8]
    progress = Progress()
    assert progress.add(epoch, "accuracy")
    assert not progress.add(Epoch(2, 0.5, 0.4, 0.9, 0.9, 100.0, 1.0), "accuracy")
    assert not progress.add(Epoch(3, 0.5, 0.1, 0.8, 0.8, 100.0, 1.0), "accuracy")
    assert progress.add(Epoch(4, 0.5, 0.3, 0.9, 0.8, 100.0, 1.0), "accuracy")
    assert progress.best == 4


def pretrained_loop(experiment: Experiment) -> Loop:
    """Return a loop on a corpus where the even words have pretrained vectors."""
    corpus = corpus_of(experiment)
    known = np.arange(len(corpus.pretrained)) % 2 == 0
    known[:2] = False
    corpus = dataclasses.replace(corpus, pretrained=known)
    network = Network(experiment.model, corpus.vectors, len(corpus.labels), experiment.seed)
    return Loop(network, corpus, experiment.train, experiment.seed)


def moved(loop: Loop) -> np.ndarray:
    """Return which words' vectors are not what they were at the start."""
    assert loop.network.vectors is not None
    return (loop.network.vectors.detach().numpy() != loop.corpus.vectors).any(axis=1)


@pytest.mark.parametrize("embedding", ["non-static", "multichannel"])
def test_only_words_without_a_pretrained_vector_may_be_trained(toy: Callable[..., Experiment], embedding: str) -> None:
    """All of those that the texts hold, and no other."""
    loop = pretrained_loop(toy(model__embedding=embedding, model__trained_words="out-of-vocabulary"))
    list(loop.epochs())
    expected = ~loop.corpus.pretrained & (np.bincount(loop.corpus.train.tokens.ids, minlength=len(moved(loop))) > 0)
    assert moved(loop).tolist() == expected.tolist()
    assert expected.any()


def test_frozen_vectors_begin_to_move_after_their_epochs(toy: Callable[..., Experiment]) -> None:
    """The filters learn from the start; patience does not end a run before the vectors were trained."""
    loop = pretrained_loop(toy(model__embedding="non-static", train__frozen_epochs=2, train__epochs=3))
    epochs = loop.epochs()
    for still in (True, True, False):
        next(epochs)
        assert moved(loop).any() != still
    loop = pretrained_loop(
        toy(
            model__embedding="non-static", train__frozen_epochs=4, train__epochs=9, train__patience=1,
            train__learning_rate=1e-9, train__vectors_learning_rate=1e-9,
        )
    )  # fmt: skip
    loop.progress = Progress([Epoch(1, 0, -1, 2, 2, 1, 1)], best=1)  # nothing will be better
    assert [epoch.epoch for epoch, _ in loop.epochs()] == [2, 3, 4, 5]


def test_vectors_may_have_a_learning_rate_of_their_own(toy: Callable[..., Experiment]) -> None:
    """A tenth of the rate moves a word a tenth as far in its first step."""
    distances = []
    for rate in (None, 0.001):
        loop = pretrained_loop(toy(model__embedding="non-static", train__vectors_learning_rate=rate))
        rows = np.arange(8)
        loop.network.train()
        loop.step(collate(loop.corpus.train, rows))
        assert loop.network.vectors is not None
        distances.append(np.abs(loop.network.vectors.detach().numpy() - loop.corpus.vectors).max())
    assert distances[0] == pytest.approx(0.01, rel=1e-3)
    assert distances[1] == pytest.approx(0.001, rel=1e-3)


def test_the_pull_is_that_of_an_l2_penalty_on_the_batchs_words(toy: Callable[..., Experiment]) -> None:
    """The gradient is that of the loss plus half the strength times the squared distance, as torch derives it."""
    experiment = toy(model__embedding="non-static", train__vectors_pull=0.3, model__dropout=0.0)
    loop = pretrained_loop(experiment)
    plain = pretrained_loop(experiment.replace({"train.vectors_pull": 0.0}))
    for each in (loop, plain):
        with torch.no_grad():
            each.network.vectors += 0.1 * torch.arange(12)  # type: ignore[operator]
        each.sparse = None  # gradients are looked at, no step is taken
        each.dense = torch.optim.SGD(each.network.dense_parameters(), lr=0.0)
        each.step(collate(each.corpus.train, np.arange(8)))
    with_pull, without = (each.network.vectors.grad.to_dense() for each in (loop, plain))  # type: ignore[union-attr]
    words = collate(loop.corpus.train, np.arange(8)).words
    table = loop.network.vectors.detach().clone().requires_grad_()  # type: ignore[union-attr]
    (0.5 * 0.3 * ((table - torch.from_numpy(loop.corpus.vectors))[words] ** 2).sum()).backward()
    torch.testing.assert_close(with_pull - without, table.grad)


def test_a_strong_pull_keeps_vectors_near(toy: Callable[..., Experiment]) -> None:
    """And the run goes on as it is, batch after batch."""
    far, near = (
        pretrained_loop(toy(model__embedding="non-static", train__epochs=6, train__vectors_pull=pull))
        for pull in (0.0, 10.0)
    )
    distances = []
    for loop in (far, near):
        list(loop.epochs())
        assert loop.network.vectors is not None
        distances.append(np.linalg.norm(loop.network.vectors.detach().numpy() - loop.corpus.vectors))
    assert distances[1] < distances[0] / 2


def test_learning_rates_fall_to_zero_over_the_epochs(toy: Callable[..., Experiment]) -> None:
    """Linearly from step to step, each from its own; or they stay."""
    for decay, expected in (("linear", [1, 0.75, 0.5, 0.25]), ("none", [1, 1, 1, 1])):
        loop = pretrained_loop(
            toy(
                model__embedding="non-static", train__decay=decay, train__epochs=2, train__patience=9,
                train__batch_size=49, train__vectors_learning_rate=0.2,
            )
        )  # fmt: skip
        rates: list[tuple[float, ...]] = []
        step = loop.step

        def watched(batch: Batch, loop: Loop = loop, step=step, rates=rates) -> torch.Tensor:
            rates.append(tuple(optimizer.param_groups[0]["lr"] for _, optimizer in loop._optimizers()))
            return step(batch)

        loop.step = watched  # type: ignore[method-assign]
        list(loop.epochs())
        np.testing.assert_allclose(rates, [[0.01 * share, 0.2 * share] for share in expected])


def test_random_vectors_learn_faster_unless_told_otherwise(toy: Callable[..., Experiment]) -> None:
    """Three times the rate of all else; a rate that is set counts for every kind."""
    for embedding, rate, expected in (("rand", None, 0.03), ("non-static", None, 0.01), ("rand", 0.002, 0.002)):
        loop = pretrained_loop(toy(model__embedding=embedding, train__vectors_learning_rate=rate))
        loop.network.train()
        loop.step(collate(loop.corpus.train, np.arange(8)))
        assert loop.network.vectors is not None
        assert np.abs(loop.network.vectors.detach().numpy() - loop.corpus.vectors).max() == pytest.approx(
            expected, rel=1e-3
        )
