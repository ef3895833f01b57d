"""The best settings of a search, trained again on all labelled rows but the test part."""

import logging
import time
from dataclasses import replace

from cluster import resources
from cluster.storage import join, lock_folder
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, merge_validation
from jobs.search.best_checkpoint import BestCheckpointManager
from jobs.search.trial import apply_trial_settings
from jobs.training.corpus import build_corpus
from jobs.training.run_folder import BestCheckpoint, RunFolder
from jobs.training.train import require_resources, train_to_completion

logger = logging.getLogger(__name__)

REFIT_FOLDER = "refit"


def refit(experiment: Experiment, found: Dataset, champion: BestCheckpointManager, run: RunFolder) -> BestCheckpoint:
    """Train the best settings on the training and validation parts together, and return what best.json says then.

    There is no validation part left to choose the epoch by: training ends after the one that was best in the search,
    at the learning rates that it had there. As many workers train as the cluster has room for, which changes nothing
    but the time. The figures stay those of the search, of the checkpoint that the settings were chosen by.
    """
    best = champion.best
    assert best is not None
    chosen = build_refit_experiment(experiment, best)
    gpu, _ = require_resources(chosen)
    room = max(1, resources.worker_capacity(chosen.train.cpus_per_worker, gpu))
    chosen = chosen.replace({"train.workers": min(room, len(chosen.model.filter_widths) * chosen.model.feature_maps)})
    both = merge_validation(found)
    logger.info(
        f"training the best settings again, on all {len(both.train):,} rows of the training and validation parts"
    )
    corpus = build_corpus(chosen, both, use_pretrained=chosen.model.embedding != "rand")
    place = RunFolder(run.path, REFIT_FOLDER)
    with lock_folder(place.path):
        done = place.read_best() or train_to_completion(chosen, corpus, place, gpu, time.time())
        place.finish_without_publishing(done)
    return replace(best, checkpoint=join(REFIT_FOLDER, done.checkpoint), rows=len(both.train), refit=True)


def build_refit_experiment(experiment: Experiment, best: BestCheckpoint) -> Experiment:
    """Return the experiment that trains the best settings as long as their best epoch."""
    return apply_trial_settings(experiment, dict(best.settings or {})).replace({"train.stop_epoch": best.epoch})
