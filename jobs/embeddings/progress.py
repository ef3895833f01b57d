"""How far long work is: a bar on a terminal, a line every few seconds elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 3


@contextmanager
def progress_bar(description: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Hold what is to be told how much is done, in all.

    Args:
        unit: what is counted, in the plural.
        total: None where nobody knows.
    """
    if sys.stderr.isatty():
        with _on_terminal(description, unit, total) as tell:
            yield tell
    else:
        yield make_progress_logger(description, unit, total)


def make_progress_logger(description: str, unit: str, total: int | None) -> Callable[[int], None]:
    """Return what says a line for what it is told, every few seconds and when all is done."""
    start = told = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > LOG_INTERVAL_S or done == total:
            told = now
            share = f"{done / total:4.0%}, " if total else ""
            logger.info(f"{description}: {share}{done:,} {unit}, {done / max(now - start, 1e-9):,.0f} a second")

    return tell


@contextmanager
def _on_terminal(text: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    start = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[speed]}")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(text, total=total, speed="")

        def tell(done: int) -> None:
            speed = done / max(time.monotonic() - start, 1e-9)
            progress.update(task, completed=done, speed=f"{speed:,.0f} {unit}/s")

        yield tell
