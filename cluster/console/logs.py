"""Log handlers of the project's loggers: one for a command's console, one that forwards a worker's messages."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster.console.output import RED, YELLOW, paint

LOGGERS = ("cluster", "jobs", "serving")
# Level of what a command was called for, such as a table of results or a written file; printed with --quiet too.
RESULT = 25


class ConsoleFormatter(logging.Formatter):
    """Messages of warnings and errors start with their level, in colour, as those of usage errors do."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        text = super().format(record)
        if record.levelno < logging.WARNING:
            return text
        color = RED if record.levelno >= logging.ERROR else YELLOW
        return f"{paint(f'{record.levelname.lower()}:', color, sys.stderr)} {text}"


class ConsoleHandler(logging.Handler):
    """Prints messages: progress and results to standard output, warnings and errors to standard error.

    From its creation on, what the console's encoding does not have is printed as an escape sequence, also by `print`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(ConsoleFormatter())
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
                stream.reconfigure(errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, unbuffered: another program may follow the output."""
        stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        print(self.format(record), file=stream, flush=True)


class ForwardingHandler(logging.Handler):
    """Sends messages of a worker to its driver.

    Args:
        send: receives ("log", (level, message)).
    """

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._send("log", (record.levelno, record.getMessage()))


@contextmanager
def limit_logs(name: str, level: int) -> Iterator[None]:
    """Context manager: a logger of another library logs messages of at least `level` only."""
    library = logging.getLogger(name)
    previous = library.level
    library.setLevel(level)
    try:
        yield
    finally:
        library.setLevel(previous)


@contextmanager
def handle_logs(handler: logging.Handler, level: int = logging.INFO) -> Iterator[None]:
    """Context manager: the project's loggers pass messages of at least `level` to the handler."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, previous in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(previous)
