"""Best checkpoint of a search: named in best.json as soon as it is written, and trained again on all rows (refit)."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

from cluster.message_queue import MessagePoller
from cluster.storage import StorageError, exists, join, list_folders, lock_folder, read_text, write_text
from jobs.config import conflicts
from jobs.config.experiment import Experiment
from jobs.config.training_defaults import choose_batch_size
from jobs.datasets.dataset import Dataset, merge_validation
from jobs.model.checkpoint import CheckpointError, verify_sizes
from jobs.model.checkpoint_files import read_json, validate_metrics
from jobs.model.checkpoint_leases import remove_outdated_folder
from jobs.model.checkpoint_locations import open_checkpoint
from jobs.model.linear.tensors import SCALE
from jobs.search.records import (
    RankingKey,
    TrialRecord,
    apply_trial_settings,
    objective_metric,
    ranking_key,
    select_best_record,
    trial_folder_name,
)
from jobs.search.search import Search
from jobs.training.corpora.building import build_corpus
from jobs.training.history import Epoch
from jobs.training.linear.rarity import compute_rarity, find_weight_and_growth
from jobs.training.run_files.checkpoint_store import CheckpointStore, checkpoint_name
from jobs.training.run_files.run_folder import BEST_EPOCH_METRICS, BestCheckpoint, RunFolder
from jobs.training.run_files.trackers import Trackers, track_run

logger = logging.getLogger(__name__)

REFIT_FOLDER = "refit"

# Interval in which the driver handles messages of trials.
MESSAGE_POLL_S = 0.1

# Interval in which the driver saves the time that was spent on a search with a limit, which a killed command loses.
ELAPSED_SAVE_S = 10.0

# Seconds for which a checkpoint stays after best.json has named a better one, for those who have just read its name.
REPLACED_KEPT_S = 10.0


class BestCheckpointManager:
    """Keeps best.json of a search's run, and best.yaml, the experiment with the best settings.

    Args:
        run, experiment: of the search.
    """

    def __init__(self, run: RunFolder, experiment: Experiment) -> None:
        self._run, self._experiment = run, experiment
        self._metric = objective_metric(experiment)
        named = run.read_best()
        self.best = named and replace(named, finished=True)
        """Contents of best.json; None before there is a checkpoint."""
        # Paths of earlier best checkpoints, the last one last, with the times at which they were replaced. The last
        # one, and those replaced a moment ago, are not removed yet: others may be reading them.
        self._replaced: list[tuple[str, float]] = []
        # Messages of trials are handled in a thread of their own.
        self._lock = threading.Lock()
        # Number of ended trials, the best key, and the checkpoints kept for readers, at the last removal.
        self._pruned: tuple[int, RankingKey, tuple[str, ...]] | None = None

    def best_ranking_key(self) -> RankingKey | None:
        """Return the ranking key of the best checkpoint; None before there is one."""
        return ranking_key(self.best.metrics, self._metric, self.best.trial or 0) if self.best else None

    def update_if_better(self, number: int, epoch: Epoch, settings: Mapping[str, Any]) -> None:
        """Name the checkpoint of a trial's epoch in best.json if it is better than the named one.

        Raises:
            CheckpointError: the checkpoint is incomplete.
        """
        with self._lock:
            best_key = self.best_ranking_key()
            if best_key is not None and ranking_key(vars(epoch), self._metric, number) <= best_key:
                return
            better = BestCheckpoint(
                checkpoint=f"{trial_folder_name(number)}/{checkpoint_name(epoch.epoch)}",
                metric=self._metric,
                metrics={key: getattr(epoch, key) for key in dict.fromkeys((*BEST_EPOCH_METRICS, self._metric))},
                settings=settings,
                trial=number,
            )
            self._run.update_best(better)
            if self.best is not None:
                self._replaced.append((self.best.checkpoint, time.monotonic()))
            self.best = better
            write_best_yaml(self._run, self._experiment, better)

    def recover(self, started: Mapping[int, dict[str, Any]]) -> None:
        """Name the best checkpoint that trials saved before the search was killed, also of trials that had not ended.

        Trials that were worse have saved no checkpoint since.

        Args:
            started: settings of all trials that were started, by number.
        """
        folders = set(list_folders(self._run.path))
        for number, settings in started.items():
            folder = join(self._run.path, trial_folder_name(number))
            for name in CheckpointStore(folder).names() if trial_folder_name(number) in folders else ():
                path = join(folder, name)
                epoch = _read_epoch(path)
                if epoch is not None:
                    self.update_if_better(number, epoch, settings)

    def reconcile(self, records: list[TrialRecord]) -> list[TrialRecord]:
        """Name the best epoch of some records, if a killed search saved its checkpoint and did not name it.

        Returns:
            The records without those whose checkpoint should be the best and is missing: they are trained again.
        """
        while True:
            best, best_key = select_best_record(records, self._metric), self.best_ranking_key()
            if best is None or best.best_epoch is None:
                return records
            if best_key is not None and best_key >= best.ranking_key(self._metric):
                return records
            try:
                self.update_if_better(best.number, best.best_epoch, best.settings)
            except CheckpointError:
                records = [record for record in records if record is not best]

    def prune_checkpoints(self, records: list[TrialRecord]) -> None:
        """Remove checkpoints of ended trials that are worse than the best one.

        The previous best one, those that were replaced less than `REPLACED_KEPT_S` ago, and those with a lease, which
        services use, stay.
        """
        best_key = self.best_ranking_key()
        recent = self._recently_replaced()
        if self.best is None or best_key is None or self._pruned == (len(records), best_key, recent):
            return
        self._pruned = len(records), best_key, recent
        # A trial that is better has a checkpoint that is not named yet.
        outdated = {
            record.number for record in records if not record.best or record.ranking_key(self._metric) <= best_key
        }
        saved = {self.best.checkpoint, *recent}
        for folder in list_folders(self._run.path):
            prefix, _, number = folder.partition("-")
            if prefix != "trial" or not number.isdigit():
                continue
            if int(number) in outdated and not any(path.startswith(f"{folder}/") for path in saved):
                remove_outdated_folder(join(self._run.path, folder))
            elif int(number) == self.best.trial:
                for name in CheckpointStore(join(self._run.path, folder)).names():
                    if f"{folder}/{name}" not in saved and f"{folder}/{name}" < self.best.checkpoint:
                        remove_outdated_folder(join(self._run.path, folder, name))

    def _recently_replaced(self) -> tuple[str, ...]:
        """Return the paths of the previous best checkpoint, and of those replaced less than `REPLACED_KEPT_S` ago."""
        with self._lock:
            limit = time.monotonic() - REPLACED_KEPT_S
            older, previous = self._replaced[:-1], self._replaced[-1:]
            self._replaced = [item for item in older if item[1] > limit] + previous
            return tuple(path for path, _ in self._replaced)


@contextmanager
def handle_trial_messages(
    shared_state: Any,
    best_checkpoint: BestCheckpointManager,
    search: Search,
    save_elapsed: Callable[[float], None] = lambda seconds: None,
) -> Iterator[MessagePoller]:
    """Context manager: name the best checkpoints as trials save them, and log the trials' messages; ends the actor.

    `save_elapsed` is called with the seconds spent on the search, every `ELAPSED_SAVE_S`.

    If that fails, for example because the disk is full, no further trial starts, and the error is raised at the end;
    `raise_error` of the returned poller raises it before.
    """
    ended: list[TrialRecord] = []
    saved_s = -ELAPSED_SAVE_S

    def handle(messages: list[tuple[str, Any]]) -> None:
        nonlocal ended, saved_s
        for kind, value in messages:
            if kind == "saved":
                best_checkpoint.update_if_better(value.number, value.epoch, value.settings)
            else:
                logger.log(*value)
        # Records from before these messages were taken: every checkpoint of their trials has been named, if it is best.
        best_checkpoint.prune_checkpoints(ended)
        ended = list(search.records.values())
        if search.elapsed_s - saved_s >= ELAPSED_SAVE_S:
            saved_s = search.elapsed_s
            try:
                save_elapsed(saved_s)
            except StorageError as error:  # the next one may succeed; a full disk ends the search at its next record
                logger.warning(f"the time spent on the search is not saved: {error}")

    def stop(error: Exception) -> None:
        search.stop_reason = str(error)

    with MessagePoller(shared_state, handle, MESSAGE_POLL_S, on_error=stop) as poller:
        yield poller
    poller.raise_error()


def write_best_yaml(run: RunFolder, experiment: Experiment, best: BestCheckpoint, *, is_finished: bool = False) -> None:
    """Write best.yaml next to best.json: the experiment with the best settings, which trains for `train.epochs`.

    A finished search writes it for the experiment too, even if another run remains the current one.
    """
    settings = {"train.metric": objective_metric(experiment), **(best.settings or {})}
    content = conflicts.drop_ineffective_settings(experiment.replace(settings)).to_yaml()
    write_text(join(run.path, "best.yaml"), content)
    if is_finished or run.is_published():
        write_text(join(run.experiment_folder, "best.yaml"), content)


def refit(
    experiment: Experiment,
    dataset: Dataset,
    best: BestCheckpoint,
    run: RunFolder,
    trackers: Trackers,
    *,
    on_own_ray: bool,
) -> BestCheckpoint:
    """Train the best settings on the training and validation rows together, and return the contents of best.json.

    No validation rows are left to choose the epoch by: training ends after the epoch that was the best in the
    search, with the learning rates of the search. The metrics, temperature, thresholds and weights of a linear
    classifier stay those of the search's checkpoint.

    Args:
        on_own_ray: the search has started Ray on this machine, so one worker can be this process.
    """
    from jobs.training.train import require_resources, train_to_completion  # torch: a search starts without it

    metrics = read_json(join(run.path, best.checkpoint, "metrics.json"))
    validate_metrics(metrics)
    with open_checkpoint(join(run.path, best.checkpoint)) as files:
        linear_weights = files.read_tensors("weights.safetensors").get(SCALE)
    refit_experiment = build_refit_experiment(
        experiment, best, metrics.get("temperature", 1.0), metrics.get("abstention", {}).get("thresholds")
    )
    if "label_thresholds" in metrics:
        thresholds = dict(zip(dataset.labels, metrics["label_thresholds"]["values"], strict=True))
        refit_experiment = refit_experiment.replace({"train.thresholds": thresholds})
    in_process = refit_experiment.train.max_workers == 1 and on_own_ray
    use_gpu, _ = require_resources(refit_experiment, in_process=in_process)
    batch_size = refit_experiment.train.batch_size or choose_batch_size(len(dataset.train))
    refit_experiment = refit_experiment.replace({"train.batch_size": batch_size})
    merged = merge_validation(dataset)
    logger.info(f"refit: training the best settings on all {len(merged.train):,} training and validation rows")
    corpus = build_corpus(refit_experiment, merged, use_pretrained=refit_experiment.model.embedding != "rand")
    if linear_weights is not None:
        weight, growth = find_weight_and_growth(linear_weights, compute_rarity(corpus))
        refit_experiment = refit_experiment.replace(
            {"train.linear_weight": weight, "train.linear_weight_growth": growth}
        )
    refit_run = RunFolder(run.path, REFIT_FOLDER)
    tracked = track_run(trackers, refit_experiment, f"{run.name} {REFIT_FOLDER}", run.name, len(merged.train))
    with lock_folder(refit_run.path):
        trained = refit_run.read_best() or train_to_completion(
            refit_experiment, corpus, refit_run, use_gpu, time.time(), tracked, in_process=in_process
        )
        refit_run.write_best(trained)
    checkpoint = join(REFIT_FOLDER, trained.checkpoint)
    return replace(best, checkpoint=checkpoint, rows=len(merged.train), refit=True)


def build_refit_experiment(
    experiment: Experiment,
    best: BestCheckpoint,
    temperature: float,
    thresholds: Mapping[str, float | None] | None = None,
) -> Experiment:
    """Return the experiment that trains the best settings up to their best epoch, with the temperature and thresholds
    found then."""
    settings: dict[str, Any] = {"train.stop_epoch": best.epoch, "train.temperature": temperature}
    if thresholds is not None:
        settings["train.abstention_thresholds"] = {
            objective: threshold for objective, threshold in thresholds.items() if threshold is not None
        }
    return apply_trial_settings(experiment, best.settings or {}).replace(settings)


def _read_epoch(path: str) -> Epoch | None:
    """Return the epoch of a checkpoint; None if the checkpoint is damaged, or of a run of Ray Train.

    Such a run resumes from it and removes it.
    """
    try:
        if exists(join(path, "progress.json")):
            return None
        verify_sizes(path)
        values = json.loads(read_text(join(path, "metrics.json")))
        return Epoch(**{item.name: values[item.name] for item in fields(Epoch) if item.name in values})
    except (CheckpointError, StorageError, ValueError, KeyError, TypeError):
        return None
