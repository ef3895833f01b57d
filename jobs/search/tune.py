"""The search: Ray Tune over any settings of `model`, `train` and `text`, and what a person learns from it.

Every trial that ends is kept in a file of its own, and the best checkpoint of all is named in best.json as soon as
it is written. So whatever ends the search, the same command goes on with the trials that had not ended.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

from cluster import UsageError
from cluster.connection import connect
from cluster.message_queue import pin_to_driver_node
from cluster.storage import StorageError, exists, join, lock_folder, output_folder, write_text
from cluster.tables import format_text_table
from jobs.config import conflicts
from jobs.config.experiment import Experiment
from jobs.datasets import dataset
from jobs.datasets.dataset import Dataset
from jobs.search import hparams
from jobs.search import report as search_report
from jobs.search import trial_resources as means
from jobs.search.analysis import compare_embeddings, summarize_fine_tuning
from jobs.search.best_checkpoint import BestCheckpointManager, write_best_yaml
from jobs.search.records import RecordStore, TrialRecord
from jobs.search.refit import refit
from jobs.search.runner import SearchContext, format_settings, handle_trial_messages, run_trials
from jobs.search.search import FixedSampler, Search, build_search
from jobs.search.shared_state import start_shared_state
from jobs.search.space import Dimension, list_embeddings, parse_space
from jobs.search.trackers import MlflowTracker
from jobs.search.trainable import build_distributed_trainable, build_in_process_trainable
from jobs.training.corpus import Corpus, build_corpus
from jobs.training.corpus_cache import CorpusCache, corpus_key
from jobs.training.run_folder import BestCheckpoint, RunFolder, resolve_run_folder
from jobs.training.train import say_all

logger = logging.getLogger(__name__)

# The folder of the trials that compare the kinds of embedding over several seeds.
SEEDS_FOLDER = "seeds"

# The file that says that no further trial begins: what follows them may still be to do.
SEARCH_OVER_FILE = "search-over.txt"

README_TEXT = """\
experiment.yaml    all settings of this search
trials/            a file for each trial that has ended: its settings, what each epoch gave, why it was cut off
search-over.txt    why no further trial begins
trial-*/           the best checkpoint, and the best before it
seeds/             the trials of each kind of embedding's best settings with other seeds (tune.seeds)
refit/             the best settings trained on the validation part too (tune.refit)
report/            report.md, trials.csv and pictures
tensorboard/       every trial, for `tensorboard --logdir`
best.json          which checkpoint is the best so far; `finished: false` until the search is over

Giving the same command again goes on with a search that was cut off.
"""


class SearchFailed(UsageError):
    """No trial of a search came to the end of an epoch."""


def tune(experiment: Experiment) -> str:
    """Search, or go on with a search that was cut off, and return the path of the best.json.

    Beside it `best.yaml` is written: the experiment with the best settings.

    Raises:
        SearchFailed, and what reading data and vectors raises.
    """
    space = parse_space(experiment)
    kinds = list_embeddings(experiment, space)
    say_all(conflicts.check_settings(experiment, kinds, {each.path: each.values for each in space}))
    build_search(experiment, space, [])  # what is wrong with the space is told before anything starts
    with connect():
        found = dataset.load_dataset(experiment)
        say_all(found.notes)
        corpora = _corpora(experiment, found, kinds)
        run = resolve_run_folder("tune", experiment, next(iter(corpora.values())))
        best = run.read_finished_best()
        if best is not None:
            logger.info(f"this search is finished; its folder is {run.path}")
        else:
            with lock_folder(run.path):
                best = _search(experiment, space, found, corpora, run)
        path = run.publish(best)
        write_best_yaml(run, experiment, best)
        return path


def _corpora(experiment: Experiment, found: Dataset, kinds: set[str]) -> dict[str, Corpus]:
    """Return the corpora with the experiment's own `text` settings that trials need, by key; the pretrained first."""
    corpora = {}
    for kind in sorted(kinds, key=lambda kind: kind == "rand"):
        chosen = experiment.replace({"model.embedding": kind})
        if corpus_key(chosen) not in corpora:
            corpus = build_corpus(experiment, found, use_pretrained=kind != "rand")
            corpora[corpus_key(chosen)] = corpus
            if corpus.coverage:
                logger.info(f"vectors: {corpus.coverage}")
    return corpora


def _search(
    experiment: Experiment, space: list[Dimension], found: Dataset, corpora: dict[str, Corpus], run: RunFolder
) -> BestCheckpoint:
    """Run all trials and what follows them, and return the contents of best.json."""
    import ray

    champion, ledger = BestCheckpointManager(run, experiment), RecordStore(join(run.path, "trials"))
    asked = ledger.read_started()
    champion.recover(asked)
    records = champion.reconcile(_kept(ledger.read()))
    search = build_search(experiment, space, records, asked, ledger.write_started)
    given = means.plan_trial_resources(experiment)
    log = _logs(experiment, run)
    write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
    write_text(join(run.path, "README.txt"), README_TEXT)
    if given.wait_message:
        logger.info(given.wait_message)
    logger.info(
        f"{search.total_suffix.removeprefix(' of ') or 'any number of'} trials, up to {given.max_concurrent_trials} at once"
    )
    if records:
        logger.info(f"going on with the search that was cut off: {len(records)}{search.total_suffix} trials have ended")
    champion.prune_checkpoints(records)
    references = {key: ray.put(corpus) for key, corpus in corpora.items()}
    the_board = start_shared_state(champion.best_ranking_key())
    library = None
    if any(each.path.startswith("text.") for each in space):
        library = _library(experiment, found, the_board)
    make = build_distributed_trainable if given.distributed else build_in_process_trainable
    repeated = []
    try:
        with handle_trial_messages(the_board, champion, search) as check:
            if not exists(join(run.path, SEARCH_OVER_FILE)):
                this = SearchContext(experiment, search, ledger, run.path, log)
                shell = make(experiment, run.path, references, library, the_board)
                run_trials(this, shell, given, asha=experiment.tune.scheduler == "asha")
                check()
            ended = champion.reconcile(list(search.records.values()))
            if champion.best is None:
                raise SearchFailed(_all_failed(list(search.records.values()), search))
            write_text(join(run.path, SEARCH_OVER_FILE), (search.stop_reason or "all trials have ended") + "\n")
            if search.stop_reason:
                logger.info(f"the search is over: {search.stop_reason}")
            if experiment.tune.seeds:
                shell = make(experiment, join(run.path, SEEDS_FOLDER), references, library, None)
                repeated = _with_other_seeds(experiment, ended, run, shell, given)
    except KeyboardInterrupt:
        if champion.best:
            logger.info(f"{len(search.records)}{search.total_suffix} trials have ended; {_best_line(champion.best)}")
        raise
    if library is not None:
        ray.kill(library)
    best = refit(experiment, found, champion, run) if experiment.tune.refit else champion.best
    _report(experiment, space, ended, repeated, best, run)
    run.finish(best)
    logger.info(_best_line(best))
    return best


def _kept(records: list[TrialRecord]) -> list[TrialRecord]:
    """Return the records of earlier commands; none where every trial failed, which may have another reason now."""
    return records if any(record.best for record in records) else []


def _logs(experiment: Experiment, run: RunFolder) -> Callable[[TrialRecord], None]:
    """Return what writes a trial into TensorBoard's log and, where a tracking URI is set, into MLflow."""
    uri = experiment.tune.mlflow or os.environ.get("MLFLOW_TRACKING_URI")
    tracking = MlflowTracker(uri, experiment, run.name) if uri else None

    def log(record: TrialRecord) -> None:
        try:
            hparams.log_to_tensorboard(join(run.path, "tensorboard"), record)
        except StorageError as error:
            logger.info(str(error))
        if tracking is not None:
            tracking.log_trial(record)

    return log


def _with_other_seeds(
    experiment: Experiment, ended: list[TrialRecord], run: RunFolder, shell: Any, given: means.TrialResources
) -> list[TrialRecord]:
    """Train each kind of embedding's best settings with several seeds, and return what they gave."""
    tune = experiment.tune
    all_settings = [
        # Not the seed that they were chosen with, which they look best with.
        {**kind.best_record.settings, "model.embedding": kind.embedding, "seed": (experiment.seed + number) % (1 << 32)}
        for number in range(1, tune.seeds + 1)
        for kind in compare_embeddings(experiment, ended, [])
    ]
    ledger = RecordStore(join(run.path, SEEDS_FOLDER, "trials"))
    unlimited = experiment.replace({"tune.minutes": None, "tune.patience": None})
    search = Search(unlimited, FixedSampler(all_settings), len(all_settings), ledger.read())
    logger.info(f"each kind of embedding's best settings with {tune.seeds} other seeds: {len(all_settings)} trials")
    this = SearchContext(unlimited, search, ledger, join(run.path, SEEDS_FOLDER), lambda record: None)
    run_trials(this, shell, given, asha=False)
    return list(search.records.values())


def _report(
    experiment: Experiment,
    space: list[Dimension],
    ended: list[TrialRecord],
    repeated: list[TrialRecord],
    best: BestCheckpoint,
    run: RunFolder,
) -> None:
    """Write the report, and say what stands in it: the kinds of embedding side by side, and where it is."""
    if not any(record.best for record in ended):  # out of time after the first one was kept and before it was told
        logger.info("no trial has told of a whole epoch; there is nothing to report")
        return
    found = compare_embeddings(experiment, ended, repeated)
    commands = [f"python -m jobs evaluate {run.path}", f"python -m serving run {run.path}"]
    with output_folder(join(run.path, "report")) as folder:
        search_report.write_search_report(folder, experiment, space, ended, found, best, commands)
    logger.info(format_text_table(search_report.build_embedding_rows(experiment, found)))
    logger.info(summarize_fine_tuning(experiment, found))
    logger.info(f"report: {join(run.path, 'report', 'report.md')}")


def _library(experiment: Experiment, found: Dataset, the_board: Any) -> Any:
    """Start the actor that prepares a corpus for each other way to read the texts."""
    import ray

    def send(kind: str, value: Any) -> None:
        ray.get(the_board.put.remote((kind, value)))

    return pin_to_driver_node(CorpusCache).remote(experiment, found, ray.put, send)


def _all_failed(records: list[TrialRecord], search: Search) -> str:
    if not records:
        return f"no trial has ended: {search.stop_reason or 'none was begun'}"
    first = min(records, key=lambda record: record.ended)
    return f"every trial failed; the first: {first.reason}"


def _best_line(best: BestCheckpoint) -> str:
    return f"best: {format_settings(best.settings or {})}: {best.metric} {best.metrics[best.metric]:.4f}"
