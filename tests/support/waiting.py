"""Waiting for a condition."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], description: str, timeout: float = 120, interval: float = 0.3) -> T:
    """Return the first true value of `condition()`.

    Args:
        description: what is waited for; part of the error message.
        timeout, interval: in seconds.

    Raises:
        TimeoutError: the condition was false until the timeout.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {description}")
        time.sleep(interval)
    return result
