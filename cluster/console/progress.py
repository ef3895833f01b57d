"""Progress of a long step: a bar on a terminal, otherwise a log message every few seconds."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from cluster.console.output import collects_result

if TYPE_CHECKING:
    from rich.console import Console

LOG_INTERVAL_S = 3


class Report(Protocol):
    """Function that shows the amount that is done, a text, and the total if it has changed."""

    def __call__(self, done: float, text: str, new_total: int | None = None) -> None: ...


ReportShare = Callable[[float], None]
"""Shows the share of a step that is done, from 0 to 1."""


class ReportStep(Protocol):
    """Function that shows the step that runs, and the share of it that is done, from 0 to 1."""

    def __call__(self, step: str, share: float = 0.0) -> None: ...


@contextmanager
def progress_bar(
    description: str, unit: str, total: int | None, logger: logging.Logger
) -> Iterator[Callable[[int], None]]:
    """Context manager: a function to call with the amount that is done so far.

    Args:
        unit: what is counted, in the plural.
        total: None if unknown.
        logger: of the messages.
    """
    if not shows_bars(logger):
        yield make_progress_logger(description, unit, total, logger)
        return
    start = time.monotonic()
    with terminal_bar(description, total) as show:
        yield lambda done: show(done, f"{done / max(time.monotonic() - start, 1e-9):,.0f} {unit}/s")


def make_progress_logger(
    description: str, unit: str, total: int | None, logger: logging.Logger
) -> Callable[[int], None]:
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
def count_bar(description: str, total: int | None, logger: logging.Logger) -> Iterator[Report | None]:
    """Context manager: a function that shows how many parts of a step are done in a bar, which vanishes at the end.

    None without a terminal: each part logs a line anyway.
    """
    if not shows_bars(logger):
        yield None
        return
    with terminal_bar(description, total, counts=True) as show:
        yield show


@contextmanager
def step_bar(description: str, steps: Sequence[str], logger: logging.Logger) -> Iterator[ReportStep]:
    """Context manager: a function to call when a step begins, and with the share of it that is done.

    A terminal shows the name of the step in a bar, which vanishes at the end; without one, nothing is shown.

    Args:
        steps: names of the steps in their order. More may be added to a list once it is clear that they will run.
    """
    if not shows_bars(logger):
        yield ignore_step
        return
    with terminal_bar(description, len(steps), counts=True, elapsed=True) as show:
        yield lambda step, share=0.0: show(steps.index(step) + share, step, len(steps))


def ignore_share(share: float) -> None:
    """Show nothing."""


def ignore_step(step: str, share: float = 0.0) -> None:
    """Show nothing."""


def shows_bars(logger: logging.Logger) -> bool:
    """Return whether the console shows bars: a terminal does, without --json, or --quiet, which hides messages."""
    return sys.stderr.isatty() and logger.isEnabledFor(logging.INFO) and not collects_result()


@contextmanager
def terminal_bar(
    description: str,
    total: int | None,
    console: "Console | None" = None,
    *,
    counts: bool = False,
    elapsed: bool = False,
) -> Iterator[Report]:
    """Context manager: a function that moves a bar.

    Args:
        description: in front of the bar.
        total: amount that fills the bar; None if unknown.
        console: by default standard error.
        counts: show the amount and the total instead of a percentage, and remove the bar at the end.
        elapsed: show the time since the start, not that until the end, which parts of unequal length do not tell.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    clock: ProgressColumn = TimeElapsedColumn() if elapsed else TimeRemainingColumn()
    amount: ProgressColumn = TextColumn("{task.fields[count]}") if counts else TaskProgressColumn()
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), amount, TextColumn("{task.fields[text]}")]
    # Lines on standard output appear above the bar if that is the terminal too; what is piped elsewhere stays there.
    redirect, transient = sys.stdout.isatty(), counts and console is None
    console = console or Console(stderr=True)
    with Progress(*columns, clock, console=console, redirect_stdout=redirect, transient=transient) as progress:
        task = progress.add_task(description, total=total, text="", count="")

        def show(done: float, text: str, new_total: int | None = None) -> None:
            current = new_total or total
            count = f"{int(done)}{'' if current is None else f'/{current}'}"
            # At the end rich refreshes the bar of a terminal, but not that of a notebook.
            refresh = console.is_jupyter
            progress.update(task, completed=done, total=current, text=text, count=count, refresh=refresh)

        show(0, "")
        yield show
