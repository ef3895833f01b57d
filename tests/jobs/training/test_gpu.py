"""A GPU learns what a CPU learns, and no step waits for it. Without one, its operations are run on the CPU."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from jobs.config.experiment import Experiment
from jobs.inference.predict import predict_logits
from jobs.model.network import Network
from jobs.training.loop import Loop
from tests.conftest import make_test_corpus
from tests.gpu_path import use_gpu_path

KINDS = ["rand", "static", "non-static", "multichannel"]


def loop_on(device: str, experiment: Experiment) -> Loop:
    corpus = make_test_corpus(experiment)
    network = Network(
        experiment.model, corpus.vectors, 2, experiment.seed, num_trainable_words=len(corpus.word_counts())
    )
    return Loop(network.to(device), corpus, experiment.train, experiment.seed, device=device)


def losses(loop: Loop, steps: int) -> list[float]:
    loop.network.train()
    rows = np.random.default_rng(0)
    return [loop.step(rows.permutation(len(loop.corpus.train))[:13], 1, step).item() for step in range(steps)]


def settings(embedding: str) -> dict[str, object]:
    trained = "out-of-vocabulary" if embedding == "multichannel" else "all"
    return {"model__embedding": embedding, "model__max_norm": 0.5, "train__vectors_pull": 0.01,
            "model__trained_words": trained}  # fmt: skip


@pytest.mark.parametrize("embedding", KINDS)
def test_the_operations_of_a_gpu_learn_the_same(
    make_experiment: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch, embedding: str
) -> None:
    """Step by step, dropout and all: they draw the same masks and touch the same rows."""
    experiment = make_experiment(**settings(embedding))
    expected = losses(loop_on("cpu", experiment), 20)
    with monkeypatch.context() as patch:
        use_gpu_path(patch)
        loop = loop_on("cpu", experiment)
        np.testing.assert_allclose(losses(loop, 20), expected, rtol=1e-3)
    assert loop.network.vectors is None or not loop.network.vectors[0].any(), "padding is not learned"


@pytest.mark.gpu
@pytest.mark.parametrize("embedding", KINDS)
def test_a_gpu_learns_what_a_cpu_learns(make_experiment: Callable[..., Experiment], embedding: str) -> None:
    """Losses step by step, and the scores of a trained network."""
    experiment = make_experiment(**settings(embedding))
    on_cpu, on_gpu = loop_on("cpu", experiment), loop_on("cuda", experiment)
    np.testing.assert_allclose(losses(on_gpu, 20), losses(on_cpu, 20), rtol=1e-3)
    tokens = on_cpu.corpus.validation.tokens
    rows = np.arange(len(tokens))
    found = predict_logits(on_gpu.network, tokens, rows, "cuda")
    torch.testing.assert_close(found, predict_logits(on_cpu.network, tokens, rows), rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_step_waits_for_the_gpu(make_experiment: Callable[..., Experiment], precision: str) -> None:
    """torch raises where something would."""
    loop = loop_on("cuda", make_experiment(**settings("multichannel"), train__precision=precision))
    loop.network.train()
    loop.step(np.arange(13), 1, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3):
            loop.step(np.arange(13), 1, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
