"""Progress of an estimator's training: a bar on a terminal or in a notebook, elsewhere a line for each epoch."""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from threading import current_thread, main_thread

from rich.console import Console

from cluster.console.progress import terminal_bar
from jobs.training.history import Epoch


@contextmanager
def show_epochs(num_epochs: int, console: Console | None = None) -> Iterator[Callable[[Epoch], None]]:
    """Context manager: yield a function that shows a finished epoch.

    Args:
        num_epochs: that are trained at most.
        console: of the bar; by default standard error.
    """
    console = console or Console(stderr=True)
    # In a notebook rich needs ipywidgets.
    has_bar = importlib.util.find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal
    # Bars of several processes or threads, such as those of GridSearchCV(n_jobs=2), would overwrite each other.
    is_worker = parent_process() is not None or current_thread() is not main_thread()
    if is_worker or not has_bar:
        yield lambda epoch: print(f"epoch {epoch.epoch}: {_format_metrics(epoch)}", flush=True)
        return
    with terminal_bar("epoch", num_epochs, console, counts=True) as show:
        yield lambda epoch: show(epoch.epoch, _format_metrics(epoch))


def _format_metrics(epoch: Epoch) -> str:
    return f"training loss {epoch.train_loss:.4f}, validation loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.4f}"
