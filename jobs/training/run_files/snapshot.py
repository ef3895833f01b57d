"""Snapshots of a training loop: captured, written as a checkpoint while training continues, and restored.

All workers have the same state. They call `capture` together, since they divide the rows that it scores; the first one
writes.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from cluster import UsageError, __version__
from jobs.config.abstention import select_classes
from jobs.config.experiment import Experiment
from jobs.config.settings import TrainSettings
from jobs.config.text_distribution import MAX_CLASSES, count_distribution
from jobs.datasets.tokenization.installed import find_package
from jobs.datasets.tokenizer import UNKNOWN
from jobs.evaluation.abstention import select_thresholds
from jobs.evaluation.metrics import bootstrap_intervals, softmax
from jobs.evaluation.multi_label.bootstrap import bootstrap_f1
from jobs.evaluation.multi_label.thresholds import calibrate
from jobs.evaluation.seen_texts import digest_training_texts
from jobs.model.checkpoint import (
    Checkpoint,
    InitialVectors,
    RunConstants,
    TrainingState,
    save_checkpoint,
)
from jobs.model.linear.tensors import CONSTANT_TENSORS, SCALE
from jobs.model.network import Network
from jobs.portable.model_card import render_model_card
from jobs.training.corpora.corpus import Corpus
from jobs.training.history import Progress
from jobs.training.loop import Loop
from jobs.training.validation import Validation, score_texts

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")

VECTORS_DIGEST = "initial_vectors.sha256"
PREDICTED = "validation.predicted"

_vectors_digests: WeakKeyDictionary[Loop, np.ndarray] = WeakKeyDictionary()
_constants: WeakKeyDictionary[Loop, RunConstants] = WeakKeyDictionary()


def capture(experiment: Experiment, corpus: Corpus, loop: Loop, *, resumable: bool) -> Callable[[Path], None]:
    """Copy the loop's state, and return a function that writes it as a checkpoint into an empty folder.

    All workers must call it, and only the first one may call the function.

    Args:
        resumable: include what resuming needs, the optimizers' state and the progress.
    """
    progress = loop.progress
    if progress.epochs and not progress.steps and loop.validation is None and len(loop.corpus.validation):
        loop.validate()  # the state was restored: the scores of the rows are not part of it
    # Within an epoch the weights have changed since the validation.
    calibration: Mapping[str, object] = {} if progress.steps else _calibrate(experiment.train, loop)
    if loop.group.rank:
        return _refuse_to_write
    checkpoint = Checkpoint(
        experiment,
        corpus.labels,
        corpus.words,
        _to_arrays(gather_weights(loop)),
        metrics={
            **(progress.epochs[-1].to_json() if progress.epochs else {}),
            **calibration,
            "rows": len(corpus.train),
            "validation_rows": len(corpus.validation),
            "held_out": corpus.held_out,
            **({"started_from": corpus.started_from} if corpus.started_from else {}),
            "versions": collect_versions(experiment.text.tokenizer),
        },
    )
    state = None
    if resumable:
        state = _to_arrays(gather_optimizer_state(loop))
        state |= {VECTORS_DIGEST: _digest_vectors(loop), PREDICTED: loop.predicted.astype(np.int32)}
    position = progress.to_json() if resumable else None
    if loop not in _constants:
        _constants[loop] = _collect_constants(corpus, loop.network)
    constants = _constants[loop]
    is_best = not progress.steps and progress.best == len(progress.epochs)
    validation = loop.validation if is_best else None

    def write(folder: Path) -> None:
        if validation is not None:  # here, since `train` writes while it trains the next epoch
            checkpoint.metrics.update(_estimate_intervals(validation))
        card = render_model_card(checkpoint)
        save_checkpoint(folder, checkpoint, optimizer_state=state, progress=position, constants=constants, card=card)

    return write


def _estimate_intervals(validation: Validation) -> Mapping[str, list[float]]:
    """Return the confidence intervals of F1 on the validation rows, by their names in metrics.json."""
    labels, predicted = validation.labels, validation.predicted
    if labels.ndim == 1:
        intervals = bootstrap_intervals(labels, predicted, names=["macro_f1"])
        return {"macro_f1_interval": list(intervals["macro_f1"])}
    micro_f1, macro_f1 = bootstrap_f1(labels, predicted)
    return {"micro_f1_interval": list(micro_f1), "macro_f1_interval": list(macro_f1)}


def _refuse_to_write(folder: Path) -> None:
    raise AssertionError(f"{folder}: only the first worker writes a checkpoint")


def _calibrate(settings: TrainSettings, loop: Loop) -> Mapping[str, object]:
    """Return the values of `calibrate` and the distribution of the validation rows, if there are any; with one label
    per text also the thresholds of abstention, if there are any."""
    others = loop.corpus.out_of_scope
    out_of_scope = None if others is None else score_texts(loop, others).numpy()
    if loop.group.rank:
        return {}
    sample, names = loop.logits, loop.corpus.labels
    calibration = calibrate(sample, settings, names)
    values = dict(calibration.to_json())
    if not sample.is_multi_label and (len(sample.labels) or settings.abstention_thresholds is not None):
        values["abstention"] = select_thresholds(
            sample.logits, sample.labels, calibration.temperature, settings, names, out_of_scope
        )
    if len(sample.labels) and len(names) <= MAX_CLASSES:
        best, confidences = select_classes(softmax(sample.logits / calibration.temperature), None)
        lengths, unknown = sample.select(loop.corpus.validation.tokens.lengths), sample.select(_count_unknown(loop))
        values["distribution"] = count_distribution(best, confidences, lengths, unknown, len(names))
    return values


def _count_unknown(loop: Loop) -> np.ndarray:
    """Return the number of unknown tokens of each validation row, `(rows,)` int64."""
    tokens = loop.corpus.validation.tokens
    before = np.concatenate([[0], np.cumsum(tokens.ids == UNKNOWN)])
    return np.diff(before[tokens.offsets])


@cache
def collect_versions(tokenizer: str) -> dict[str, str]:
    """Return the versions of this project, Python, libraries, and the package of an installed tokenizer, by name."""
    libraries = {package: metadata.version(package) for package in ("torch", "ray", "gensim", "numpy")}
    return {"finetune-cnn": __version__, "python": platform.python_version(), **libraries, **find_package(tokenizer)}


def _collect_constants(corpus: Corpus, network: Network) -> RunConstants:
    embedding = network.settings.embedding
    counts = corpus.word_counts()[: 0 if embedding == "static" else None]
    initial = InitialVectors(corpus.vectors[: len(counts)], counts, corpus.pretrained, corpus.scale)
    untrained = {}
    if embedding in ("static", "multichannel"):
        untrained["fixed_vectors"] = corpus.vectors
    elif len(counts) < len(corpus.vectors):
        untrained["vectors"] = corpus.vectors[len(counts) :]
    if network.linear is not None:
        tensors = network.linear.tensors()
        untrained |= {name: tensors[name].cpu().numpy() for name in CONSTANT_TENSORS}
    return RunConstants(initial, untrained, digest_training_texts(block.tokens for block in corpus.token_blocks))


def gather_weights(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of all tensors that training changes, by their names in a checkpoint, on the CPU.

    `vectors` has the rows of the words of the training texts.
    """
    network = loop.network
    weights = network.to_checkpoint_tensors({name: _copy(value) for name, value in network.dense_parameters().items()})
    if network.vectors is not None:
        weights["vectors"] = _copy(network.vectors)
    if network.linear is not None:
        weights[SCALE] = _copy(network.linear.scale)
    return weights


def gather_optimizer_state(loop: Loop) -> dict[str, Tensor]:
    """Return a copy of the optimizers' state by name, on the CPU."""
    state: dict[str, Tensor] = {}
    steps = 0
    for moment in ADAM_MOMENTS:
        moments = {}
        for name, parameter in loop.network.dense_parameters().items():
            parameter_state = loop.dense_optimizer.state.get(parameter)
            steps = int(parameter_state["step"].item()) if parameter_state else 0
            moments[name] = _copy(parameter_state[moment] if parameter_state else torch.zeros_like(parameter))
        named = loop.network.to_checkpoint_tensors(moments)
        state |= {f"{name}.{moment}": value for name, value in named.items()}
        if loop.vectors_optimizer is not None:
            state[f"vectors.{moment}"] = _copy(loop.vectors_optimizer.moments[moment])
    state["steps"] = torch.tensor([steps, loop.vectors_optimizer.steps if loop.vectors_optimizer else 0])
    return state


def restore(loop: Loop, state: TrainingState) -> None:
    """Load a training state into a loop with the same settings, of any number of workers.

    Raises:
        UsageError: the loop has other word vectors, of which a checkpoint would be a mixture. An earlier version did
            not record them.
    """
    if not np.array_equal(state.optimizer_state.get(VECTORS_DIGEST, _digest_vectors(loop)), _digest_vectors(loop)):
        raise UsageError(
            "the run was started with other word vectors: they were trained again since, because the file in the "
            "storage's cache was deleted or replaced; delete the folder of the run to train from the beginning"
        )
    loop.network.load_weights(_to_tensors(state.weights))
    tensors = _to_tensors(state.optimizer_state)
    steps, vector_steps = tensors["steps"].tolist()
    moments = {}
    for moment in ADAM_MOMENTS:
        suffix = f".{moment}"
        parts = {name.removesuffix(suffix): part for name, part in tensors.items() if name.endswith(suffix)}
        moments[moment] = loop.network.from_checkpoint_tensors(parts)
        if loop.vectors_optimizer is not None:
            loop.vectors_optimizer.moments[moment].copy_(parts["vectors"])
            loop.vectors_optimizer.steps = vector_steps
    for name, parameter in loop.network.dense_parameters().items():
        loop.dense_optimizer.state[parameter] = {
            "step": torch.tensor(float(steps), device=loop.device),
            **{moment: moments[moment][name].to(loop.device) for moment in ADAM_MOMENTS},
        }
    loop.progress, loop.validation = Progress.from_json(state.progress), None
    # An earlier version did not record them.
    loop.predicted = state.optimizer_state.get(PREDICTED, loop.predicted).astype(np.int64)


def _digest_vectors(loop: Loop) -> np.ndarray:
    """Return the SHA-256 of the word vectors before training, `(32,)` uint8."""
    if loop not in _vectors_digests:
        content = hashlib.sha256(np.ascontiguousarray(loop.corpus.vectors).data).digest()
        _vectors_digests[loop] = np.frombuffer(content, np.uint8)
    return _vectors_digests[loop]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _to_arrays(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _to_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
