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

MOMENTS = ("exp_avg", "exp_avg_sq")


def take(experiment: Experiment, corpus: Corpus, loop: Loop, *, resumable: bool) -> Callable[[Path], None]:
    """Copy the network, and return what writes it as a checkpoint into an empty folder.

    Args:
        resumable: with all that a run needs to go on.
    """
    progress = loop.progress
    found = checkpoint.Checkpoint(
        experiment,
        corpus.labels,
        corpus.words,
        _arrays(weights(loop)),
        metrics={
            **(vars(progress.epochs[-1]) if progress.epochs else {}),
            "rows": len(corpus.train),
            "held_out": corpus.held_out,
            "versions": checkpoint.provenance(),
        },
    )
    tensors = _arrays(state(loop)) if resumable else None
    position = progress.to_json() if resumable else None
    counts = corpus.counts()
    if loop.network.vectors is None:
        counts = counts[:0]
    seen = slice(len(counts))
    initial = checkpoint.Initial(corpus.vectors[seen], counts, corpus.pretrained[seen], corpus.scale)

    def write(folder: Path) -> None:
        checkpoint.write(folder, found, state=tensors, progress=position, initial=initial)

    return write


def weights(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of the whole network as a checkpoint names it, on the CPU; word vectors on the first worker."""
    network = loop.network
    dense = {name: value.detach() for name, value in network.dense_parameters().items()}
    # Each worker has all word vectors; the first one's are kept.
    vectors = network.vectors_by_channel() if loop.group.rank == 0 else {}
    return vectors | {name: loop.group.add_up(part).cpu() for name, part in network.parts(dense).items()}


def state(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of the optimisers' state by name, on the CPU; that of word vectors on the first worker alone."""
    found = {}
    steps = 0
    for moment in MOMENTS:
        named = {}
        for name, parameter in loop.network.dense_parameters().items():
            known = loop.dense.state.get(parameter)
            steps = int(known["step"].item()) if known else 0
            named[name] = known[moment] if known else torch.zeros_like(parameter)
        for name, part in loop.network.parts(named).items():
            found[f"{name}.{moment}"] = loop.group.add_up(part).cpu()
        if loop.rows is not None and loop.group.rank == 0:
            found[f"vectors.{moment}"] = loop.rows.moments[moment].detach().to("cpu", copy=True)
    found["steps"] = torch.tensor([steps, loop.rows.steps if loop.rows else 0])
    return found


def restore(loop: Loop, resumable: checkpoint.Resumable) -> None:
    """Let a loop go on where one with the same settings was, on any number of workers."""
    loop.network.load(_tensors(resumable.weights))
    found = _tensors(resumable.state)
    steps, row_steps = found["steps"].tolist()
    shares = {}
    for moment in MOMENTS:
        parts = {name.removesuffix(f".{moment}"): part for name, part in found.items() if name.endswith(f".{moment}")}
        shares[moment] = loop.network.share_of(parts)
        if loop.rows is not None:
            loop.rows.moments[moment].copy_(parts["vectors"])
            loop.rows.steps = row_steps
    for name, parameter in loop.network.dense_parameters().items():
        loop.dense.state[parameter] = {
            "step": torch.tensor(float(steps), device=loop.device),
            **{moment: shares[moment][name].to(loop.device) for moment in MOMENTS},
        }
    loop.progress = Progress.from_json(resumable.progress)


def _arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
