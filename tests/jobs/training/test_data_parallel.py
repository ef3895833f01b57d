"""Several workers: they learn what one worker learns, step by step, and what they send does not grow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing

from jobs.config.experiment import Experiment
from jobs.training.corpora import token_blocks
from jobs.training.corpora.corpus import Corpus
from jobs.training.exchange.shared_memory import SharedMemory
from jobs.training.history import Epoch
from jobs.training.linear.preparation import prepare_linear_classifier
from jobs.training.loop import Loop, create_loop
from jobs.training.process_group import ProcessGroup
from jobs.training.run_files.snapshot import gather_optimizer_state, gather_weights
from tests.support.label_sets import make_label_set_rows, write_label_sets
from tests.support.loops import make_loop
from tests.support.threads import run_workers
from tests.support.toy_data import make_test_corpus

BATCH_SIZE = 24


@dataclass
class Trained:
    """What one worker has learned: losses of the steps over the global batch, of the validations, weights and state."""

    losses: list[float]
    validation_losses: list[float]
    tensors: dict[str, torch.Tensor]
    bytes_per_step: float


def train(loop: Loop) -> Trained:
    """Train all epochs, without the messages between processes at their ends."""
    losses, validation_losses = [], []
    prepare_linear_classifier(loop)
    step = loop.step

    def recorded_step(rows: np.ndarray, epoch: int, number: int) -> torch.Tensor:
        loss = step(rows, epoch, number)
        losses.append(loss.item() / len(rows))
        return loss

    loop.step = recorded_step  # type: ignore[method-assign]
    for number in range(1, loop.settings.epochs + 1):
        list(loop._train_epoch())
        validation_losses.append(loop.validate()[0].loss)
        loop.progress.add(Epoch(number, 0.5, None, None, None, 1.0, 1.0), "accuracy")
    tensors = gather_weights(loop) | gather_optimizer_state(loop)
    return Trained(losses, validation_losses, tensors, loop.step_bytes / loop.steps)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch uses one thread, as in a worker: the order of sums depends on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def experiment(make_experiment: Callable[..., Experiment]) -> Experiment:
    """An experiment whose epochs end with a batch of a single row."""
    experiment = make_experiment(
        model__embedding="multichannel", model__feature_maps=3, train__epochs=3, train__batch_size=BATCH_SIZE,
        train__frozen_epochs=1, train__vectors_pull=0.1, train__vectors_learning_rate=0.003, model__max_norm=0.5,
    )  # fmt: skip
    assert len(make_test_corpus(experiment).train) % BATCH_SIZE == 1
    return experiment


VARIANTS: dict[str, dict[str, object]] = {
    "float32": {},
    "bfloat16, some words": {"train.precision": "bfloat16", "model.trained_words": "out-of-vocabulary"},
    "class weights": {"train.class_weights": {"good": 1, "bad": 3}, "train.weight_decay": 0.1},
    "static": {"model.embedding": "static", "train.frozen_epochs": 0, "train.vectors_pull": 0.0},
    "several blocks of texts": {},
    "several labels": {
        "data.multi_label": True, "train.class_weights": "balanced", "model.linear": "words-and-pairs",
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_number_of_workers_does_not_change_what_is_learned(
    variant: str, experiment: Experiment, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1, 2 and 4 workers have the same losses to 1e-5 in every step, dropout included, and similar weights.

    The workers end with the same bits as each other, also where the last batch has no row for them.
    """
    experiment = experiment.replace(VARIANTS[variant])
    if variant == "several blocks of texts":
        monkeypatch.setattr(token_blocks, "BLOCK_TOKENS", 200)
    if variant == "several labels":
        labels = write_label_sets(tmp_path / "labels.jsonl", make_label_set_rows(120))
        experiment = experiment.replace({"data.train": str(labels)})
    corpus = make_test_corpus(experiment)
    single = train(create_loop(experiment, corpus))
    for size in (2, 4):
        first, *others = train_in_threads(size, experiment, corpus)
        np.testing.assert_allclose(first.losses, single.losses, atol=1e-5)
        np.testing.assert_allclose(first.validation_losses, single.validation_losses, atol=1e-5)
        assert_similar(first, single)
        for other in others:
            assert other.losses == first.losses
            assert_equal_bits(other, first)


def train_in_threads(size: int, experiment: Experiment, corpus: Corpus) -> list[Trained]:
    """Return the results of workers that are threads of this process."""
    path = SharedMemory.create_file(size)
    if path is None:
        pytest.skip("this machine has no usable shared memory")
    try:
        return run_workers(path, size, lambda group: train(create_loop(experiment, corpus, group)))
    finally:
        Path(path).unlink()


def assert_similar(trained: Trained, other: Trained) -> None:
    for name, value in other.tensors.items():
        torch.testing.assert_close(trained.tensors[name], value, atol=1e-4, rtol=1e-3)


def assert_equal_bits(trained: Trained, other: Trained) -> None:
    for name, value in other.tensors.items():
        assert torch.equal(trained.tensors[name], value), name


def training_worker(rank: int, size: int, experiments: list[Experiment], folder: str, use_shared_memory: bool) -> None:
    """Train each experiment as one of several processes, and write what was learned."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    results = []
    for experiment in experiments:
        group = ProcessGroup(rank, size)
        if use_shared_memory:
            group.enable_shared_memory()  # without effect on some processors
        loop = make_loop(experiment, group)
        assert (group.broadcast(rank), group.all_gather(rank)) == (0, list(range(size)))
        results.append(train(loop))
    torch.save([vars(result) for result in results], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def train_in_processes(
    size: int, experiments: list[Experiment], folder: Path, use_shared_memory: bool = False
) -> list[list[Trained]]:
    """Return the results of each worker, for each experiment."""
    folder.mkdir()
    multiprocessing.spawn(training_worker, (size, experiments, str(folder), use_shared_memory), nprocs=size)
    workers = [[Trained(**result) for result in torch.load(folder / f"{rank}.pt")] for rank in range(size)]
    return list(zip(*workers, strict=True))


@pytest.mark.slow
def test_workers_with_gloo_and_with_shared_memory_end_with_the_same_bits(
    experiment: Experiment, tmp_path: Path, one_thread: None
) -> None:
    """Sums are in the order of the ranks, whatever carries the messages; threads are as processes."""
    corpus = make_test_corpus(experiment)
    for size, use_shared_memory in ((2, True), (3, False)):
        [processes] = train_in_processes(size, [experiment], tmp_path / str(size), use_shared_memory)
        threads = train_in_threads(size, experiment, corpus)
        for process, thread in zip(processes, threads, strict=True):
            assert process.losses == thread.losses
            assert_equal_bits(process, thread)
            assert process.bytes_per_step == thread.bytes_per_step


def test_messages_between_workers_do_not_grow_with_the_vocabulary(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """A step sends the gradients of the filters and those of a worker's words; static vectors have none."""
    rows = Path(make_experiment().data.train).read_text()
    # More texts, each with words of its own, make the vocabulary longer.
    rare = [" ".join(f"w{number}" for number in range(start, start + 20)) for start in range(0, 5000, 20)]
    longer = tmp_path / "longer.csv"
    longer.write_text(rows + "".join(f'good,"{text}"\n' for text in rare))
    sent = {}
    for embedding in ("static", "non-static"):
        for path in (str(tmp_path / "toy.csv"), str(longer)):
            experiment = make_experiment(
                model__embedding=embedding, train__epochs=1, train__batch_size=BATCH_SIZE, data__train=path
            )
            first, _ = train_in_threads(2, experiment, make_test_corpus(experiment))
            sent[embedding, path == str(longer)] = first.bytes_per_step
    model, tokens, dimensions = experiment.model, 20, 12
    features = len(model.filter_widths) * model.feature_maps
    dense = 4 * (sum(model.filter_widths) * model.feature_maps * dimensions + features + 2 * features + 2 + 1)
    # A half is sent to the other worker, and the sum of the other half.
    assert sent["static", False] == sent["static", True] == pytest.approx(dense, abs=8)
    words = 4 * BATCH_SIZE * tokens * (dimensions + 1)  # all of a batch at most, and their ids
    assert dense < sent["non-static", False] <= dense + words
    assert dense < sent["non-static", True] <= dense + words


def test_a_worker_reads_only_its_rows(experiment: Experiment, one_thread: None) -> None:
    """The tokens of other workers' rows are not read in a step."""
    corpus = make_test_corpus(experiment)
    read: dict[int, list[int]] = {0: [], 1: []}

    def work(group: ProcessGroup) -> None:
        loop = create_loop(experiment, corpus, group)
        collate = loop.texts.collator.collate
        loop.texts.collator.collate = lambda rows: read[group.rank].extend(rows.tolist()) or collate(rows)
        list(loop._train_epoch())

    path = SharedMemory.create_file(2)
    if path is None:
        pytest.skip("this machine has no usable shared memory")
    run_workers(path, 2, work)
    Path(path).unlink()
    assert abs(len(read[0]) - len(read[1])) <= len(corpus.train) / BATCH_SIZE + 1
    assert sorted(read[0] + read[1]) == list(range(len(corpus.train)))
