"""The best settings of a search, trained again on all labelled rows but the test part."""

import time
from collections.abc import Callable
from typing import Any

from cluster import resources
from cluster.storage import join, locked
from jobs.config.experiment import Experiment
from jobs.datasets.dataset import Dataset, merged
from jobs.search.best_checkpoint import Champion
from jobs.search.trial import settings_of
from jobs.training.corpus import prepare
from jobs.training.run_folder import Run
from jobs.training.train import room_for, run_to_the_end

FOLDER = "refit"


def refit(
    experiment: Experiment, found: Dataset, champion: Champion, run: Run, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train the best settings on the training and validation parts together, and return what best.json says then.

    There is no validation part left to choose the epoch by: training ends after the one that was best in the search,
    at the learning rates that it had there. As many workers train as the cluster has room for, which changes nothing
    but the time. The figures stay those of the search, of the checkpoint that the settings were chosen by.
    """
    best = champion.best
    assert best is not None
    chosen = refitted(experiment, best)
    gpu, _ = room_for(chosen)
    room = max(1, resources.room(chosen.train.cpus_per_worker, gpu))
    chosen = chosen.replace({"train.workers": min(room, len(chosen.model.filter_widths) * chosen.model.feature_maps)})
    both = merged(found)
    say(f"training the best settings again, on all {len(both.train):,} rows of the training and validation parts")
    corpus = prepare(chosen, both, pretrained=chosen.model.embedding != "rand", progress=say)
    place = Run(run.path, FOLDER)
    with locked(place.path):
        done = place.named() or run_to_the_end(chosen, corpus, place, gpu, say, time.time())
        place.finish_alone(done)
    return best | {"checkpoint": join(FOLDER, done["checkpoint"]), "rows": len(both.train), "refit": True}


def refitted(experiment: Experiment, best: dict[str, Any]) -> Experiment:
    """Return the experiment that trains the best settings as long as their best epoch."""
    return settings_of(experiment, best["settings"]).replace({"train.stop_epoch": best["metrics"]["epoch"]})
