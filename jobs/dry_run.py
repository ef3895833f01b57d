"""Plans of check-data, train, tune, cross-validate and evaluate: what they would read, start and write.

The functions that the commands call make the decisions. Texts and vectors are loaded if that takes a few seconds at
most. Otherwise the run is not known: the name of its folder is a digest of them too.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.console.plan import Plan, PlannedFile, total_bytes
from cluster.durable_files import user_cache_path
from cluster.input_files import file_size
from cluster.machine import count_cpus
from cluster.storage import absolute_path, exists, is_uri, join, list_file_sizes, local_path
from jobs.config.conflicts import check_fold_settings, check_settings
from jobs.config.experiment import Experiment
from jobs.config.settings import WORKER_SETTINGS, Source
from jobs.datasets.prepared.cache import USER_CACHE
from jobs.datasets.readers import MIN_PREPARED_BYTES, DataError
from jobs.datasets.sources import resolve_source
from jobs.embeddings.input_checks import check_inputs
from jobs.embeddings.vector_files import GENSIM_PREFIX
from jobs.model.checkpoint_locations import locate_snapshot

if TYPE_CHECKING:
    from jobs.datasets.dataset import Dataset
    from jobs.model.checkpoint import Checkpoint
    from jobs.training.corpora.corpus import Corpus
    from jobs.training.run_files.run_folder import RunFolder

logger = logging.getLogger(__name__)

# Texts and vectors up to these sizes are loaded for a plan.
MAX_TEXT_BYTES = 32 << 20
MAX_VECTOR_BYTES = 256 << 20

# A checkpoint that a run resumes from has each weight, and two moments of its optimizer.
VALUES_PER_WEIGHT = 3
FLOAT_BYTES = 4
TEXT_BYTES = 8000  # of the settings, metrics and other text of a checkpoint

ON_THIS_MACHINE = "on this machine"  # a Ray that starts with the command
_UNKNOWN = "its name depends on texts and vectors, which were not read"


def plan_training(experiment: Experiment) -> Plan:
    """Return the plan of `train`; errors as of the command before it trains."""
    from jobs.training.corpora.building import load_inputs
    from jobs.training.out_of_scope import iter_alternatives
    from jobs.training.run_files.checkpoint_store import CheckpointStore
    from jobs.training.run_files.run_folder import resolve_run_folder
    from jobs.training.train import trains_in_process

    warnings = _log(check_settings(experiment, {experiment.model.embedding}))
    check_inputs(experiment)
    reads = list_inputs(experiment)
    starts = _describe_processes(experiment, warnings, in_process=trains_in_process(experiment.train))
    starts["epochs"] = experiment.train.epochs
    folder = join(absolute_path(experiment.storage), experiment.name)
    writes = [PlannedFile(join(folder, "train-*"), f"run: {_UNKNOWN}")]
    if _is_quick(experiment, reads):
        writes = []
        with _without_caches(experiment) as scratch:
            dataset, corpus = load_inputs(scratch)
            reads, starts = _add_rows(reads, experiment, dataset), starts | _count_rows(dataset)
            runs = [
                (resolve_run_folder("train", own.replace({"storage": experiment.storage}), data, dataset.validation),
                 data) for own, data in iter_alternatives(scratch, dataset, corpus)
            ]  # fmt: skip
        for run, data in runs:
            names = CheckpointStore(run.path).names()
            state = f"unfinished run, resumed from {names[0]}" if names else "new run"
            writes.append(_describe_run(run, state, estimate_run_bytes(experiment, data)))
        if all(run.read_finished_best() for run, _ in runs):
            starts = _keep_ray(starts)  # the command connects before it knows its run
    writes.append(PlannedFile(join(folder, "best.json"), "the current run, if this one is not worse"))
    return Plan("train", reads, starts, [*writes, *_list_caches(experiment, reads)], warnings)


def plan_search(experiment: Experiment) -> Plan:
    """Return the plan of `tune`; errors as of the command before it searches."""
    from jobs.datasets.dataset import load_dataset
    from jobs.search.search import MAX_TRIALS, build_search, check_search
    from jobs.search.space import find_max_epochs
    from jobs.search.tune import build_corpora
    from jobs.training.run_files.run_folder import resolve_run_folder

    space, kinds, notes = check_search(experiment)
    warnings = _log(notes)
    reads = list_inputs(experiment, kinds)
    starts = _describe_processes(experiment, warnings, in_process=False)
    trials = build_search(experiment, space, []).max_trials
    starts |= {
        "trials": trials if trials < MAX_TRIALS else None,
        "minutes": experiment.tune.minutes,
        "max_concurrent": experiment.tune.max_concurrent,
        "epochs": find_max_epochs(experiment),
        "space": [dimension.path for dimension in space],
    }
    folder = join(absolute_path(experiment.storage), experiment.name)
    writes = [PlannedFile(join(folder, "tune-*"), f"search: {_UNKNOWN}")]
    if _is_quick(experiment, reads, kinds):
        with _without_caches(experiment) as scratch:
            dataset = load_dataset(scratch, for_refit=experiment.tune.refit)
            built, corpora = build_corpora(scratch, dataset, kinds)
            reads, starts = _add_rows(reads, experiment, dataset), starts | _count_rows(dataset)
        corpus = next(iter(corpora.values()))
        run = resolve_run_folder("tune", built.replace({"storage": experiment.storage}), corpus, dataset.validation)
        state = "unfinished search, resumed" if exists(join(run.path, "trials")) else "new search"
        writes = [_describe_run(run, state, estimate_run_bytes(experiment, corpus))]
        if run.read_finished_best():
            starts = _keep_ray(starts, but_not=ON_THIS_MACHINE)
    writes += [
        PlannedFile(join(folder, "best.json"), "the current run, if this one is not worse"),
        PlannedFile(join(folder, "best.yaml"), "experiment with the best settings"),
    ]
    return Plan("tune", reads, starts, [*writes, *_list_caches(experiment, reads)], warnings)


def plan_cross_validation(experiment: Experiment, folds: int) -> Plan:
    """Return the plan of `cross-validate`; errors as of the command before it trains."""
    from cluster.connection import resolve_address
    from jobs.training.cross_validation import load_fold_inputs, read_finished_folds

    warnings = _log([*check_settings(experiment, {experiment.model.embedding}), *check_fold_settings(experiment)])
    check_inputs(experiment)
    reads = list_inputs(experiment)
    starts = _describe_processes(experiment, warnings, in_process=resolve_address() is None)
    starts |= {"folds": folds, "epochs": experiment.train.epochs}
    folder = join(absolute_path(experiment.storage), experiment.name)
    writes = [PlannedFile(join(folder, "folds-*"), f"results: {_UNKNOWN}")]
    if _is_quick(experiment, reads):
        with _without_caches(experiment) as scratch:
            *_, name = load_fold_inputs(scratch, folds)
        finished = read_finished_folds(join(folder, name), folds)
        writes = [PlannedFile(join(folder, name), f"results: {len(finished)} of {folds} folds are finished")]
        if len(finished) == folds:
            starts = _keep_ray(starts)
    return Plan("cross-validate", reads, starts, [*writes, *_list_caches(experiment, reads)], warnings)


def plan_data_check(experiment: Experiment, out: str | None) -> Plan:
    """Return the plan of `check-data`; errors as of the command before it checks the texts."""
    from jobs.data_checks.check import choose_paths
    from jobs.datasets.dataset import load_dataset

    if experiment.vectors.path is None:
        experiment = experiment.replace({"model.embedding": "rand"})  # no vectors are trained for it
    check_inputs(experiment)
    writes = [PlannedFile(path, use) for path, use in zip(choose_paths(experiment, out), ("page", "rows"), strict=True)]
    reads = list_inputs(experiment.replace({"train.start_from": None}))
    starts: dict[str, object] = {}
    texts = [file for file in reads if file.use != "vectors.path"]
    if experiment.data.train is not None and is_small(texts, MAX_TEXT_BYTES):
        with _without_caches(experiment) as scratch:
            dataset = load_dataset(scratch)
        reads, starts = _add_rows(reads, experiment, dataset), _count_rows(dataset)
    return Plan("check-data", reads, starts, [*writes, *_list_caches(experiment, reads)])


def plan_evaluation(
    path: str,
    settings: list[str],
    out: str | None,
    file: Source | None,
    text_column: str | None,
    label_column: str | None,
    out_of_scope: Source | None,
    *,
    baseline: bool,
) -> Plan:
    """Return the plan of `evaluate`; arguments and errors as of the function of this name."""
    from jobs.evaluation.evaluate import prepare

    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, _, part, folder = prepare(
            path, [*settings, f"storage={scratch}"], out, file, text_column, label_column, out_of_scope
        )
    test = part.rows
    sizes = [PlannedFile(source.path, "test part", file_size(source.path)) for source in test.files]
    others = part.out_of_scope.files if part.out_of_scope else ()
    sizes += [PlannedFile(source.path, "out-of-scope texts", file_size(source.path)) for source in others]
    reads = [describe_checkpoint(checkpoint), *sizes]
    with suppress(DataError):  # the linear SVC is left out without its training rows
        own = list_inputs(checkpoint.experiment) if baseline else []
        reads += [item for item in own if item.use == "data.train" and item.path not in {size.path for size in sizes}]
    starts = {"rows": len(test), "linear_svc": baseline}
    return Plan("evaluate", reads, starts, [PlannedFile(folder, "report")])


def list_inputs(experiment: Experiment, embeddings: set[str] | None = None) -> list[PlannedFile]:
    """Return the files that a training reads.

    Args:
        embeddings: kinds of embedding that are trained; by default that of the experiment.
    """
    data = experiment.data
    files = []
    for name in ("train", "validation", "test", "out_of_scope"):
        source = getattr(data, name)
        for file in resolve_source(source, data) if source is not None else ():
            files.append(PlannedFile(file.path, f"data.{name}", file_size(file.path)))
    if data.train is None:
        files.append(PlannedFile(f"docstrings of {len(data.packages)} packages", "data.packages"))
    path = experiment.vectors.path
    if path is not None and set(embeddings or {experiment.model.embedding}) != {"rand"}:
        is_named = path.startswith(GENSIM_PREFIX)  # of a model that gensim downloads
        files.append(PlannedFile(path, "vectors.path", None if is_named else file_size(path)))
    if experiment.train.start_from is not None:
        files.append(PlannedFile(experiment.train.start_from, "train.start_from"))
    return files


def estimate_run_bytes(experiment: Experiment, corpus: "Corpus") -> int:
    """Return about how many bytes the checkpoints of a run take: the newest two, and the best one."""
    from jobs.training.run_files.checkpoint_store import NUM_TO_KEEP

    model, dimensions = experiment.model, corpus.vectors.shape[1]
    num_trained = 0 if model.embedding == "static" else len(corpus.word_counts())
    filters = sum(width * dimensions + 1 for width in model.filter_widths) * model.feature_maps
    classes = (len(model.filter_widths) * model.feature_maps + 1) * len(corpus.labels)
    changing = num_trained * dimensions + filters + classes
    # Checkpoints share the vectors before training, and those that training does not change.
    shared: int = corpus.vectors.size + (num_trained * dimensions if model.embedding == "multichannel" else 0)
    if model.linear != "none":
        from jobs.training.linear.svc import find_pairs, sample_rows

        tokens = corpus.train.tokens
        pairs = find_pairs(tokens.select(sample_rows(corpus.train, len(tokens.ids), len(corpus.labels))))
        num_rows = len(corpus.word_counts()) + len(pairs)
        shared += num_rows * (len(corpus.labels) + 1)
    num_checkpoints = min(experiment.train.epochs, NUM_TO_KEEP + 1)
    num_values: int = changing * VALUES_PER_WEIGHT * num_checkpoints + shared
    return FLOAT_BYTES * num_values + TEXT_BYTES * num_checkpoints


def describe_checkpoint(checkpoint: "Checkpoint") -> PlannedFile:
    """Return a checkpoint that is read, and the size of all its files on this machine."""
    size = sum(list_file_sizes(locate_snapshot(checkpoint.path)).values())
    return PlannedFile(checkpoint.path, "checkpoint", size)


def _log(warnings: list[str]) -> list[str]:
    """Log the warnings about contradictory settings, as the command does, and return them."""
    for warning in warnings:
        logger.warning(warning)
    return warnings


def _is_quick(experiment: Experiment, files: Sequence[PlannedFile], embeddings: set[str] | None = None) -> bool:
    """Return whether texts and vectors are loaded in seconds: local files that are not large, and nothing to train."""
    kinds = set(embeddings or {experiment.model.embedding})
    if experiment.data.train is None or (experiment.vectors.path is None and kinds != {"rand"}):
        return False
    texts, vectors = ([file for file in files if (file.use == "vectors.path") == choice] for choice in (False, True))
    return is_small(texts, MAX_TEXT_BYTES) and is_small(vectors, MAX_VECTOR_BYTES)


def is_small(files: Sequence[PlannedFile], max_bytes: int) -> bool:
    """Return whether files are on this machine, and not larger than this together."""
    size = total_bytes(files)
    is_remote = any(is_uri(file.path) or file.path.startswith(GENSIM_PREFIX) for file in files)
    return not is_remote and size is not None and size <= max_bytes


@contextmanager
def _without_caches(experiment: Experiment) -> Iterator[Experiment]:
    """Context manager: the experiment with a temporary storage."""
    with tempfile.TemporaryDirectory() as scratch:
        yield experiment.replace({"storage": scratch})


def _describe_processes(experiment: Experiment, warnings: list[str], *, in_process: bool) -> dict[str, object]:
    """Return where a command trains, and add a warning if this machine is too small."""
    from cluster.connection import parse_address, resolve_address

    train, address = experiment.train, resolve_address()
    if address is not None:
        address = parse_address(address).text
    elif not in_process and train.min_workers * train.cpus_per_worker > count_cpus():
        request = f"{train.min_workers} * {train.cpus_per_worker} CPUs"
        warnings += _log([f"{WORKER_SETTINGS} ask for {request}; this machine has {count_cpus()}"])
    return {
        "ray": address or (None if in_process else ON_THIS_MACHINE),
        "workers": train.workers,
        "cpus_per_worker": train.cpus_per_worker,
        "use_gpu": "if there is one" if train.use_gpu is None else train.use_gpu,
    }


def _keep_ray(starts: Mapping[str, object], but_not: str | None = None) -> dict[str, object]:
    """Return what is started although there is nothing to train."""
    return {"ray": starts["ray"]} if starts["ray"] not in (None, but_not) else {}


def _count_rows(dataset: "Dataset") -> dict[str, object]:
    parts = {"training": dataset.train, "validation": dataset.validation, "test": dataset.test}
    return {**{f"{name}_rows": len(part) for name, part in parts.items()}, "classes": len(dataset.labels)}


def _add_rows(files: Sequence[PlannedFile], experiment: Experiment, dataset: "Dataset") -> list[PlannedFile]:
    """Return the files with their numbers of rows, where a setting names a single file."""
    data, drawn = experiment.data, len(dataset.train)
    rows = {"data.validation": len(dataset.validation), "data.test": len(dataset.test)}
    drawn += sum(rows[f"data.{name}"] for name in ("validation", "test") if getattr(data, name) is None)
    rows["data.train"] = drawn
    uses = [file.use for file in files]
    return [replace(file, rows=rows.get(file.use) if uses.count(file.use) == 1 else None) for file in files]


def _describe_run(run: "RunFolder", state: str, num_bytes: int) -> PlannedFile:
    if run.read_finished_best():
        return PlannedFile(run.path, "finished run, which stays")
    return PlannedFile(run.path, f"{state}; README.txt in it lists its files", num_bytes)


def _list_caches(experiment: Experiment, files: Sequence[PlannedFile]) -> list[PlannedFile]:
    """Return the folder of caches if the command may write some."""
    if _is_quick(experiment, files) and (total_bytes(files) or 0) < MIN_PREPARED_BYTES:
        return []
    folder = join(absolute_path(experiment.storage), "cache")
    if local_path(folder) is not None:
        return [PlannedFile(folder, "prepared texts and vectors, for later commands")]
    user_folder = user_cache_path(USER_CACHE)
    texts = [] if user_folder is None else [PlannedFile(str(user_folder), "prepared texts, for later commands")]
    return [*texts, PlannedFile(folder, "prepared vectors, for later commands")]
