"""Ray of the tests of this package: a head that they share, and an embedded Ray."""

from collections.abc import Iterator

import pytest

from benchmarks.ray_head import RayHead, start_ray_head
from tests.support.embedded_ray import run_embedded_ray


@pytest.fixture(scope="package")
def ray_head() -> Iterator[RayHead]:
    """A running head with a dashboard and two CPUs, without tokens."""
    with start_ray_head() as head:
        yield head


@pytest.fixture(scope="module")
def embedded_ray() -> Iterator[None]:
    """This process is connected to an embedded Ray."""
    with run_embedded_ray():
        yield
