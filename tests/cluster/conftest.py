"""Ray head that the tests of this package share."""

from collections.abc import Iterator

import pytest

from benchmarks.ray_head import RayHead, start_ray_head


@pytest.fixture(scope="package")
def ray_head() -> Iterator[RayHead]:
    """A running head with a dashboard and two CPUs, without tokens."""
    with start_ray_head() as head:
        yield head
