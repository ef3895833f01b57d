"""Ctrl-C, meaning what it means elsewhere while Ray Train or Ray Tune is at work.

Both put handlers of their own in place of Python's and leave them there; Train answers with
`sys.exit(0)`, as if the run had ended well.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def preserve_sigint_handler() -> Iterator[Callable[[], bool]]:
    """Hold while a fit() runs: Train's exit on Ctrl-C becomes KeyboardInterrupt, and its handler goes when it ends.

    What is held tells whether Tune's fit() was interrupted: its handler puts back the one from before.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield lambda: signal.getsignal(signal.SIGINT) == before
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)
