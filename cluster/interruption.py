"""Ctrl-C, meaning what it means elsewhere while Ray Train or Ray Tune is at work.

Both put handlers of their own in place of Python's and leave them there; Train answers with
`sys.exit(0)`, as if the run had ended well.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Hold while a fit() runs: Train's exit on Ctrl-C becomes KeyboardInterrupt, and its handler goes when it ends."""
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)
