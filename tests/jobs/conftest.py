"""Embedded Ray that the tests of this package share: each start takes seconds."""

from collections.abc import Iterator

import pytest

from tests.support.embedded_ray import run_embedded_ray


@pytest.fixture(scope="package")
def embedded_ray() -> Iterator[None]:
    """This process is connected to an embedded Ray, until the tests of the package have ended."""
    with run_embedded_ray():
        yield
