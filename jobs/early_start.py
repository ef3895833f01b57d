"""Start of Ray while the inputs of a training are loaded."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment
    from jobs.datasets.dataset import Dataset
    from jobs.training.corpus import Corpus


@contextlib.contextmanager
def connect_early(experiment: "Experiment") -> Iterator["Callable[[], tuple[Dataset, Corpus]] | None"]:
    """Context manager: yield a function that returns the inputs of a training, or None if it is to load them.

    If the training needs an embedded Ray, Ray's processes start while threads load the inputs and torch. An error of
    the inputs that occurs before torch is loaded is raised at once.
    """
    from cluster.connection import call_in_background, connect, resolve_address

    if experiment.train.max_workers == 1 or resolve_address() is not None:
        yield None
        return
    from jobs.training.corpus import load_inputs

    inputs = call_in_background(functools.partial(load_inputs, experiment))
    loading = call_in_background(functools.partial(importlib.import_module, "torch"))
    with connect():
        futures: list[Future[Any]] = [inputs, loading]
        wait(futures, return_when=FIRST_COMPLETED)
        if inputs.done():
            inputs.result()
        loading.result()
        yield inputs.result
