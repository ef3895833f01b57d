"""Search with Ray Tune over settings of `model`, `train` and `text`, from the search space to the report.

Each trial that ends is saved in a file of its own, and the best checkpoint of all is named in best.json as soon as it
is written. So whatever interrupts a search, the same command resumes it with the trials that had not ended.
"""

import functools
import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import ray.tune

from cluster import UsageError
from cluster.connection import connect, resolve_address
from cluster.console.logs import RESULT
from cluster.console.tables import format_text_table
from cluster.message_queue import pin_to_driver_node, send_message
from cluster.storage import exists, join, lock_folder, output_folder, write_text
from jobs.config.conflicts import check_settings
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, load_dataset
from jobs.early_start import connect_while_loading
from jobs.evaluation.reports.html.page import PAGE_NAME
from jobs.search.best_checkpoint import BestCheckpointManager, handle_trial_messages, refit, write_best_yaml
from jobs.search.records import RecordStore, TrialRecord, format_settings
from jobs.search.results.analysis import compare_embeddings
from jobs.search.results.report import format_correct_rows, write_search_report
from jobs.search.runner import SearchContext, compare_over_seeds, run_trials
from jobs.search.search import Search, build_search, check_search, check_trials_start_new
from jobs.search.shared_state import start_shared_state
from jobs.search.space import Dimension
from jobs.search.trainable import OwnTunerTrial, TrialInputs, build_trainable
from jobs.search.trial_resources import TrialResources, plan_trial_resources
from jobs.training.corpora.building import build_corpus
from jobs.training.corpora.corpus import Corpus
from jobs.training.corpora.sharing import CorpusCache, corpus_key, put_corpus, use_absolute_paths
from jobs.training.run_files.run_folder import BestCheckpoint, RunFolder, resolve_run_folder
from jobs.training.run_files.trackers import Trackers, connect_trackers

logger = logging.getLogger(__name__)

# File that exists when no further trial starts; the steps after the trials may still be to do.
SEARCH_OVER_FILE = "search-over.txt"

SEARCH_README = """\
experiment.yaml    all settings of this search
trials/            a file for each ended trial: its settings, the figures of its epochs, why it was stopped
search-over.txt    why no further trial starts
trial-*/           the best checkpoint, and the previous best one
seeds/             trials/ and ray/ of each kind of embedding's best settings with other seeds (tune.seeds)
refit/             the best settings trained on the validation rows too (tune.refit)
report/            report.html, the same as Markdown, trials.csv and charts
ray/               Tune's own results: all trials for `tensorboard --logdir`, and for ray.tune.ResultGrid
best.json          the best checkpoint so far; `finished: false` until the search is finished

The same command resumes an interrupted search.
"""


class SearchFailed(UsageError):
    """No trial of a search finished an epoch."""


def tune(experiment: Experiment, *, promote: bool = False, dataset: Dataset | None = None) -> str:
    """Run or resume a search and return the path of the best.json that names its best checkpoint.

    `best.yaml`, the experiment with the best settings, is written into the experiment's folder.

    Mistakes in settings and missing files are errors before Ray starts here. The first search of an experiment loads
    data and vectors while Ray starts. A cluster's address is checked first: attaching to one takes a moment.

    Args:
        promote: make the search current in the experiment's best.json even if the current run is better.
        dataset: rows in memory; by default those of the experiment are loaded.

    Raises:
        SearchFailed: every trial failed. Also what reading data and vectors raises.
    """
    space, kinds, warnings = check_search(experiment, rows_in_memory=dataset is not None)
    for warning in warnings:
        logger.warning(warning)
    on_own_ray = resolve_address() is None and not ray.is_initialized()
    trackers = connect_trackers(experiment)  # a wrong URI is an error before data and vectors are loaded
    with ExitStack() as stack:
        load: Callable[[], tuple[Experiment, Dataset, dict[str, Corpus]]]
        load = functools.partial(_load_inputs, experiment, dataset, kinds)
        if resolve_address():
            stack.enter_context(connect())
        elif not exists(join(experiment.storage, experiment.name)):  # an earlier search could be finished
            load = stack.enter_context(connect_while_loading(load))
        experiment, dataset, corpora = load()
        corpus = next(iter(corpora.values()))
        run = resolve_run_folder("tune", experiment, corpus, dataset.validation, promote=promote)
        best = run.read_finished_best()
        if best is not None:
            logger.log(RESULT, f"this search is finished; its folder is {run.path}")
        else:
            stack.enter_context(lock_folder(run.path))
            stack.enter_context(connect())
            best = _search(experiment, space, dataset, corpora, run, trackers, on_own_ray=on_own_ray)
        path = run.publish(best)
        write_best_yaml(run, experiment, best, is_finished=True)
        return path


def build_own_trainable(experiment: Experiment, dataset: Dataset) -> Any:
    """Return the Trainable of a user's own `Tuner`, whose trials start from the settings of an experiment.

    Trials may have random vectors too, and any kind of embedding if there is a file of vectors.
    """
    check_trials_start_new(experiment)
    kinds = {"rand", experiment.model.embedding} | ({"static"} if experiment.vectors.path else set())
    for warning in check_settings(experiment, kinds, rows_in_memory=True):
        logger.warning(warning)
    with tempfile.TemporaryDirectory() as scratch:  # for vectors that are trained here
        built, corpora = build_corpora(experiment.replace({"storage": scratch}), dataset, kinds)
    references = {key: put_corpus(corpus) for key, corpus in corpora.items()}
    inputs = TrialInputs(built.replace({"storage": experiment.storage}), None, references, None, None)
    return ray.tune.with_parameters(OwnTunerTrial, inputs=inputs)


def _load_inputs(
    experiment: Experiment, dataset: Dataset | None, kinds: set[str]
) -> tuple[Experiment, Dataset, dict[str, Corpus]]:
    """Return the experiment and the corpora as of `build_corpora`, and the rows."""
    dataset = dataset or load_dataset(experiment, for_refit=experiment.tune.refit)
    for note in dataset.notes:
        logger.info(note)
    experiment, corpora = build_corpora(experiment, dataset, kinds)
    return experiment, dataset, corpora


def build_corpora(experiment: Experiment, dataset: Dataset, kinds: set[str]) -> tuple[Experiment, dict[str, Corpus]]:
    """Return the corpora with the experiment's own `text` settings, by key; the one with pretrained vectors first.

    The returned experiment has the dimensions of the pretrained vectors: those of `rand`, which they are compared
    with, have as many.
    """
    corpora: dict[str, Corpus] = {}
    for kind in sorted(kinds, key=lambda kind: kind == "rand"):
        key = corpus_key(experiment.replace({"model.embedding": kind}))
        if key in corpora:
            continue
        corpus = corpora[key] = build_corpus(experiment, dataset, use_pretrained=kind != "rand")
        if corpus.coverage:
            logger.info(f"vectors: {corpus.coverage}")
        dimensions = corpus.vectors.shape[1]
        if "rand" in kinds and dimensions != experiment.vectors.dimensions:
            experiment = experiment.replace({"vectors.dimensions": dimensions})
            logger.info(f"the vectors of rand have {dimensions} dimensions, like those of {experiment.vectors.path}")
    return experiment, corpora


def _search(
    experiment: Experiment,
    space: list[Dimension],
    dataset: Dataset,
    corpora: dict[str, Corpus],
    run: RunFolder,
    trackers: Trackers,
    *,
    on_own_ray: bool,
) -> BestCheckpoint:
    """Run all trials and the steps after them, and return the contents of best.json.

    Args:
        on_own_ray: this command has started Ray, on this machine.
    """
    manager, store = BestCheckpointManager(run, experiment), RecordStore(join(run.path, "trials"))
    search = _resume_search(experiment, space, manager, store)
    resources = plan_trial_resources(experiment)
    context = SearchContext(experiment, search, store, run.path, trackers)
    _write_settings(experiment, dataset, run)
    _log_start(search, resources)
    manager.prune_checkpoints(list(search.records.values()))
    inputs = _share_inputs(experiment, space, dataset, corpora, run, manager, resources.use_gpu)
    repeated: list[TrialRecord] = []
    try:
        with handle_trial_messages(inputs.shared_state, manager, search, store.write_elapsed) as poller:
            if not exists(join(run.path, SEARCH_OVER_FILE)):
                trainable = build_trainable(inputs, distributed=resources.distributed)
                context = replace(context, name_checkpoints=poller.poll)
                run_trials(context, trainable, resources, asha=experiment.tune.scheduler == "asha")
                poller.raise_error()
            ended = _end_search(search, manager, run)
            if experiment.tune.seeds:
                repeated = compare_over_seeds(experiment, ended, run.path, inputs, resources)
    except KeyboardInterrupt:
        if manager.best:
            logger.info(f"{len(search.records)}{search.total_suffix} trials have ended; {_format_best(manager.best)}")
        raise
    finally:
        store.write_elapsed(search.elapsed_s)
    if inputs.corpus_cache is not None:
        ray.kill(inputs.corpus_cache)
    best = manager.best
    assert best is not None
    if experiment.tune.refit:
        best = refit(experiment, dataset, best, run, trackers, on_own_ray=on_own_ray)
    labels = next(iter(corpora.values())).validation.labels
    _write_report(experiment, space, ended, repeated, best, run, labels)
    run.write_best(best)
    correct = format_correct_rows(best.metrics["accuracy"], len(labels))
    logger.log(RESULT, f"{_format_best(best)}; {correct} validation rows correct")
    return best


def _resume_search(
    experiment: Experiment, space: list[Dimension], manager: BestCheckpointManager, store: RecordStore
) -> Search:
    """Return the search with the trials of earlier commands; one that starts again if all of these failed."""
    started = store.read_started()
    manager.recover(started)
    read = store.read()
    usable = read if any(record.best for record in read) else []  # trials that failed may not fail now
    elapsed_s = store.read_elapsed() if usable or not read else 0.0  # a search that starts again has all its time
    return build_search(experiment, space, manager.reconcile(usable), started, store.write_started, elapsed_s)


def _write_settings(experiment: Experiment, dataset: Dataset, run: RunFolder) -> None:
    """Write the files that describe a search into its folder."""
    write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
    if experiment.tune.refit and experiment.data.is_multi_label:  # `refit` adds thresholds; too many are an error now
        experiment.replace({"train.thresholds": dict.fromkeys(dataset.labels, 1 / 3)}).to_yaml()
    write_text(join(run.path, "README.txt"), SEARCH_README)


def _log_start(search: Search, resources: TrialResources) -> None:
    if resources.wait_message:
        logger.info(resources.wait_message)
    total = search.total_suffix.removeprefix(" of ") or "any number of"
    logger.info(f"{total} trials, up to {resources.max_concurrent_trials} at once")
    if search.records:
        logger.info(f"resuming the search: {len(search.records)}{search.total_suffix} trials have ended")


def _share_inputs(
    experiment: Experiment,
    space: list[Dimension],
    dataset: Dataset,
    corpora: dict[str, Corpus],
    run: RunFolder,
    manager: BestCheckpointManager,
    use_gpu: bool,
) -> TrialInputs:
    """Put the corpora into Ray's object store and start the actors that trials use."""
    references = {key: put_corpus(corpus) for key, corpus in corpora.items()}
    shared_state = start_shared_state(manager.best_ranking_key())
    corpus_cache = None
    if any(dimension.path.startswith("text.") for dimension in space):
        send = functools.partial(send_message, shared_state)
        corpus_cache = pin_to_driver_node(CorpusCache).remote(use_absolute_paths(experiment), dataset, put_corpus, send)
    return TrialInputs(experiment, run.path, references, corpus_cache, shared_state, use_gpu)


def _end_search(search: Search, manager: BestCheckpointManager, run: RunFolder) -> list[TrialRecord]:
    """Mark the search as over and return the records of its trials; SearchFailed if none finished an epoch."""
    ended = manager.reconcile(list(search.records.values()))
    if manager.best is None:
        if not search.records:
            hint = "; raise tune.minutes" if search.out_of_time else ""
            raise SearchFailed(f"no trial has ended: {search.stop_reason or 'none was started'}{hint}")
        first = min(search.records.values(), key=lambda record: record.ended)
        raise SearchFailed(f"every trial failed ({len(search.records)}); the first: {first.reason}")
    if not exists(join(run.path, SEARCH_OVER_FILE)):  # a resumed search has no reason of its own
        write_text(join(run.path, SEARCH_OVER_FILE), (search.stop_reason or "all trials have ended") + "\n")
    if search.stop_reason:
        logger.info(f"the search is over: {search.stop_reason}")
    return ended


def _write_report(
    experiment: Experiment,
    space: list[Dimension],
    ended: list[TrialRecord],
    repeated: list[TrialRecord],
    best: BestCheckpoint,
    run: RunFolder,
    labels: np.ndarray,
) -> None:
    """Write the report, and log its comparison of the kinds of embedding and its path."""
    if not any(record.best for record in ended):  # out of time before the first trial reported its saved epoch
        logger.info("no trial has reported a finished epoch; there is nothing to report")
        return
    logger.info("writing the report")
    kinds = compare_embeddings(experiment, ended, repeated)
    commands = [f"finetune-cnn evaluate {run.path}", f"finetune-cnn serve {run.path}"]
    with output_folder(join(run.path, "report")) as folder:
        summary = write_search_report(folder, experiment, space, ended, kinds, best, commands, labels)
    logger.log(RESULT, format_text_table(summary.kinds))
    logger.log(RESULT, summary.verdict)
    logger.log(RESULT, f"report: {join(run.path, 'report', PAGE_NAME)}; report.md has it as Markdown")


def _format_best(best: BestCheckpoint) -> str:
    return f"best: {format_settings(best.settings or {})}: {best.metric} {best.metrics[best.metric]:.4f}"
