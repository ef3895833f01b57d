"""Training on a GPU: equal results as on the CPU, and no synchronisation. Its operations also run on a CPU."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import load_training_state
from jobs.model.gpu.rates import schedule_rates
from jobs.training.loop import Loop
from jobs.training.run_files.snapshot import capture, gather_optimizer_state, gather_weights, restore
from tests.gpu_path import use_gpu_path
from tests.support.loops import make_loop
from tests.support.torch_network import predict_logits

EMBEDDINGS = ["rand", "static", "non-static", "multichannel"]


def take_steps(loop: Loop, steps: int) -> list[float]:
    """Take steps on random rows, and return their losses."""
    loop.network.train()
    random = np.random.default_rng(0)
    return [loop.step(random.permutation(len(loop.corpus.train))[:13], 1, step).item() for step in range(steps)]


def settings(embedding: str) -> dict[str, object]:
    trained = "out-of-vocabulary" if embedding == "multichannel" else "all"
    return {"model__embedding": embedding, "model__max_norm": 0.5, "train__vectors_pull": 0.01,
            "model__trained_words": trained}  # fmt: skip


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_the_operations_of_a_gpu_give_the_same_losses(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, embedding: str
) -> None:
    """The losses of every step agree, with the same dropout masks and the same word vectors."""
    experiment = make_experiment(**settings(embedding))
    expected = take_steps(make_loop(experiment), 20)
    with monkeypatch.context() as patch:
        use_gpu_path(patch)
        loop = make_loop(experiment)
        np.testing.assert_allclose(take_steps(loop, 20), expected, rtol=1e-3)
    assert loop.network.vectors is None or not loop.network.vectors[0].any(), "padding is not learned"


STATIC_VARIANTS = {
    "rand": {"model.dropout": 0.0},
    "static": {"model.feature_maps": 3, "train.class_weights": {"good": 1, "bad": 3}},
    "non-static": {"train.frozen_epochs": 1, "train.weight_decay": 0.1, "train.vectors_learning_rate": 0.003},
    "multichannel": {"train.precision": "bfloat16", "model.max_norm": None},
}


@pytest.mark.parametrize("embedding", STATIC_VARIANTS)
def test_steps_of_static_shapes_learn_what_other_steps_learn(
    make_experiment: Callable[..., Experiment], embedding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses, weights and optimizers' states after two epochs of several chunks, with a smaller batch at the end."""
    monkeypatch.setattr("jobs.model.gpu.static_steps.CHUNK_TOKENS", 300)
    experiment = make_experiment(
        **settings(embedding), train__epochs=2, train__batch_size=4, train__decay="linear"
    ).replace(STATIC_VARIANTS[embedding])
    expected, loop = make_loop(experiment), make_loop(experiment)
    loop.use_static_steps()
    expected_epochs = [epoch for epoch, _ in expected.train_epochs()]
    epochs = [epoch for epoch in loop.train_with_intervals(interval_s=0) if epoch is not None]
    assert [epoch.train_loss for epoch in epochs] == pytest.approx([e.train_loss for e in expected_epochs], rel=1e-4)
    assert_similar(loop, expected)


def test_a_run_with_static_steps_resumes_within_an_epoch(
    make_experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    """On the CPU the results are equal bit for bit; graphs would be captured again for the restored state."""
    experiment = make_experiment(**settings("multichannel"), train__epochs=2, train__batch_size=4)
    whole, first, second = (make_loop(experiment) for _ in range(3))
    for loop in (whole, first, second):
        loop.use_static_steps()
    list(whole.train_epochs())
    next(epoch for epoch in first.train_with_intervals(interval_s=0) if epoch is None)
    capture(experiment, first.corpus, first, resumable=True)(tmp_path / "checkpoint")
    list(second.train_epochs())
    restore(second, load_training_state(tmp_path / "checkpoint"))
    assert second.progress.steps
    list(second.train_epochs())
    for gather in (gather_weights, gather_optimizer_state):
        for name, value in gather(whole).items():
            assert torch.equal(gather(second)[name], value), name


def assert_similar(loop: Loop, expected: Loop) -> None:
    """The weights and the states of the optimizers agree."""
    for gather in (gather_weights, gather_optimizer_state):
        tensors = gather(loop)
        for name, value in gather(expected).items():
            torch.testing.assert_close(tensors[name], value, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_a_gpu_learns_what_a_cpu_learns(make_experiment: Callable[..., Experiment], embedding: str) -> None:
    """The loss of every step, and the scores after training."""
    experiment = make_experiment(**settings(embedding))
    on_cpu, on_gpu = make_loop(experiment), make_loop(experiment, device="cuda")
    np.testing.assert_allclose(take_steps(on_gpu, 20), take_steps(on_cpu, 20), rtol=1e-3)
    tokens = on_cpu.corpus.validation.tokens
    logits = predict_logits(on_gpu.network, tokens, "cuda")
    torch.testing.assert_close(logits, predict_logits(on_cpu.network, tokens), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("choices", [{}, {"use_triton": False}, {"use_graphs": False}], ids=str)
def test_a_training_on_a_gpu_ends_as_one_on_a_cpu(
    make_experiment: Callable[..., Experiment], embedding: str, choices: dict[str, bool]
) -> None:
    """Losses and validation of three epochs, within the rounding of TF32."""
    experiment = make_experiment(**settings(embedding), train__epochs=3, train__batch_size=16)
    on_cpu, on_gpu = make_loop(experiment), make_loop(experiment, device="cuda")
    on_gpu.use_static_steps(**choices)
    expected, epochs = ([epoch for epoch, _ in loop.train_epochs()] for loop in (on_cpu, on_gpu))
    assert [epoch.train_loss for epoch in epochs] == pytest.approx([e.train_loss for e in expected], rel=1e-2)
    assert [epoch.loss for epoch in epochs] == pytest.approx([e.loss for e in expected], rel=1e-2)
    assert on_gpu.static_steps is not None
    captured = [graph for graph in on_gpu.static_steps.graphs.values() if graph is not None]
    assert bool(captured) == choices.get("use_graphs", True)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_captured_step_waits_for_the_gpu(make_experiment: Callable[..., Experiment]) -> None:
    """Only the beginning of a chunk does, for the numbers of distinct words."""
    loop = make_loop(make_experiment(**settings("multichannel")), device="cuda")
    loop.network.train()
    batches = [np.arange(13)] * 6
    assert loop.static_steps is not None
    rates = schedule_rates(loop.settings, loop.vectors_learning_rate, 1, len(batches))
    steps = loop.static_steps.iter_steps(batches, 0, 1, rates, 0.0)
    for _ in range(3):
        next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in steps:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_waits_for_the_gpu(make_experiment: Callable[..., Experiment], precision: str) -> None:
    """torch raises an error on synchronisation."""
    loop = make_loop(make_experiment(**settings("multichannel"), train__precision=precision), device="cuda")
    loop.network.train()
    loop.step(np.arange(13), 1, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            loop.step(np.arange(13), 1, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.slow
def test_the_tests_marked_gpu_need_no_ray() -> None:
    """They run on a machine with a GPU and without the packages that only other parts of the project need."""
    absent = ["ray", "gensim", "optuna", "tensorboardX", "msgspec", "jiter", "fastapi", "starlette", "uvicorn"]
    script = (
        f"import sys; sys.modules |= dict.fromkeys({absent}); "
        "import tests.conftest, tests.jobs.conftest, tests.jobs.training.test_gpu"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
