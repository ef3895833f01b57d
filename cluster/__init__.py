"""How Ray is reached: connect, submit, resources, storage. This floor knows nothing of text."""


class UsageError(Exception):
    """Something its user can put right; the commands print it without a traceback and exit with 2."""
