"""Cross-validation: one training for each fold, in parallel processes of this machine or Ray tasks of a cluster.

    finetune-cnn cross-validate experiment.yaml --folds 5

A fold trains by default on one core, and its best epoch is evaluated on the fold's test part. Results of finished folds
are saved: the same command trains only the missing ones.
"""

import json
import logging
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from cluster import UsageError, resources
from cluster.connection import connect, resolve_address
from cluster.console.logs import RESULT
from cluster.console.progress import count_bar
from cluster.console.tables import format_text_table
from cluster.storage import absolute_path, exists, join, lock_folder, read_text, write_json, write_text
from jobs.config.conflicts import check_fold_settings, check_settings
from jobs.config.experiment import Experiment, digest
from jobs.datasets.dataset import Dataset, load_folds
from jobs.datasets.label_sets import encode_labels
from jobs.datasets.readers import Split
from jobs.datasets.tokenization.text_tokens import tokenize_texts
from jobs.datasets.tokenizer import Vocabulary, encode
from jobs.embeddings.input_checks import check_inputs
from jobs.embeddings.word_vectors import WordVectors
from jobs.evaluation.metrics import accuracy, balanced_accuracy, macro_f1, matthews_correlation
from jobs.evaluation.multi_label.metrics import count_labels, sigmoid, subset_accuracy
from jobs.evaluation.multi_label.thresholds import Calibration, calibrate
from jobs.model.network import compute_row_losses
from jobs.training.corpora.building import build_corpus, load_text_vectors
from jobs.training.corpora.corpus import Corpus
from jobs.training.corpora.sharing import put_corpus
from jobs.training.loop import create_loop
from jobs.training.parallel_tasks import Task, TaskFailed, TaskResults, run_in_processes
from jobs.training.run_files.run_folder import model_settings_key, text_settings_key, train_settings_key
from jobs.training.validation import score_texts

logger = logging.getLogger(__name__)

# Those of one and of several labels per text, in the order of the table.
FOLD_METRICS = ("micro_f1", "accuracy", "macro_f1", "balanced_accuracy", "matthews_correlation", "loss")

NameType = TypeVar("NameType")


@dataclass(frozen=True)
class FoldResult:
    """Result of one fold: metrics of the best epoch on the test part.

    epoch: the best one, from 1. rows: of the test part. validation: the same metrics on the validation part.
    examples_per_second: median of all epochs. seconds: of all epochs. micro_f1: with several labels per text; their
    thresholds are chosen on the validation part. balanced_accuracy, matthews_correlation: with one label per text; None
    in results of earlier versions.
    """

    epoch: int
    rows: int
    accuracy: float
    macro_f1: float
    loss: float
    validation: Mapping[str, float]
    examples_per_second: float
    seconds: float
    micro_f1: float | None = None
    balanced_accuracy: float | None = None
    matthews_correlation: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def cross_validate(experiment: Experiment, folds: int) -> str:
    """Train and evaluate every fold, log the results, and return the path of folds.json.

    Raises:
        TaskFailed, and the errors of the settings and of reading data and vectors.
    """
    for warning in [*check_settings(experiment, {experiment.model.embedding}), *check_fold_settings(experiment)]:
        logger.warning(warning)
    check_inputs(experiment)
    datasets, word_vectors, name = load_fold_inputs(experiment, folds)
    for note in datasets[0].notes:
        logger.info(note)
    on_this_machine = resolve_address() is None and not ray.is_initialized()
    with nullcontext() if on_this_machine else connect():
        folder = join(absolute_path(experiment.storage), experiment.name, name)
        cpus = experiment.train.cpus_per_worker
        wait_notice = None if on_this_machine else resources.check_capacity(1, cpus, 0, "train.cpus_per_worker")
        if wait_notice:
            logger.info(wait_notice)
        with lock_folder(folder):
            write_text(join(folder, "experiment.yaml"), experiment.to_yaml())
            results = _train_missing_folds(experiment, datasets, word_vectors, folder)
        logger.log(RESULT, format_table(results))
        path = join(folder, "folds.json")
        write_json(path, {"folds": [result.to_json() for result in results], **summarize(results)})
        return path


def load_fold_inputs(experiment: Experiment, folds: int) -> tuple[list[Dataset], WordVectors | None, str]:
    """Return the datasets, the vectors of the file, and the name of the folder of the results; errors of reading."""
    datasets = load_folds(experiment, folds)
    word_vectors = _read_vectors(experiment, datasets[0])
    return datasets, word_vectors, f"folds-{_key(experiment, datasets, word_vectors)}"


def read_finished_folds(folder: str, folds: int) -> dict[int, FoldResult]:
    """Return the saved results of finished folds by number, from 1."""
    paths = {number: join(folder, f"fold-{number}.json") for number in range(1, folds + 1)}
    return {number: FoldResult(**json.loads(read_text(path))) for number, path in paths.items() if exists(path)}


def train_and_evaluate(experiment: Experiment, corpus: Corpus, test: Split) -> FoldResult:
    """Train in this process, and return the metrics of the best epoch on the validation and the test part.

    Raises:
        TrainingDiverged: the loss became NaN or infinite.
    """
    torch.set_num_threads(experiment.train.cpus_per_worker)
    loop = create_loop(experiment, corpus)
    best: dict[str, torch.Tensor] = {}
    calibration = Calibration(1.0)
    for _, improved in loop.train_epochs():
        if improved:
            if loop.logits.is_multi_label:
                calibration = calibrate(loop.logits, loop.settings, corpus.labels)
            best = {name: value.clone() for name, value in loop.network.state_dict().items()}
    loop.network.load_state_dict(best)
    texts = tokenize_texts(test.texts, experiment.text)
    tokens = encode(texts, Vocabulary(corpus.words, experiment.text.max_edit_distance), experiment.text.max_tokens)
    labels = encode_labels(test, corpus.labels)
    logits = score_texts(loop, tokens)  # (texts, classes)
    epochs = loop.progress.epochs
    best_epoch = epochs[loop.progress.best - 1]
    return FoldResult(
        epoch=best_epoch.epoch,
        rows=len(test),
        **(_measure(labels, logits) if labels.ndim == 1 else _measure_label_sets(labels, logits, calibration)),
        validation={name: value for name in FOLD_METRICS if (value := getattr(best_epoch, name)) is not None},
        examples_per_second=statistics.median(epoch.examples_per_second for epoch in epochs),
        seconds=sum(epoch.seconds for epoch in epochs),
    )


def _measure(labels: np.ndarray, logits: torch.Tensor) -> dict[str, float]:
    """Return the metrics of a `FoldResult` with one label per text; labels: `(texts,)`, logits: `(texts, classes)`."""
    predicted = logits.argmax(dim=1).numpy()
    return {
        "accuracy": accuracy(labels, predicted),
        "macro_f1": macro_f1(labels, predicted),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "matthews_correlation": matthews_correlation(labels, predicted),
        "loss": float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))),
    }


def _measure_label_sets(labels: np.ndarray, logits: torch.Tensor, calibration: Calibration) -> dict[str, float]:
    """Return the metrics of a `FoldResult` with several labels per text; labels, logits: `(texts, labels)`."""
    probabilities = sigmoid(logits.numpy() / calibration.temperature)
    predicted = probabilities >= calibration.thresholds
    counts = count_labels(labels, predicted)
    return {
        "micro_f1": counts.micro_f1(),
        "accuracy": subset_accuracy(labels, predicted),
        "macro_f1": counts.macro_f1(),
        "loss": float(compute_row_losses(logits, torch.from_numpy(labels)).mean()),
    }


def summarize(results: Collection[FoldResult]) -> dict[str, dict[str, float]]:
    """Return the mean and the standard deviation (of a sample) of each metric that all folds have."""
    names = [name for name in FOLD_METRICS if all(getattr(result, name) is not None for result in results)]
    values = {name: [getattr(result, name) for result in results] for name in names}
    return {
        "mean": {name: statistics.mean(values[name]) for name in names},
        "deviation": {name: statistics.stdev(values[name]) for name in names},
    }


def format_table(results: Collection[FoldResult]) -> str:
    """Return a text table with a row per fold, and a line with mean and standard deviation."""
    summary = summarize(results)
    rows: list[dict[str, object]] = [
        {
            "fold": number,
            "rows": result.rows,
            "epoch": result.epoch,
            **{
                name.replace("_f1", " F1").replace("_", " "): f"{getattr(result, name):.4f}" for name in summary["mean"]
            },
        }
        for number, result in enumerate(results, start=1)
    ]
    metrics = (f"{name} {summary['mean'][name]:.4f} ({summary['deviation'][name]:.4f})" for name in summary["mean"])
    return f"{format_text_table(rows)}\nmean (standard deviation)   {'   '.join(metrics)}"


def train_in_parallel(
    tasks: Iterable[tuple[NameType, Experiment, Any, Split]], cpus_per_task: int
) -> TaskResults[NameType, FoldResult]:
    """Run `train_and_evaluate` for each task, and yield each task's name and result as it ends.

    If this process is connected to Ray, each is a task of the cluster, else of a process of this machine. Tasks are
    taken from the iterable only when there is room for them, so that few corpora are in memory at a time.

    Args:
        tasks: name, experiment, corpus (on Ray, or a reference to one) and test part.
        cpus_per_task: CPUs that a task takes.

    Raises:
        TaskFailed: a task failed with an error that the user can correct.
    """
    waiting: Iterator[Task[NameType]] = ((name, arguments) for name, *arguments in tasks)
    if ray.is_initialized():
        return _train_on_ray(waiting, cpus_per_task)
    return run_in_processes(train_and_evaluate, waiting, cpus_per_task)


def _train_on_ray(tasks: Iterator[Task[NameType]], cpus_per_task: int) -> TaskResults[NameType, FoldResult]:
    """Run `train_and_evaluate` for each task of Ray, as `run_in_processes` does in processes."""
    train = ray.remote(num_cpus=cpus_per_task)(train_and_evaluate)
    capacity = max(1, resources.total_cpus() // cpus_per_task)
    running: dict[Any, NameType] = {}
    try:
        while True:
            # One more than the cluster has room for, so that the next is ready when one ends.
            while len(running) <= capacity and (task := next(tasks, None)) is not None:
                name, (experiment, corpus, test) = task
                reference = put_corpus(corpus)
                running[train.remote(experiment, reference, test)] = name
            if not running:
                return
            [ended], _ = ray.wait(list(running))
            name = running.pop(ended)
            try:
                yield name, ray.get(ended)
            except RayTaskError as error:
                if isinstance(error.cause, UsageError):
                    raise TaskFailed(f"{name}: {error.cause}") from error
                raise
            except RayError as error:
                raise TaskFailed(f"{name}: its process was lost: {error}; repeat the command") from error
    finally:  # an error, Ctrl-C, or the caller wants no more
        resources.cancel_tasks([*running])


def _read_vectors(experiment: Experiment, dataset: Dataset) -> WordVectors | None:
    """Return the vectors of the file for the words of all folds, which each have all rows; None without a file."""
    if experiment.model.embedding == "rand" or experiment.vectors.path is None:
        return None
    return load_text_vectors(experiment, [*dataset.train.texts, *dataset.validation.texts, *dataset.test.texts])


def _train_missing_folds(
    experiment: Experiment, datasets: list[Dataset], word_vectors: WordVectors | None, folder: str
) -> list[FoldResult]:
    """Return the result of each fold: saved results of finished folds, and new results of the others."""
    results = read_finished_folds(folder, len(datasets))
    if results:
        logger.info(f"{len(results)} of {len(datasets)} folds are finished")
    missing = [number for number in range(1, len(datasets) + 1) if number not in results]
    if missing:
        rows = sum(len(dataset.test) for dataset in datasets)
        logger.info(
            f"starting {len(missing)} of {len(datasets)} folds; each of {rows:,} rows is in the test part of one fold"
        )
    tasks = (
        (f"fold {number}", experiment, corpus, datasets[number - 1].test)
        for number, corpus in _build_corpora(experiment, datasets, word_vectors, missing)
    )
    ended = train_in_parallel(tasks, experiment.train.cpus_per_worker)
    with count_bar("folds", len(datasets), logger) as show, closing(ended):
        for name, result in ended:
            number = int(name.removeprefix("fold "))
            write_json(join(folder, f"fold-{number}.json"), result.to_json())
            results[number] = result
            logger.info(
                f"{name} ({len(results)} of {len(datasets)} finished)   accuracy {result.accuracy:.4f}   "
                f"macro F1 {result.macro_f1:.4f}   epoch {result.epoch}, {result.seconds:.0f} s"
            )
            if show is not None:
                show(len(results), "")
    return [results[number] for number in sorted(results)]


def _build_corpora(
    experiment: Experiment, datasets: list[Dataset], word_vectors: WordVectors | None, numbers: list[int]
) -> Iterator[tuple[int, Corpus]]:
    """Yield the corpus of each numbered fold; notes on the texts are logged once."""
    for number in numbers:
        yield (
            number,
            build_corpus(
                experiment,
                datasets[number - 1],
                use_pretrained=experiment.model.embedding != "rand",
                word_vectors=word_vectors,
                log_notes=number == numbers[0],
            ),
        )


def _key(experiment: Experiment, datasets: list[Dataset], word_vectors: WordVectors | None) -> str:
    """Return a digest of everything that decides the result: rows, vectors and settings.

    A vectors file is identified by its vectors, since a copy on another node has another path or modification time.
    """
    settings = experiment.model_dump(include={"vectors", "seed"}, exclude={"vectors": {"path"}})
    settings["text"] = text_settings_key(experiment.text)
    settings["model"] = model_settings_key(experiment.model)
    settings["train"] = train_settings_key(experiment.train, len(datasets))
    rows = [split.digest() for dataset in datasets for split in (dataset.train, dataset.validation, dataset.test)]
    pretrained = None
    if experiment.model.embedding != "rand":
        texts = [dataset.pretraining_texts for dataset in datasets]
        pretrained = [word_vectors and word_vectors.digest(), *(text.key() if text else None for text in texts)]
    weights = [weights for dataset in datasets if (weights := dataset.train.weights) is not None]
    return digest([settings, rows, pretrained, *weights])
