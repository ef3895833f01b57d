"""Ctrl-C while Ray's own handlers are in place."""

import signal
import sys

import pytest

from cluster.interruption import preserve_sigint_handler


def test_an_exit_from_a_handler_is_an_interruption() -> None:
    """And the handler that was there before is there again."""
    before = signal.getsignal(signal.SIGINT)

    def fit() -> None:
        with preserve_sigint_handler():
            signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit()
    assert signal.getsignal(signal.SIGINT) == before


def test_other_ends_pass_through() -> None:
    """A return, an error."""
    with preserve_sigint_handler():
        pass
    with pytest.raises(ValueError, match="mine"), preserve_sigint_handler():
        raise ValueError("mine")
