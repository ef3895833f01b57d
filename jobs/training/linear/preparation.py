"""Linear classifier of a run: trained once, by the first worker, which sends it to the others."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from jobs.model.linear.classifier import LinearClassifier
from jobs.model.linear.tensors import SCALE
from jobs.model.network import from_read_only_numpy
from jobs.training.linear.rarity import compute_rarity
from jobs.training.linear.svc import choose_class_weights, train_linear_classifier
from jobs.training.linear.weight import INITIAL_WEIGHT
from jobs.training.process_group import call_with_error_sync

if TYPE_CHECKING:
    from jobs.training.loop import Loop

WAIT_S = 10.0  # between messages to the workers that wait, which would take silence for a failure


def prepare_linear_classifier(loop: "Loop") -> None:
    """Train the linear classifier of `model.linear`, unless the network has it; all workers must call this together.

    A resumed run has that of its checkpoint.
    """
    network, weight = loop.network, loop.settings.linear_weight
    if network.settings.linear == "none":
        return
    base = INITIAL_WEIGHT if weight is None else weight
    weights = base + loop.settings.linear_weight_growth * compute_rarity(loop.corpus)
    scale = torch.from_numpy(weights.astype(np.float32))
    if network.linear is None:
        network.linear = LinearClassifier(_train_once(loop) | {SCALE: scale}).to(loop.device)
    elif weight is not None:  # those of the checkpoint that the run starts from may be others
        network.linear.scale.copy_(scale)


def _train_once(loop: "Loop") -> dict[str, Tensor]:
    """Return the tensors that the first worker trains, on this worker."""
    group, corpus = loop.group, loop.corpus
    weights = choose_class_weights(loop.settings.class_weights, is_multi_label=corpus.train.labels.ndim == 2)
    if group.world_size == 1:
        return _to_tensors(train_linear_classifier(corpus, weights))
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train_linear_classifier, corpus, weights) if group.rank == 0 else None
        while group.any_worker(training is not None and not wait([training], WAIT_S).done):
            pass
    own = call_with_error_sync(group, lambda: {} if training is None else _to_tensors(training.result()))
    layouts = group.broadcast({name: (tensor.shape, tensor.dtype) for name, tensor in own.items()})
    return {
        name: group.broadcast_tensor((own[name] if own else torch.empty(shape, dtype=dtype)).to(loop.device))
        for name, (shape, dtype) in layouts.items()
    }


def _to_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: from_read_only_numpy(array) for name, array in arrays.items()}
