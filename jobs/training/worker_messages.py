"""Input and result of the workers of a training run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobs.config.experiment import Experiment
from jobs.training.history import Progress
from jobs.training.monitor import RunCallback, WorkerTimes
from jobs.training.run_files.checkpoint_store import NUM_TO_KEEP


@dataclass(frozen=True)
class WorkerConfig:
    """Input of the workers; its fields are the keys of Ray Train's `train_loop_config`.

    corpus: a Corpus, or Ray's reference to one. path: of the run's folder. use_gpu: None for what Ray Train has given
    the worker. report_interval_s: least time between two reports. callback: in local mode, where Ray Train calls none.
    num_to_keep: newest checkpoints that remain, with that of the best epoch; None for those of all epochs.
    forward_logs: the reports carry the log messages, and some carry nothing else.
    """

    experiment: Experiment
    corpus: Any
    path: str
    use_gpu: bool | None
    report_interval_s: float
    callback: RunCallback | None = None
    num_to_keep: int | None = NUM_TO_KEEP
    forward_logs: bool = True


@dataclass(frozen=True)
class WorkerResult:
    """Result of a finished run. num_steps, bytes_sent: of one worker, since the run was last resumed."""

    progress: Progress
    num_workers: int
    num_steps: int
    bytes_sent: int
    times: WorkerTimes


@dataclass(frozen=True)
class WorkerFailure:
    """Error message of a run that ended with an error that the user can correct.

    messages: those that were not reported.
    """

    message: str
    messages: Sequence[tuple[str, Any]] = ()
