"""Fixtures of the tests of blocks of rows."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.datasets.formats.columnar import parquet, record_batches
from jobs.datasets.prepared import blocks, row_blocks


@pytest.fixture(scope="module")
def small_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Divide short files too; blocks have as many bytes as `BLOCK_BYTES` of the test module, if it has that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", getattr(request.module, "BLOCK_BYTES", blocks.BLOCK_BYTES))
        patch.setattr(row_blocks, "MAX_ROWS", 2)
        for module in (record_batches, parquet):
            patch.setattr(module, "SLICE_ROWS", 3)
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File that the tests of a module write: one, as hypothesis calls a test many times."""
    return tmp_path_factory.mktemp("rows") / "rows"
