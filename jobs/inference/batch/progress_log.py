"""Progress of a prediction for files: a bar on a terminal, or log messages."""

import contextlib
import logging
import time

from cluster.console.progress import Report, shows_bars, terminal_bar

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 5


class ProgressLog:
    """Progress of a prediction: a bar on a terminal, elsewhere a log message every few seconds.

    They show the number of rows, their rate, and the remaining time if it is known.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self._start = self._last = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._show: Report | None = None

    def __enter__(self) -> "ProgressLog":
        if shows_bars(logger):
            self._show = self._stack.enter_context(terminal_bar("labelling", 1))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, num_rows: int, share: float | None) -> None:
        """Count rows; share: the part of the work that is done, None if unknown."""
        self.num_rows += num_rows
        now = time.monotonic()
        if self._show is not None:
            self._show(
                share or 0, f"{self.num_rows:,} rows, {self.num_rows / max(now - self._start, 1e-9):,.0f} rows/s"
            )
            return
        if now - self._last >= LOG_INTERVAL_S:
            self._last = now
            seconds = now - self._start
            rest = f", {share:.0%} done, {seconds * (1 - share) / share:,.0f} s remaining" if share else ""
            logger.info(f"labelled {self.num_rows:,} rows, {self.num_rows / seconds:,.0f} rows a second{rest}")
