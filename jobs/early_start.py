"""Start of Ray while the inputs of a training are loaded."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.config.experiment import Experiment
    from jobs.datasets.dataset import Dataset
    from jobs.training.corpus import Corpus


@contextlib.contextmanager
def connect_early(experiment: "Experiment") -> Iterator["Callable[[], tuple[Dataset, Corpus]] | None"]:
    """Context manager: yield a function that returns the inputs of a training, or None if it is to load them.

    If the training needs an embedded Ray, Ray's processes start while a thread loads the inputs and torch.
    """
    from cluster.connection import call_in_background, connect, resolve_address

    if experiment.train.max_workers == 1 or resolve_address() is not None:
        yield None
        return
    from jobs.training.corpus import load_inputs

    inputs = call_in_background(functools.partial(load_inputs, experiment))
    loading = call_in_background(functools.partial(importlib.import_module, "torch"))
    with connect():
        loading.result()
        yield inputs.result
