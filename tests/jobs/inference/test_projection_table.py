"""The table is one file a machine, whoever asks."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from jobs.inference import projection_table as table

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
FILTERS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return table.table_folder()


def test_the_second_maps_what_the_first_wrote(folder: Path) -> None:
    """Read-only, the same values; other vectors are another file."""
    first, second = table.load_or_compute(VECTORS, FILTERS), table.load_or_compute(VECTORS.copy(), FILTERS)
    assert isinstance(first, np.memmap)
    assert isinstance(second, np.memmap)
    assert first.filename == second.filename
    assert not second.flags.writeable
    np.testing.assert_array_equal(second, VECTORS @ FILTERS)
    np.testing.assert_array_equal(table.load_or_compute(VECTORS + 1, FILTERS), (VECTORS + 1) @ FILTERS)
    assert len(list(folder.iterdir())) == 2


def test_files_that_nobody_opened_for_a_week_go(folder: Path) -> None:
    """What is mapped stays readable all the same."""
    old = table.load_or_compute(VECTORS, FILTERS)
    os.utime(old.filename, (0, time.time() - table.MAX_UNUSED_S - 1))
    table.load_or_compute(VECTORS + 1, FILTERS)
    assert len(list(folder.iterdir())) == 1
    np.testing.assert_array_equal(old, VECTORS @ FILTERS)


def test_a_folder_of_somebody_else_is_not_used(folder: Path) -> None:
    """Nor is a file that is cut off: the table is made anew, for this process alone."""
    folder.chmod(0o777)
    assert not isinstance(table.load_or_compute(VECTORS, FILTERS), np.memmap)
    folder.chmod(0o700)
    Path(table.load_or_compute(VECTORS, FILTERS).filename).write_bytes(b"\x93NUMPY")
    np.testing.assert_array_equal(table.load_or_compute(VECTORS, FILTERS), VECTORS @ FILTERS)
