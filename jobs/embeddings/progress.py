"""Progress of a long operation: a bar on a terminal, otherwise a log message every few seconds."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 3


@contextmanager
def progress_bar(description: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Context manager: a function to call with the amount that is done so far.

    Args:
        unit: what is counted, in the plural.
        total: None if unknown.
    """
    if sys.stderr.isatty():
        with _terminal_bar(description, unit, total) as report:
            yield report
    else:
        yield make_progress_logger(description, unit, total)


def make_progress_logger(description: str, unit: str, total: int | None) -> Callable[[int], None]:
    """Return a function that logs the amount it is called with, every few seconds and at the end."""
    start = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > LOG_INTERVAL_S or done == total:
            last = now
            share = f"{done / total:4.0%}, " if total else ""
            logger.info(f"{description}: {share}{done:,} {unit}, {done / max(now - start, 1e-9):,.0f} a second")

    return report


@contextmanager
def _terminal_bar(description: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    start = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, speed="")

        def report(done: int) -> None:
            speed = done / max(time.monotonic() - start, 1e-9)
            progress.update(task, completed=done, speed=f"{speed:,.0f} {unit}/s")

        yield report
