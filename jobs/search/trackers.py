"""Log of an ended trial in the trackers of runs."""

import time

from cluster.storage import parent
from jobs.search.records import TrialRecord
from jobs.training.run_files.trackers import Ending, TrackedRun, Trackers


def log_trial(trackers: Trackers, record: TrialRecord, search: str, seed: int) -> None:
    """Log a trial that has ended; search: path of its folder, whose name is the group of its trials."""
    group = search.removeprefix(parent(search)).strip("/").partition("?")[0]
    ended = record.ended or time.time()
    started = ended - record.seconds
    logs = trackers.start(
        TrackedRun(f"{group} trial {record.number}", group, {"seed": seed, **record.settings}, started)
    )
    ends = []
    for epoch in record.epochs:
        started += epoch.seconds
        ends.append((epoch, started))
    if ends:
        logs.log(ends)
    logs.end(Ending(record.best_epoch, record.status, ended, record.reason))
