"""The search: Ray Tune over any settings of `model`, `train` and `text`, and what a person learns from it.

Every trial that ends is kept in a file of its own, and the best checkpoint of all is named in best.json as soon as
it is written. So whatever ends the search, the same command goes on with the trials that had not ended.
"""

import os
from collections.abc import Callable
from typing import Any

from cluster import UsageError
from cluster.connection import connect
from cluster.message_queue import beside_the_driver
from cluster.storage import StorageError, exists, join, locked, write_text, written_folder
from jobs.config import conflicts
from jobs.config.experiment import Experiment
from jobs.datasets import dataset
from jobs.datasets.dataset import Dataset
from jobs.evaluation.report import text_table
from jobs.search import hparams
from jobs.search import report as search_report
from jobs.search import trial_resources as means
from jobs.search.analysis import kinds, verdict
from jobs.search.best_checkpoint import Champion, write_yaml
from jobs.search.records import Ledger, Record
from jobs.search.refit import refit
from jobs.search.runner import Round, listening, run_trials, settings_line
from jobs.search.search import Points, Search, search_of
from jobs.search.shared_state import board
from jobs.search.space import Dimension, dimensions, embeddings
from jobs.search.trackers import Tracking
from jobs.search.trainable import around_train, in_process
from jobs.training.corpus import Corpus, prepare
from jobs.training.corpus_cache import Library, key_of
from jobs.training.run_folder import Run, place
from jobs.training.train import say_all

# The folder of the trials that compare the kinds of embedding over several seeds.
SEEDS = "seeds"

# The file that says that no further trial begins: what follows them may still be to do.
OVER = "search-over.txt"

FILES = """\
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


def tune(experiment: Experiment, say: Callable[[str], None]) -> str:
    """Search, or go on with a search that was cut off, and return the path of the best.json.

    Beside it `best.yaml` is written: the experiment with the best settings.

    Args:
        say: is given each line of progress.

    Raises:
        SearchFailed, and what reading data and vectors raises.
    """
    space = dimensions(experiment)
    kinds = embeddings(experiment, space)
    say_all(say, conflicts.check(experiment, kinds, {each.path: each.values for each in space}))
    search_of(experiment, space, [])  # what is wrong with the space is told before anything starts
    with connect():
        found = dataset.load(experiment)
        say_all(say, found.notes)
        corpora = _corpora(experiment, found, kinds, say)
        run = place("tune", experiment, next(iter(corpora.values())))
        best = run.finished()
        if best is not None:
            say(f"this search is finished; its folder is {run.path}")
        else:
            with locked(run.path):
                best = _search(experiment, space, found, corpora, run, say)
        path = run.publish(best)
        write_yaml(run, experiment, best)
        return path


def _corpora(experiment: Experiment, found: Dataset, kinds: set[str], say: Callable[[str], None]) -> dict[str, Corpus]:
    """Return the corpora with the experiment's own `text` settings that trials need, by key; the pretrained first."""
    corpora = {}
    for kind in sorted(kinds, key=lambda kind: kind == "rand"):
        chosen = experiment.replace({"model.embedding": kind})
        if key_of(chosen) not in corpora:
            corpus = prepare(experiment, found, pretrained=kind != "rand", progress=say)
            corpora[key_of(chosen)] = corpus
            if corpus.coverage:
                say(f"vectors: {corpus.coverage}")
    return corpora


def _search(
    experiment: Experiment,
    space: list[Dimension],
    found: Dataset,
    corpora: dict[str, Corpus],
    run: Run,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run all trials and what follows them, and return the contents of best.json."""
    import ray

    champion, ledger = Champion(run, experiment), Ledger(join(run.path, "trials"))
    asked = ledger.asked()
    champion.recover(asked)
    records = champion.settle(_kept(ledger.read()))
    search = search_of(experiment, space, records, asked, ledger.ask)
    given = means.of(experiment)
    log = _logs(experiment, run, say)
    write_text(join(run.path, "experiment.yaml"), experiment.to_yaml())
    write_text(join(run.path, "README.txt"), FILES)
    if given.waits:
        say(given.waits)
    say(f"{search.of.removeprefix(' of ') or 'any number of'} trials, up to {given.at_once} at once")
    if records:
        say(f"going on with the search that was cut off: {len(records)}{search.of} trials have ended")
    champion.sweep(records)
    references = {key: ray.put(corpus) for key, corpus in corpora.items()}
    the_board = board(champion.rank())
    library = None
    if any(each.path.startswith("text.") for each in space):
        library = _library(experiment, found, the_board)
    make = around_train if given.distributed else in_process
    repeated = []
    try:
        with listening(the_board, champion, search, say) as check:
            if not exists(join(run.path, OVER)):
                this = Round(experiment, search, ledger, run.path, say, log)
                shell = make(experiment, run.path, references, library, the_board)
                run_trials(this, shell, given, asha=experiment.tune.scheduler == "asha")
                check()
            ended = champion.settle(list(search.records.values()))
            if champion.best is None:
                raise SearchFailed(_all_failed(list(search.records.values()), search))
            write_text(join(run.path, OVER), (search.ended_by or "all trials have ended") + "\n")
            if search.ended_by:
                say(f"the search is over: {search.ended_by}")
            if experiment.tune.seeds:
                shell = make(experiment, join(run.path, SEEDS), references, library, None)
                repeated = _with_other_seeds(experiment, ended, run, shell, given, say)
    except KeyboardInterrupt:
        if champion.best:
            say(f"{len(search.records)}{search.of} trials have ended; {_best_line(champion.best)}")
        raise
    if library is not None:
        ray.kill(library)
    best = refit(experiment, found, champion, run, say) if experiment.tune.refit else champion.best
    _report(experiment, space, ended, repeated, best, run, say)
    run.finish(best)
    say(_best_line(best))
    return best


def _kept(records: list[Record]) -> list[Record]:
    """Return the records of earlier commands; none where every trial failed, which may have another reason now."""
    return records if any(record.best for record in records) else []


def _logs(experiment: Experiment, run: Run, say: Callable[[str], None]) -> Callable[[Record], None]:
    """Return what writes a trial into TensorBoard's log and, where a tracking URI is set, into MLflow."""
    uri = experiment.tune.mlflow or os.environ.get("MLFLOW_TRACKING_URI")
    tracking = Tracking(uri, experiment, run.name, say) if uri else None

    def log(record: Record) -> None:
        try:
            hparams.log(join(run.path, "tensorboard"), record)
        except StorageError as error:
            say(str(error))
        if tracking is not None:
            tracking.log(record)

    return log


def _with_other_seeds(
    experiment: Experiment,
    ended: list[Record],
    run: Run,
    shell: Any,
    given: means.Means,
    say: Callable[[str], None],
) -> list[Record]:
    """Train each kind of embedding's best settings with several seeds, and return what they gave."""
    tune = experiment.tune
    all_settings = [
        # Not the seed that they were chosen with, which they look best with.
        {**kind.best.settings, "model.embedding": kind.name, "seed": (experiment.seed + number) % (1 << 32)}
        for number in range(1, tune.seeds + 1)
        for kind in kinds(experiment, ended, [])
    ]
    ledger = Ledger(join(run.path, SEEDS, "trials"))
    unlimited = experiment.replace({"tune.minutes": None, "tune.patience": None})
    search = Search(unlimited, Points(all_settings), len(all_settings), ledger.read())
    say(f"each kind of embedding's best settings with {tune.seeds} other seeds: {len(all_settings)} trials")
    this = Round(unlimited, search, ledger, join(run.path, SEEDS), say, lambda record: None)
    run_trials(this, shell, given, asha=False)
    return list(search.records.values())


def _report(
    experiment: Experiment,
    space: list[Dimension],
    ended: list[Record],
    repeated: list[Record],
    best: dict[str, Any],
    run: Run,
    say: Callable[[str], None],
) -> None:
    """Write the report, and say what stands in it: the kinds of embedding side by side, and where it is."""
    if not any(record.best for record in ended):  # out of time after the first one was kept and before it was told
        say("no trial has told of a whole epoch; there is nothing to report")
        return
    found = kinds(experiment, ended, repeated)
    commands = [f"python -m jobs evaluate {run.path}", f"python -m serving run {run.path}"]
    with written_folder(join(run.path, "report")) as folder:
        search_report.write(folder, experiment, space, ended, found, best, commands)
    say(text_table(search_report.kind_rows(experiment, found)))
    say(verdict(experiment, found))
    say(f"report: {join(run.path, 'report', 'report.md')}")


def _library(experiment: Experiment, found: Dataset, the_board: Any) -> Any:
    """Start the actor that prepares a corpus for each other way to read the texts."""
    import ray

    def say(line: str) -> None:
        ray.get(the_board.put.remote(("line", line)))

    return beside_the_driver(Library).remote(experiment, found, ray.put, say)


def _all_failed(records: list[Record], search: Search) -> str:
    if not records:
        return f"no trial has ended: {search.ended_by or 'none was begun'}"
    first = min(records, key=lambda record: record.ended)
    return f"every trial failed; the first: {first.reason}"


def _best_line(best: dict[str, Any]) -> str:
    return f"best: {settings_line(best['settings'])}: {best['metric']} {best['metrics'][best['metric']]:.4f}"
