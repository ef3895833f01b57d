"""Access to Ray: connections, job submission, resources, storage. This layer knows nothing about text."""

from collections.abc import Iterator
from contextlib import contextmanager

__version__ = "0.1.0"

# The first lines of Ray's messages on a runtime environment. The reason is in the last line, after a traceback.
_RUNTIME_ENVIRONMENT_ERRORS = ("Failed to set up runtime environment", "runtime_env setup failed")


class UsageError(Exception):
    """A mistake that the user can correct; commands print it without a traceback and exit with code 2.

    >>> import finetune_cnn
    >>> try:
    ...     finetune_cnn.load("missing")
    ... except finetune_cnn.UsageError as error:
    ...     print(error)
    /...missing: contains neither a checkpoint nor a best.json; name the folder of an experiment, ...
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or the name of its type.

    A line that introduces the next one, or that Ray puts before the reason, is followed by that.
    """
    return summarize_message(str(error)) or type(error).__name__


def summarize_message(message: str) -> str:
    """Return the first line of a message with the reason that it announces; empty if the message is."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    if len(lines) > 1:
        if any(text in lines[0] for text in _RUNTIME_ENVIRONMENT_ERRORS):
            return f"{lines[0].rstrip('.:')}: {lines[-1]}"
        if lines[0].endswith(":"):
            return f"{lines[0]} {lines[1]}"
    return lines[0]


def choose_form(number: int, singular: str, plural: str) -> str:
    """Return the form of a word for so many of something, as in "1 of 90 texts is a copy"."""
    return singular if number == 1 else plural


def format_count(number: int, noun: str) -> str:
    """Return a number of things whose plural ends with s, as in "1 node" and "2,000 nodes"."""
    return f"{number:,} {choose_form(number, noun, f'{noun}s')}"


def to_single_line(error: object, limit: int = 500) -> str:
    """Return an error's message on one line of about `limit` characters: its beginning, and its end with the reason."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"


@contextmanager
def convert_interrupts() -> Iterator[None]:
    """Context manager: Ctrl-C raises KeyboardInterrupt in compiled code too, where numba makes it a SystemError."""
    try:
        yield
    except SystemError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            cause = cause.__cause__ or cause.__context__
        raise
