"""Cross-validation: one training for each fold, spread over the cluster by Ray.

A fold trains in a Ray task, on one core of whichever node has one free, and is measured on its test part
at its best epoch. What is finished stays: the same command goes on with the folds that are missing.
"""

import json
import logging
import statistics
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import numpy as np

from cluster import UsageError, resources
from cluster.connection import connect
from cluster.storage import absolute_path, exists, join, lock_folder, read_text, write_text
from jobs.config import conflicts
from jobs.config.experiment import Experiment, digest
from jobs.datasets import dataset
from jobs.datasets.dataset import Dataset
from jobs.datasets.readers import Split
from jobs.datasets.tokenizer import Vocabulary, encode, tokenize
from jobs.embeddings import vector_files as vectors
from jobs.evaluation.metrics import accuracy, macro_f1
from jobs.inference.predict import predict_logits
from jobs.training.corpus import Corpus, build_corpus, load_text_vectors
from jobs.training.loop import create_loop
from jobs.training.run_folder import TRAIN_SETTINGS_NOT_IN_RUN_KEY
from jobs.training.train import say_all

logger = logging.getLogger(__name__)

FoldResult = dict[str, Any]
FOLD_METRICS = ("accuracy", "macro_f1", "loss")


class FoldFailed(UsageError):
    """The training of a fold came to no end."""


def cross_validate(experiment: Experiment) -> str:
    """Train and measure every fold, say the table, and return the path of folds.json.

    Raises:
        FoldFailed, and what reading data and vectors raises.
    """
    say_all(conflicts.check_settings(experiment, {experiment.model.embedding}))
    with connect():
        parts = dataset.load_folds(experiment)
        folder = join(absolute_path(experiment.storage), experiment.name, f"folds-{_key(experiment, parts)}")
        waits = resources.check_capacity(1, experiment.train.cpus_per_worker, 0)
        if waits:
            logger.info(waits)
        with lock_folder(folder):
            write_text(join(folder, "experiment.yaml"), experiment.to_yaml())
            found = _measured(experiment, parts, folder)
        summary = {"folds": [found[number] for number in range(len(parts))], **summarize(found.values())}
        logger.info(format_table(summary))
        path = join(folder, "folds.json")
        write_text(path, json.dumps(summary, indent=1) + "\n")
        return path


def train_and_evaluate(experiment: Experiment, corpus: Corpus, test: Split) -> FoldResult:
    """Train in this process and return the figures of the best epoch, on the validation and the test part.

    Raises:
        TrainingDiverged: the loss is no longer a number.
    """
    import torch

    torch.set_num_threads(experiment.train.cpus_per_worker)
    loop = create_loop(experiment, corpus)
    best: dict[str, torch.Tensor] = {}
    for _, improved in loop.train_epochs():
        if improved:
            best = {name: value.clone() for name, value in loop.network.state_dict().items()}
    loop.network.load_state_dict(best)
    texts = (tokenize(text, experiment.text.lowercase) for text in test.texts)
    tokens = encode(texts, Vocabulary(corpus.words), experiment.text.max_tokens)
    labels = np.array([corpus.labels.index(label) for label in test.labels])
    found = predict_logits(loop.network, tokens, np.arange(len(test)))  # (texts, classes)
    predicted = found.argmax(dim=1).numpy()
    epoch = loop.progress.epochs[loop.progress.best - 1]
    return {
        "epoch": epoch.epoch,
        "rows": len(test),
        "accuracy": accuracy(labels, predicted),
        "macro_f1": macro_f1(labels, predicted),
        "loss": float(torch.nn.functional.cross_entropy(found, torch.from_numpy(labels))),
        "validation": {name: getattr(epoch, name) for name in FOLD_METRICS},
        "examples_per_second": statistics.median(each.examples_per_second for each in loop.progress.epochs),
        "seconds": sum(each.seconds for each in loop.progress.epochs),
    }


def summarize(results: Any) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation (of a sample) of each figure over the folds."""
    values = {name: [result[name] for result in results] for name in FOLD_METRICS}
    return {
        "mean": {name: statistics.mean(each) for name, each in values.items()},
        "deviation": {name: statistics.stdev(each) for name, each in values.items()},
    }


def format_table(summary: dict[str, Any]) -> str:
    """Return a line for each fold, and mean and spread, as text."""
    lines = ["fold   rows   epoch   accuracy   macro F1     loss"]
    for number, result in enumerate(summary["folds"], start=1):
        lines.append(
            f"{number:4d}  {result['rows']:5d}  {result['epoch']:6d}     {result['accuracy']:.4f}     "
            f"{result['macro_f1']:.4f}   {result['loss']:.4f}"
        )
    mean, deviation = summary["mean"], summary["deviation"]
    lines.append(
        "mean (deviation)   " + "   ".join(f"{name} {mean[name]:.4f} ({deviation[name]:.4f})" for name in FOLD_METRICS)
    )
    return "\n".join(lines)


def train_in_parallel(
    jobs: Iterable[tuple[Hashable, Experiment, Any, Split]], cpus_per_task: int
) -> Iterator[tuple[Any, FoldResult]]:
    """Run `measure` for each job in a Ray task, and yield the job's name and result as they end.

    Jobs are asked for one by one, when there is room, so that their corpora need not all be there at once.

    Args:
        jobs: name, experiment, corpus (or Ray's reference to one) and test part.
        cpus_each: that a task takes.

    Raises:
        FoldFailed: one came to no end; says which and why.
    """
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=cpus_per_task)(train_and_evaluate)
    waiting = iter(jobs)
    at_once = max(1, resources.total_cpus() // cpus_per_task)
    running: dict[Any, Hashable] = {}
    while True:
        # One more than the cluster has cores for, so that the next is ready when one ends.
        while len(running) <= at_once and (job := next(waiting, None)) is not None:
            name, experiment, corpus, test = job
            held = corpus if isinstance(corpus, ray.ObjectRef) else ray.put(corpus)
            running[task.remote(experiment, held, test)] = name
        if not running:
            return
        [ended], _ = ray.wait(list(running))
        name = running.pop(ended)
        try:
            yield name, ray.get(ended)
        except RayTaskError as error:
            if isinstance(error.cause, UsageError):
                raise FoldFailed(f"{name}: {error.cause}") from error
            raise


def _measured(experiment: Experiment, parts: list[Dataset], folder: str) -> dict[int, FoldResult]:
    """Return each fold's result, of those that are there and those that are now trained."""
    found = {
        number: json.loads(read_text(path))
        for number in range(len(parts))
        if exists(path := join(folder, f"fold-{number + 1}.json"))
    }
    if found:
        logger.info(f"{len(found)} of {len(parts)} folds are finished")
    corpora = _corpora(experiment, parts, set(range(len(parts))) - set(found))
    jobs = ((f"fold {number + 1}", experiment, corpus, parts[number].test) for number, corpus in corpora)
    for name, result in train_in_parallel(jobs, experiment.train.cpus_per_worker):
        number = int(name.removeprefix("fold ")) - 1
        write_text(join(folder, f"fold-{number + 1}.json"), json.dumps(result, indent=1) + "\n")
        found[number] = result
        logger.info(
            f"{name}, {len(found)} of {len(parts)}   accuracy {result['accuracy']:.4f}   "
            f"macro F1 {result['macro_f1']:.4f}   epoch {result['epoch']}, {result['seconds']:.0f} s"
        )
    return found


def _corpora(experiment: Experiment, parts: list[Dataset], numbers: set[int]) -> Iterator[tuple[int, Corpus]]:
    """Yield the corpus of each fold; a vectors file is read once for all."""
    pretrained = experiment.model.embedding != "rand"
    found = None
    for number in sorted(numbers):
        part = parts[number]
        if pretrained and experiment.vectors.path is not None and found is None:
            found = load_text_vectors(experiment, [*part.train.texts, *part.validation.texts, *part.test.texts])
        yield number, build_corpus(experiment, part, use_pretrained=pretrained, word_vectors=found)


def _key(experiment: Experiment, parts: list[Dataset]) -> str:
    """Return what identifies a cross-validation: rows, vectors and all settings that decide its result."""
    settings = experiment.model_dump(include={"text", "vectors", "model", "seed"})
    settings["train"] = experiment.train.model_dump(exclude=TRAIN_SETTINGS_NOT_IN_RUN_KEY)
    rows = [part.digest() for each in parts for part in (each.train, each.validation, each.test)]
    pretrained = None
    if experiment.model.embedding != "rand":
        pretrained = [vectors.fingerprint(experiment.vectors), str(parts[0].pretraining_file)]
    return digest([settings, rows, pretrained])
