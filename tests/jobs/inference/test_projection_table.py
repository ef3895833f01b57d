"""Projection table: one file on a machine for all processes."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from jobs.inference.projection_table import MAX_UNUSED_S, load_or_compute, table_folder

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
FILTERS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return table_folder()


def test_the_second_process_maps_the_file_of_the_first(folder: Path) -> None:
    """The file is mapped read-only, with the same values; other vectors have another file."""
    first, second = load_or_compute(VECTORS, FILTERS), load_or_compute(VECTORS.copy(), FILTERS)
    assert isinstance(first, np.memmap)
    assert isinstance(second, np.memmap)
    assert first.filename == second.filename
    assert not second.flags.writeable
    np.testing.assert_array_equal(second, VECTORS @ FILTERS)
    np.testing.assert_array_equal(load_or_compute(VECTORS + 1, FILTERS), (VECTORS + 1) @ FILTERS)
    assert len(list(folder.iterdir())) == 2


def test_files_that_nobody_opened_for_a_week_are_removed(folder: Path) -> None:
    """A removed table that is still mapped stays readable."""
    old = load_or_compute(VECTORS, FILTERS)
    os.utime(old.filename, (0, time.time() - MAX_UNUSED_S - 1))
    load_or_compute(VECTORS + 1, FILTERS)
    assert len(list(folder.iterdir())) == 1
    np.testing.assert_array_equal(old, VECTORS @ FILTERS)


def test_a_folder_that_others_can_write_to_is_not_used(folder: Path) -> None:
    """An unsafe folder and a truncated file are not used: the table is computed again, for this process alone."""
    folder.chmod(0o777)
    assert not isinstance(load_or_compute(VECTORS, FILTERS), np.memmap)
    folder.chmod(0o700)
    Path(load_or_compute(VECTORS, FILTERS).filename).write_bytes(b"\x93NUMPY")
    np.testing.assert_array_equal(load_or_compute(VECTORS, FILTERS), VECTORS @ FILTERS)
