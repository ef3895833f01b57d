"""Snapshots of a training loop: captured, written as a checkpoint while training continues, and restored.

Every worker has a shard of the filters, so all workers must call these functions; the first one writes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jobs.config.experiment import Experiment
from jobs.model.checkpoint import Checkpoint, InitialVectors, TrainingState, collect_versions, save_checkpoint
from jobs.training.corpus import Corpus
from jobs.training.history import Progress
from jobs.training.loop import Loop

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


def capture(experiment: Experiment, corpus: Corpus, loop: Loop, *, resumable: bool) -> Callable[[Path], None]:
    """Copy the loop's state, and return a function that writes it as a checkpoint into an empty folder.

    Args:
        resumable: include what resuming needs, the optimizers' state and the progress.
    """
    progress = loop.progress
    checkpoint = Checkpoint(
        experiment,
        corpus.labels,
        corpus.words,
        _to_arrays(gather_weights(loop)),
        metrics={
            **(vars(progress.epochs[-1]) if progress.epochs else {}),
            "rows": len(corpus.train),
            "held_out": corpus.held_out,
            "versions": collect_versions(),
        },
    )
    state = _to_arrays(gather_optimizer_state(loop)) if resumable else None
    position = progress.to_json() if resumable else None
    counts = corpus.word_counts()
    if loop.network.settings.embedding == "static":
        counts = counts[:0]
    train_words = slice(len(counts))
    initial = InitialVectors(corpus.vectors[train_words], counts, corpus.pretrained[train_words], corpus.scale)

    def write(folder: Path) -> None:
        save_checkpoint(folder, checkpoint, optimizer_state=state, progress=position, initial_vectors=initial)

    return write


def gather_weights(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of the whole network by checkpoint name, on the CPU; word vectors on the first worker only."""
    network = loop.network
    dense = {name: value.detach() for name, value in network.dense_parameters().items()}
    # Every worker has all word vectors, so one copy is enough.
    vectors = network.vectors_by_channel() if loop.group.rank == 0 else {}
    return vectors | {
        name: loop.group.all_reduce(part).cpu() for name, part in network.to_checkpoint_tensors(dense).items()
    }


def gather_optimizer_state(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of the optimizers' state by name, on the CPU; that of word vectors on the first worker only."""
    state = {}
    steps = 0
    for moment in ADAM_MOMENTS:
        shards = {}
        for name, parameter in loop.network.dense_parameters().items():
            parameter_state = loop.dense_optimizer.state.get(parameter)
            steps = int(parameter_state["step"].item()) if parameter_state else 0
            shards[name] = parameter_state[moment] if parameter_state else torch.zeros_like(parameter)
        for name, part in loop.network.to_checkpoint_tensors(shards).items():
            state[f"{name}.{moment}"] = loop.group.all_reduce(part).cpu()
        if loop.vectors_optimizer is not None and loop.group.rank == 0:
            state[f"vectors.{moment}"] = loop.vectors_optimizer.moments[moment].detach().to("cpu", copy=True)
    state["steps"] = torch.tensor([steps, loop.vectors_optimizer.steps if loop.vectors_optimizer else 0])
    return state


def restore(loop: Loop, state: TrainingState) -> None:
    """Load a training state into a loop with the same settings, of any number of workers."""
    loop.network.load_weights(_to_tensors(state.weights))
    tensors = _to_tensors(state.optimizer_state)
    steps, vector_steps = tensors["steps"].tolist()
    shards = {}
    for moment in ADAM_MOMENTS:
        suffix = f".{moment}"
        parts = {name.removesuffix(suffix): part for name, part in tensors.items() if name.endswith(suffix)}
        shards[moment] = loop.network.from_checkpoint_tensors(parts)
        if loop.vectors_optimizer is not None:
            loop.vectors_optimizer.moments[moment].copy_(parts["vectors"])
            loop.vectors_optimizer.steps = vector_steps
    for name, parameter in loop.network.dense_parameters().items():
        loop.dense_optimizer.state[parameter] = {
            "step": torch.tensor(float(steps), device=loop.device),
            **{moment: shards[moment][name].to(loop.device) for moment in ADAM_MOMENTS},
        }
    loop.progress = Progress.from_json(state.progress)


def _to_arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _to_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
