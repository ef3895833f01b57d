"""A training loop as it is at a moment: taken, to be written while it goes on, and put back.

Every worker holds a share of the filters, so all of them must ask; the first one writes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jobs.config.experiment import Experiment
from jobs.model import checkpoint
from jobs.training.corpus import Corpus
from jobs.training.history import Progress
from jobs.training.loop import Loop

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")


def capture(experiment: Experiment, corpus: Corpus, loop: Loop, *, resumable: bool) -> Callable[[Path], None]:
    """Copy the network, and return what writes it as a checkpoint into an empty folder.

    Args:
        resumable: with all that a run needs to go on.
    """
    progress = loop.progress
    found = checkpoint.Checkpoint(
        experiment,
        corpus.labels,
        corpus.words,
        _arrays(gather_weights(loop)),
        metrics={
            **(vars(progress.epochs[-1]) if progress.epochs else {}),
            "rows": len(corpus.train),
            "held_out": corpus.held_out,
            "versions": checkpoint.collect_versions(),
        },
    )
    tensors = _arrays(gather_optimizer_state(loop)) if resumable else None
    position = progress.to_json() if resumable else None
    counts = corpus.word_counts()
    if loop.network.vectors is None:
        counts = counts[:0]
    seen = slice(len(counts))
    initial = checkpoint.InitialVectors(corpus.vectors[seen], counts, corpus.pretrained[seen], corpus.scale)

    def write(folder: Path) -> None:
        checkpoint.save_checkpoint(folder, found, optimizer_state=tensors, progress=position, initial_vectors=initial)

    return write


def gather_weights(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of the whole network as a checkpoint names it, on the CPU; word vectors on the first worker."""
    network = loop.network
    dense = {name: value.detach() for name, value in network.dense_parameters().items()}
    # Each worker has all word vectors; the first one's are kept.
    vectors = network.vectors_by_channel() if loop.group.rank == 0 else {}
    return vectors | {
        name: loop.group.all_reduce(part).cpu() for name, part in network.to_checkpoint_tensors(dense).items()
    }


def gather_optimizer_state(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of the optimisers' state by name, on the CPU; that of word vectors on the first worker alone."""
    found = {}
    steps = 0
    for moment in ADAM_MOMENTS:
        named = {}
        for name, parameter in loop.network.dense_parameters().items():
            known = loop.dense_optimizer.state.get(parameter)
            steps = int(known["step"].item()) if known else 0
            named[name] = known[moment] if known else torch.zeros_like(parameter)
        for name, part in loop.network.to_checkpoint_tensors(named).items():
            found[f"{name}.{moment}"] = loop.group.all_reduce(part).cpu()
        if loop.vectors_optimizer is not None and loop.group.rank == 0:
            found[f"vectors.{moment}"] = loop.vectors_optimizer.moments[moment].detach().to("cpu", copy=True)
    found["steps"] = torch.tensor([steps, loop.vectors_optimizer.steps if loop.vectors_optimizer else 0])
    return found


def restore(loop: Loop, resumable: checkpoint.TrainingState) -> None:
    """Let a loop go on where one with the same settings was, on any number of workers."""
    loop.network.load_weights(_tensors(resumable.weights))
    found = _tensors(resumable.optimizer_state)
    steps, row_steps = found["steps"].tolist()
    shares = {}
    for moment in ADAM_MOMENTS:
        parts = {name.removesuffix(f".{moment}"): part for name, part in found.items() if name.endswith(f".{moment}")}
        shares[moment] = loop.network.from_checkpoint_tensors(parts)
        if loop.vectors_optimizer is not None:
            loop.vectors_optimizer.moments[moment].copy_(parts["vectors"])
            loop.vectors_optimizer.steps = row_steps
    for name, parameter in loop.network.dense_parameters().items():
        loop.dense_optimizer.state[parameter] = {
            "step": torch.tensor(float(steps), device=loop.device),
            **{moment: shares[moment][name].to(loop.device) for moment in ADAM_MOMENTS},
        }
    loop.progress = Progress.from_json(resumable.progress)


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
