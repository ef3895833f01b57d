"""Embedded Ray of the tests, separate from any other Ray on the machine."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NUM_CPUS = 4


@contextmanager
def run_embedded_ray() -> Iterator[None]:
    """Context manager: this process is connected to a new Ray with `NUM_CPUS` logical CPUs."""
    from cluster.connection import connect  # a GPU machine needs no Ray

    folder = tempfile.mkdtemp(prefix="rt-", dir="/tmp")  # short: Ray creates sockets in it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        with connect(num_cpus=NUM_CPUS):
            yield
    shutil.rmtree(folder, ignore_errors=True)
