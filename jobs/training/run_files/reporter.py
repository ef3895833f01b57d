"""Reports of a worker to Ray Train, by a background thread."""

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from os.path import basename
from typing import Any

import ray.train

from cluster.storage import exists, join, resolve_filesystem
from jobs.training.history import Epoch, EpochReport, Progress
from jobs.training.monitor import RunCallback
from jobs.training.process_group import ProcessGroup
from jobs.training.run_files.checkpoint_store import BackgroundExecutor, checkpoint_name


class Reporter:
    """Background thread of a worker that reports to Ray Train; all workers of a run must submit the same reports.

    A report refers to the checkpoint in the run's folder, which is not uploaded again. It also carries the messages of
    the first worker that the driver logs.

    Args:
        path: of the run's folder.
        interval_s: least time between two reports.
        callback: in local mode, where Ray Train calls none.
        with_messages: False: messages are dropped, and each report has the metrics of an epoch.
    """

    def __init__(
        self,
        path: str,
        group: ProcessGroup,
        interval_s: float,
        callback: RunCallback | None,
        *,
        with_messages: bool = True,
    ) -> None:
        self._group, self._interval_s, self._callback = group, interval_s, callback
        self._with_messages = with_messages
        self._path = path
        self._filesystem, self._folder = resolve_filesystem(path)
        self._background = BackgroundExecutor()
        self._messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()  # two threads use it
        self._submitted_at = float("-inf")  # time.monotonic()
        self._submitted: set[Epoch | None] = set()
        self._latest = ""  # name of the latest checkpoint that was reported before the run was resumed
        self._removed: set[str] = set()  # names of checkpoints that Ray Train, or a user, has removed

    def add_message(self, kind: str, value: Any) -> None:
        """Add a message of the first worker to the next report."""
        if self._group.rank == 0 and self._with_messages:
            self._messages.put((kind, value))

    def take_messages(self) -> list[tuple[str, Any]]:
        """Return the messages that are not reported, and remove them."""
        messages = []
        with suppress(queue.Empty):
            while True:
                messages.append(self._messages.get_nowait())
        return messages

    def is_due(self) -> bool:
        """Return whether the interval has passed since the last report, by the first worker's clock."""
        return self._group.broadcast_bool(time.monotonic() - self._submitted_at >= self._interval_s)

    def submit(self, work: Callable[[], None], epochs: Sequence[Epoch | None]) -> None:
        """Wait for the work and reports submitted before, whose error is raised; then do this work and report.

        Args:
            epochs: reported with their checkpoints, which must be complete after the work; None for a report that has
                only messages, which is left out without messages.
        """
        reports = [epoch for epoch in epochs if epoch is not None or self._with_messages]

        def work_and_report() -> None:
            failed = True
            try:
                work()
                failed = False
            finally:  # the other workers wait in their reports
                for epoch in reports:
                    self._report(epoch, is_complete=not failed)

        if epochs:
            self._submitted_at = time.monotonic()
            self._submitted.update(epochs)
        self._background.submit(work_and_report)

    def submit_begin(self, progress: Progress) -> None:
        """Report the messages, and if each epoch is reported, those of a resumed run whose reports were lost.

        No checkpoint is reported twice: Ray Train may remove it with the earlier report.
        """
        epochs: Sequence[Epoch | None] = []
        if self._interval_s == 0 and self._callback is None:
            if (latest := ray.train.get_checkpoint()) is not None:
                self._latest = basename(latest.path)
            epochs = [epoch for epoch in progress.epochs if checkpoint_name(epoch.epoch) > self._latest]
            self._submitted.update(progress.epochs)
        self.submit(do_nothing, epochs or [None])

    def submit_end(self, progress: Progress) -> None:
        """Report the end of a run: its last epoch, after the best one, so that Ray Train's result has both."""
        ends = [progress.epochs[number - 1] for number in sorted({progress.best, len(progress.epochs)})]
        epochs = [epoch for epoch in ends if epoch not in self._submitted]

        def find_removed() -> None:
            if self._group.rank == 0:
                names = {checkpoint_name(epoch.epoch) for epoch in epochs}
                self._removed = {name for name in names if not exists(join(self._path, name))}

        self.submit(find_removed, epochs)

    def wait(self) -> None:
        """Wait until everything that was submitted is done; raises its error."""
        self._background.wait()

    def wait_after_interrupt(self) -> None:
        """Wait as `wait`, also for work whose end `submit` was waiting for when it was interrupted."""
        self._background.submit(do_nothing)
        self.wait()

    def _report(self, epoch: Epoch | None, *, is_complete: bool) -> None:
        """Report the messages and an epoch; is_complete: its checkpoint is, without which it is a message at most."""
        is_first = self._group.rank == 0
        if self._with_messages and not is_complete:
            epoch = None
        metrics = EpochReport(epoch if is_first else None, self.take_messages())
        checkpoint = None
        name = checkpoint_name(epoch.epoch) if epoch is not None and is_first and is_complete else ""
        if name > self._latest and name not in self._removed:
            checkpoint = ray.train.Checkpoint(f"{self._folder}/{name}", self._filesystem)
        ray.train.report(metrics, checkpoint, checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD)
        if self._callback is not None:
            self._callback.after_report(self._callback.run_context, [metrics], checkpoint)


def do_nothing() -> None:
    """Do nothing."""
