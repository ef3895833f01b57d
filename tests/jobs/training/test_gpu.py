"""Training on a GPU: equal results as on the CPU, and no synchronisation. Its operations also run on a CPU."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.inference.predict import predict_logits
from jobs.training.loop import Loop
from tests.gpu_path import use_gpu_path
from tests.support.loops import make_loop

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


@pytest.mark.gpu
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_a_gpu_learns_what_a_cpu_learns(make_experiment: Callable[..., Experiment], embedding: str) -> None:
    """The loss of every step, and the scores after training."""
    experiment = make_experiment(**settings(embedding))
    on_cpu, on_gpu = make_loop(experiment), make_loop(experiment, device="cuda")
    np.testing.assert_allclose(take_steps(on_gpu, 20), take_steps(on_cpu, 20), rtol=1e-3)
    tokens = on_cpu.corpus.validation.tokens
    rows = np.arange(len(tokens))
    logits = predict_logits(on_gpu.network, tokens, rows, "cuda")
    torch.testing.assert_close(logits, predict_logits(on_cpu.network, tokens, rows), rtol=1e-2, atol=1e-3)


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
    absent = ["ray", "gensim", "optuna", "tensorboardX", "msgspec", "fastapi", "starlette", "uvicorn"]
    script = (
        f"import sys; sys.modules |= dict.fromkeys({absent}); "
        "import tests.conftest, tests.jobs.conftest, tests.jobs.training.test_gpu"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
