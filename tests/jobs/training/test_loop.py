"""The training loop: the same with any number of workers, and exact when it goes on."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import load_training_state
from jobs.model.network import Network
from jobs.training.history import Epoch, Progress
from jobs.training.loop import Loop, TrainingDiverged
from jobs.training.process_group import ProcessGroup
from jobs.training.snapshot import capture, gather_optimizer_state, gather_weights, restore
from tests.conftest import make_test_corpus
from tests.support.loops import loop_of


def losses_of(loop: Loop) -> list[float]:
    """Train, and return the loss of each step over the global batch."""
    losses = []
    step = loop.step

    def watched(rows: np.ndarray, epoch: int, number: int) -> torch.Tensor:
        total = step(rows, epoch, number)
        losses.append(total.item() / len(rows))
        return total

    loop.step = watched  # type: ignore[method-assign]
    list(loop.train_epochs())
    return losses


def worker(rank: int, size: int, experiments: list[Experiment], folder: str, near: bool) -> None:
    """One of several processes that train together, by gloo or as neighbours; writes its losses and the weights."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    found = []
    for experiment in experiments:
        group = ProcessGroup(rank, size)
        if near:
            group.enable_shared_memory()  # which it does not on every processor; then it is as without
        loop = loop_of(experiment, group)
        losses = losses_of(loop)
        sent = loop.step_bytes / loop.steps
        assert (loop.group.broadcast(rank), loop.group.all_gather(rank)) == (0, list(range(size)))
        # The first worker's word vectors are written; all must have the same.
        vectors = loop.network.vectors_by_channel()
        found.append(
            {
                "losses": losses,
                "weights": gather_weights(loop) | vectors,
                "state": gather_optimizer_state(loop),
                "bytes": sent,
            }
        )
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def together(size: int, experiments: list[Experiment], folder: Path, near: bool = False) -> list[list[dict]]:
    """Return what each of so many workers found, for each experiment."""
    folder.mkdir()
    run = functools.partial(worker, size=size, experiments=experiments, folder=str(folder), near=near)
    multiprocessing.spawn(run, nprocs=size)
    return list(zip(*(torch.load(folder / f"{rank}.pt") for rank in range(size)), strict=True))


@pytest.mark.slow
def test_the_number_of_workers_does_not_change_what_is_learned(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """1, 2 and 4 workers give the same losses to 1e-5, step by step, dropout and all, and end alike.

    Two end with the same bits whether they are on one machine or on two. Four workers share three filters of a width,
    so that one has none.
    """
    experiment = make_experiment(
        model__embedding="multichannel", model__feature_maps=3, train__epochs=3, train__batch_size=19,
        train__frozen_epochs=1, train__vectors_pull=0.1, train__vectors_learning_rate=0.003, model__max_norm=0.5,
    )  # fmt: skip
    one = loop_of(experiment)
    alone = losses_of(one)
    apart = None
    for size, near in ((2, False), (2, True), (4, True)):
        [found] = together(size, [experiment], tmp_path / f"{size}-{near}", near)
        if size == 2:
            apart = apart or found[0]
            assert found[0]["losses"] == apart["losses"]
            assert all(torch.equal(value, apart["weights"][key]) for key, value in found[0]["weights"].items())
        np.testing.assert_allclose(found[0]["losses"], alone, atol=1e-5)
        for key, value in gather_weights(one).items():
            torch.testing.assert_close(found[0]["weights"][key], value, atol=1e-4, rtol=1e-3)
        for other in found[1:]:
            for kind in ("weights", "state"):
                for key, value in other[kind].items():
                    assert torch.equal(value, found[0][kind][key]), f"{key} differs between workers"


@pytest.mark.slow
def test_what_crosses_the_network_does_not_grow_with_the_vocabulary(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A step sends scores and the touched rows; with static vectors the scores alone."""
    usual = Path(make_experiment().data.train).read_text()
    # Rows that no batch but their own touches make the vocabulary longer.
    rare = [" ".join(f"w{number}" for number in range(at, at + 20)) for at in range(0, 5000, 20)]
    longer = tmp_path / "longer.csv"
    longer.write_text(usual + "".join(f'good,"{text}"\n' for text in rare))
    experiments = [
        make_experiment(model__embedding=embedding, train__epochs=1, train__batch_size=19, data__train=path)
        for embedding in ("static", "non-static")
        for path in (str(tmp_path / "toy.csv"), str(longer))
    ]
    found = [each[0]["bytes"] for each in together(2, experiments, tmp_path / "together")]
    sent = dict(zip([("static", 0), ("static", 5000), ("non-static", 0), ("non-static", 5000)], found, strict=True))
    classes, rows, dimensions = 2, 19, 12
    scores = 4 * (classes * rows + classes)  # and the lengths of the classes' rows
    assert 0 < sent["static", 0] <= scores
    assert 0 < sent["static", 5000] <= scores
    assert scores < sent["non-static", 5000] <= scores + 4 * dimensions * 20 * rows  # words that a batch can hold


@pytest.mark.parametrize("within", [False, True])
def test_a_run_that_goes_on_ends_as_one_that_never_stopped(
    make_experiment: Callable[..., Experiment], tmp_path: Path, within: bool
) -> None:
    """Bit for bit, dropout and all, after an epoch or in the middle of one."""
    experiment = make_experiment(
        model__embedding="multichannel", train__epochs=4, train__patience=9, train__frozen_epochs=1,
        train__vectors_pull=0.1, train__vectors_learning_rate=0.003, train__batch_size=4, model__max_norm=0.5,
    )  # fmt: skip
    whole = loop_of(experiment)
    list(whole.train_epochs())
    first = loop_of(experiment)
    for _moment in first.train_with_pauses(interval_s=0):
        if len(first.progress.epochs) == 2 and bool(first.progress.steps) == within:
            break
    capture(experiment, first.corpus, first, resumable=True)(tmp_path / "checkpoint")
    second = loop_of(experiment)
    restore(second, load_training_state(tmp_path / "checkpoint"))
    assert bool(second.progress.steps) == within
    assert [epoch.epoch for epoch, _ in second.train_epochs()] == [3, 4]
    for kind in (gather_weights, gather_optimizer_state):
        for key, value in kind(whole).items():
            assert torch.equal(value, kind(second)[key]), key
    for ours, theirs in zip(whole.progress.epochs, second.progress.epochs, strict=True):
        assert (ours.train_loss, ours.loss, ours.accuracy) == (theirs.train_loss, theirs.loss, theirs.accuracy)


def test_moments_within_an_epoch_come_as_often_as_asked(make_experiment: Callable[..., Experiment]) -> None:
    """And change nothing; without an interval there are only epochs."""
    experiment = make_experiment(train__epochs=2, train__batch_size=2)
    plain, paused = loop_of(experiment), loop_of(experiment)
    assert all(moment is not None for moment in plain.train_with_pauses())
    moments = list(paused.train_with_pauses(interval_s=0))
    assert sum(moment is None for moment in moments) == 2 * ((-(-len(paused.corpus.train) // 2) - 1) // 16)
    assert [moment.train_loss for moment in moments if moment] == [e.train_loss for e in plain.progress.epochs]
    assert torch.equal(plain.network.filters, paused.network.filters)


def test_it_learns(make_experiment: Callable[..., Experiment]) -> None:
    """A word decides the class, and is found."""
    epochs = [
        epoch
        for epoch, _ in loop_of(
            make_experiment(train__epochs=12, train__patience=12, train__decay="none")
        ).train_epochs()
    ]
    assert epochs[-1].accuracy > 0.85
    assert epochs[-1].train_loss < epochs[0].train_loss / 2


@pytest.mark.parametrize("embedding", ["rand", "static", "non-static", "multichannel"])
def test_only_trained_vectors_move_and_padding_never(
    make_experiment: Callable[..., Experiment], embedding: str
) -> None:
    """Row 0 stays zero; the fixed channel stays as it came."""
    loop = loop_of(make_experiment(model__embedding=embedding))
    list(loop.train_epochs())
    network = loop.network
    if network.vectors is not None:
        assert not network.vectors[0].any()
        assert not np.array_equal(network.vectors.detach().numpy(), loop.corpus.vectors)
    assert np.array_equal(network.initial.numpy(), loop.corpus.vectors)
    if network.has_fixed:
        assert np.array_equal(gather_weights(loop)["fixed_vectors"].numpy(), loop.corpus.vectors)


def test_a_step_is_that_of_torchs_adam_on_the_whole_network(make_experiment: Callable[..., Experiment]) -> None:
    """Filters, output and touched words move as torch's own Adam moves them; other words stay where they were."""
    experiment = make_experiment(model__embedding="non-static", model__dropout=0.0, model__max_norm=None)
    loop = loop_of(experiment)
    rows = np.arange(4)
    initial = loop.network.vectors.detach().clone()
    plain = Network(experiment.model, loop.corpus.vectors, len(loop.corpus.labels), experiment.seed)
    batch = loop.train_collator.collate(rows)
    words = torch.nn.Parameter(plain.vectors[batch.word_ids].detach().clone())
    adam = torch.optim.Adam([*plain.dense_parameters().values(), words], lr=experiment.train.learning_rate)
    scores = plain.forward_features(batch, words) @ plain.output.T + plain.output_bias
    loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(loop.corpus.train.labels[rows]))
    loss.backward()
    adam.step()
    loop.network.train()
    assert loop.step(rows).item() / 4 == pytest.approx(loss.item(), rel=1e-6)
    torch.testing.assert_close(loop.network.vectors[batch.word_ids], words.detach(), rtol=1e-5, atol=1e-6)
    for name, parameter in loop.network.dense_parameters().items():
        torch.testing.assert_close(parameter, plain.dense_parameters()[name], rtol=1e-5, atol=1e-6)
    others = torch.ones(len(initial), dtype=torch.bool)
    others[batch.word_ids] = False
    assert torch.equal(loop.network.vectors[others], initial[others])


def test_an_epoch_keeps_the_norm_of_the_last_layer(make_experiment: Callable[..., Experiment]) -> None:
    """However long the rows were, and in the scores of every step; shorter rows stay."""
    loop = loop_of(make_experiment(model__max_norm=0.01, train__epochs=1))
    list(loop.train_epochs())
    assert loop.network.output.norm(dim=1).max() <= 0.01 + 1e-6
    network = loop.network
    with torch.no_grad():
        network.output[0] *= 100
        network.output[1] *= 0.5
    hidden = torch.ones(1, network.output.shape[1])
    kept = network.output[1].clone()
    found = loop._scores(hidden, limit=True)
    assert network.output[0].norm().item() == pytest.approx(0.01, rel=1e-4)
    assert torch.equal(network.output[1], kept)
    torch.testing.assert_close(found, hidden @ network.output.T + network.output_bias)


def test_weight_decay_draws_the_filters_to_zero(make_experiment: Callable[..., Experiment]) -> None:
    """And leaves the word vectors alone."""
    free, decayed = (loop_of(make_experiment(train__weight_decay=decay)) for decay in (0.0, 0.5))
    for loop in (free, decayed):
        loop.network.train()
        loop.step(np.arange(4))
    assert decayed.network.filters.norm() < free.network.filters.norm()
    assert torch.equal(decayed.network.vectors, free.network.vectors)


def test_each_epoch_drops_other_features(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of them that `dropout` says."""
    loop = loop_of(make_experiment(model__dropout=0.3, model__feature_maps=50, train__epochs=2))
    masks = []
    draw = loop.dropout_mask
    monkeypatch.setattr(loop, "dropout_mask", lambda *step: masks.append(draw(*step)) or masks[-1])
    list(loop.train_epochs())
    first, second = masks[0], masks[len(masks) // 2]
    assert len({mask[0].sum().item() for mask in masks}) > len(masks) / 2
    assert not torch.equal(first, second)
    drawn = torch.cat(masks)
    assert (drawn == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(drawn.max(), torch.tensor(1 / 0.7))


def test_training_stops_when_nothing_improves(make_experiment: Callable[..., Experiment]) -> None:
    """After `patience` epochs, with the best one remembered."""
    loop = loop_of(make_experiment(train__epochs=50, train__patience=3, train__learning_rate=0.03))
    flags = [improved for _, improved in loop.train_epochs()]
    assert len(flags) < 50
    assert flags[-3:] == [False] * 3
    assert flags[loop.progress.best - 1]


def test_a_loss_that_is_no_number_ends_the_run(make_experiment: Callable[..., Experiment]) -> None:
    """With the setting that would help."""
    loop = loop_of(make_experiment())
    with torch.no_grad():
        loop.network.output.fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match=r"lower train.learning_rate \(0.01\)"):
        list(loop.train_epochs())


def pretrained_loop(experiment: Experiment) -> Loop:
    """Return a loop on a corpus where the even words have pretrained vectors."""
    corpus = make_test_corpus(experiment)
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
def test_only_words_without_a_pretrained_vector_may_be_trained(
    make_experiment: Callable[..., Experiment], embedding: str
) -> None:
    """All of those that the texts hold, and no other."""
    loop = pretrained_loop(make_experiment(model__embedding=embedding, model__trained_words="out-of-vocabulary"))
    list(loop.train_epochs())
    expected = ~loop.corpus.pretrained & (np.bincount(loop.corpus.train.tokens.ids, minlength=len(moved(loop))) > 0)
    assert moved(loop).tolist() == expected.tolist()
    assert expected.any()


def test_frozen_vectors_begin_to_move_after_their_epochs(make_experiment: Callable[..., Experiment]) -> None:
    """The filters learn from the start; patience does not end a run before the vectors were trained."""
    loop = pretrained_loop(make_experiment(model__embedding="non-static", train__frozen_epochs=2, train__epochs=3))
    epochs = loop.train_epochs()
    for still in (True, True, False):
        next(epochs)
        assert moved(loop).any() != still
    loop = pretrained_loop(
        make_experiment(
            model__embedding="non-static", train__frozen_epochs=4, train__epochs=9, train__patience=1,
            train__learning_rate=1e-9, train__vectors_learning_rate=1e-9,
        )
    )  # fmt: skip
    loop.progress = Progress([Epoch(1, 0, -1, 2, 2, 1, 1)], best=1)  # nothing will be better
    assert [epoch.epoch for epoch, _ in loop.train_epochs()] == [2, 3, 4, 5]


def test_vectors_may_have_a_learning_rate_of_their_own(make_experiment: Callable[..., Experiment]) -> None:
    """A tenth of the rate moves a word a tenth as far in its first step."""
    distances = []
    for rate in (None, 0.001):
        loop = pretrained_loop(make_experiment(model__embedding="non-static", train__vectors_learning_rate=rate))
        rows = np.arange(8)
        loop.network.train()
        loop.step(rows)
        assert loop.network.vectors is not None
        distances.append(np.abs(loop.network.vectors.detach().numpy() - loop.corpus.vectors).max())
    assert distances[0] == pytest.approx(0.01, rel=1e-3)
    assert distances[1] == pytest.approx(0.001, rel=1e-3)


def test_the_pull_is_that_of_an_l2_penalty_on_the_batchs_words(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is that of the loss plus half the strength times the squared distance, as torch derives it."""
    experiment = make_experiment(model__embedding="non-static", train__vectors_pull=0.3, model__dropout=0.0)
    loop = pretrained_loop(experiment)
    plain = pretrained_loop(experiment.replace({"train.vectors_pull": 0.0}))
    found = []
    for each in (loop, plain):
        with torch.no_grad():
            each.network.vectors += 0.1 * torch.arange(12)  # type: ignore[operator]
        each.network.train()
        monkeypatch.setattr(
            each.vectors_optimizer, "step", lambda words, gradient: found.append((words, gradient.clone()))
        )
        each.step(np.arange(8))
    (words, with_pull), (_, without) = found
    table = loop.network.vectors.detach().clone().requires_grad_()  # type: ignore[union-attr]
    (0.5 * 0.3 * ((table - torch.from_numpy(loop.corpus.vectors))[words] ** 2).sum()).backward()
    torch.testing.assert_close(with_pull - without, table.grad[words], rtol=1e-4, atol=1e-6)


def test_a_strong_pull_keeps_vectors_near(make_experiment: Callable[..., Experiment]) -> None:
    """And the run goes on as it is, batch after batch."""
    far, near = (
        pretrained_loop(make_experiment(model__embedding="non-static", train__epochs=6, train__vectors_pull=pull))
        for pull in (0.0, 10.0)
    )
    distances = []
    for loop in (far, near):
        list(loop.train_epochs())
        assert loop.network.vectors is not None
        distances.append(np.linalg.norm(loop.network.vectors.detach().numpy() - loop.corpus.vectors))
    assert distances[1] < distances[0] / 2


def test_learning_rates_fall_to_zero_over_the_epochs(make_experiment: Callable[..., Experiment]) -> None:
    """Linearly from step to step, each from its own; or they stay."""
    for decay, expected in (("linear", [1, 0.75, 0.5, 0.25]), ("none", [1, 1, 1, 1])):
        loop = pretrained_loop(
            make_experiment(
                model__embedding="non-static", train__decay=decay, train__epochs=2, train__patience=9,
                train__batch_size=49, train__vectors_learning_rate=0.2,
            )
        )  # fmt: skip
        rates: list[tuple[float, ...]] = []
        step = loop.step

        def watched(rows: np.ndarray, *at: int, loop: Loop = loop, step=step, rates=rates) -> torch.Tensor:
            rates.append((loop.dense_optimizer.param_groups[0]["lr"], loop.vectors_optimizer.learning_rate))
            return step(rows, *at)

        loop.step = watched  # type: ignore[method-assign]
        list(loop.train_epochs())
        np.testing.assert_allclose(rates, [[0.01 * share, 0.2 * share] for share in expected])


def test_random_vectors_learn_faster_unless_told_otherwise(make_experiment: Callable[..., Experiment]) -> None:
    """Three times the rate of all else; a rate that is set counts for every kind."""
    for embedding, rate, expected in (("rand", None, 0.03), ("non-static", None, 0.01), ("rand", 0.002, 0.002)):
        loop = pretrained_loop(make_experiment(model__embedding=embedding, train__vectors_learning_rate=rate))
        loop.network.train()
        loop.step(np.arange(8))
        assert loop.network.vectors is not None
        assert np.abs(loop.network.vectors.detach().numpy() - loop.corpus.vectors).max() == pytest.approx(
            expected, rel=1e-3
        )
