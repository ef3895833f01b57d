"""Start of Ray while the inputs of a command are loaded."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment
    from jobs.datasets.dataset import Dataset
    from jobs.training.corpora.corpus import Corpus

Inputs = TypeVar("Inputs")


@contextlib.contextmanager
def connect_early(experiment: "Experiment") -> Iterator["Callable[[], tuple[Dataset, Corpus]] | None"]:
    """Context manager: yield a function that returns the inputs of a training, or None if it is to load them.

    If the training needs an embedded Ray, Ray's processes start while threads load the inputs and torch. An error of
    the inputs that occurs before torch is loaded is raised at once.
    """
    from cluster.connection import resolve_address

    if experiment.train.max_workers == 1 or resolve_address() is not None:
        yield None
        return
    from jobs.training.corpora.building import load_inputs

    with connect_while_loading(functools.partial(load_inputs, experiment), "torch") as inputs:
        yield inputs


@contextlib.contextmanager
def connect_while_loading(load: Callable[[], Inputs], module: str | None = None) -> Iterator[Callable[[], Inputs]]:
    """Context manager: an embedded Ray has started; meanwhile threads load inputs and import a module.

    Yields:
        Function that waits for the inputs and returns them, or raises the error of loading them.
    """
    from cluster.connection import call_in_background, connect

    inputs = call_in_background(load)
    futures: list[Future[Any]] = [inputs]
    if module is not None:
        futures.append(call_in_background(functools.partial(importlib.import_module, module)))
    with connect():
        wait(futures, return_when=FIRST_COMPLETED)
        if inputs.done():
            inputs.result()
        for future in futures[1:]:
            future.result()
        yield inputs.result
