"""Access to Ray: connections, job submission, resources, storage. This layer knows nothing about text."""

__version__ = "0.1.0"


class UsageError(Exception):
    """A mistake that the user can correct; commands print it without a traceback and exit with code 2."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not empty, or the name of its type."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
