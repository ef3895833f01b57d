"""Projection table: one verified file on a machine for all processes."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.package import REPOSITORY
from jobs.inference import projection_table
from jobs.inference.projection_table import ProjectionTable, TableDtype, compute
from jobs.inference.shared_arrays import NUM_UNUSED_TO_KEEP

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
FILTERS = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
FILTER_INDICES = np.array([0, 0])  # one filter of width 2


def load_table(vectors: np.ndarray, filters: np.ndarray, dtype: TableDtype = "float32") -> ProjectionTable:
    return projection_table.load_or_compute(vectors, filters, FILTER_INDICES, dtype)


def load_or_compute(vectors: np.ndarray, filters: np.ndarray) -> np.ndarray:
    return load_table(vectors, filters).values


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


def test_processes_that_start_together_compute_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait: each would need the memory and the time for a table of its own."""
    calls = []
    is_computing, may_end = threading.Event(), threading.Event()

    def compute_slowly(*arguments: Any) -> ProjectionTable:
        calls.append(arguments)
        is_computing.set()
        assert may_end.wait(10)
        return compute(*arguments)

    monkeypatch.setattr(projection_table, "compute", compute_slowly)
    with ThreadPoolExecutor(3) as pool:
        tables = [pool.submit(load_or_compute, VECTORS, FILTERS)]
        assert is_computing.wait(10)
        tables += [pool.submit(load_or_compute, VECTORS, FILTERS) for _ in range(2)]
        assert not wait(tables[1:], 0.2).done
        may_end.set()
        for table in tables:
            np.testing.assert_array_equal(table.result(timeout=10), VECTORS @ FILTERS)
    assert len(calls) == 1
    assert [path.suffix for path in folder.iterdir()] == [".table"]


def test_each_type_has_a_file_of_its_own(folder: Path) -> None:
    """Another process maps the same values and scales; the products differ by half a scale."""
    first = load_table(VECTORS, FILTERS, "int16")
    assert load_or_compute(VECTORS, FILTERS).dtype == np.float32
    second = load_table(VECTORS, FILTERS, "int16")
    for table in (first, second):
        assert isinstance(table.values, np.memmap)
        assert table.values.dtype == np.int16
        np.testing.assert_array_equal(table.scales, compute(VECTORS, FILTERS, FILTER_INDICES, "int16").scales)
        np.testing.assert_allclose(table.values * table.scales, VECTORS @ FILTERS, atol=0.501 * table.scales[0], rtol=0)
    assert len(list(folder.iterdir())) == 2


def test_the_largest_entry_of_a_filter_uses_the_range_of_int16() -> None:
    """Filters have scales of their own; one whose products are all 0 has the scale 1."""
    products = np.array([[4, -1, 0, 0.01, 0], [-2, 3, 0, 0.02, 0], [1, 1, 0, -0.03, 0]], np.float32)
    table = compute(np.eye(3, dtype=np.float32), products, np.array([0, 0, 1, 2, 1]), "int16")
    largest = np.abs(table.values.astype(int)).max(axis=0)
    assert largest.tolist() == [32_767, pytest.approx(32_767 * 3 / 4, abs=1), 0, 32_767, 0]
    assert table.scales[1] == 1


def test_tables_without_words_are_empty(folder: Path) -> None:
    """As with `table_bytes: 0`."""
    assert load_table(VECTORS[:0], FILTERS, "int16").values.shape == (0, 2)


@pytest.mark.parametrize("damage", ["empty", "zeros", "truncated", "one value", "scale", "header"])
def test_a_damaged_file_is_replaced(folder: Path, damage: str) -> None:
    """A crash leaves an empty file, or one of the right size filled with zeros; the next process repairs it."""
    path = Path(str(load_or_compute(VECTORS, FILTERS).filename))
    content = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "zeros": bytes(len(content)),
            "truncated": content[:-1],
            "one value": content[:4] + b"\1" + content[5:],
            "scale": content[:-12] + b"\0\0\0\1" + content[-8:],
            "header": b"\x93NUMPY",
        }[damage]
    )
    np.testing.assert_array_equal(load_or_compute(VECTORS, FILTERS), VECTORS @ FILTERS)
    assert path.read_bytes() == content


def test_tables_that_no_process_uses_are_removed(folder: Path) -> None:
    """Many checkpoints one after the other leave one table; so does a killed writer. Tables in use stay."""
    used = load_or_compute(VECTORS, FILTERS)
    (folder / ".x.table.1234.part").write_bytes(b"half")
    (folder / f"{'0' * 64}.npy").write_bytes(b"of an earlier version")
    for number in range(1, 9):
        load_or_compute(VECTORS + number, FILTERS)
    assert Path(str(used.filename)) in folder.iterdir()
    assert len(list(folder.iterdir())) <= 2 + NUM_UNUSED_TO_KEEP
    del used
    load_or_compute(VECTORS - 1, FILTERS)
    load_or_compute(VECTORS - 2, FILTERS)
    assert len(list(folder.iterdir())) == 1 + NUM_UNUSED_TO_KEEP


def test_a_table_of_another_process_stays_until_it_ends(folder: Path) -> None:
    """Its file stays although many newer tables are loaded here."""
    script = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "import numpy as np\n"
        "from jobs.inference.projection_table import load_or_compute\n"
        "arrays = np.ones((4, 3), np.float32), np.ones((3, 2), np.float32), np.zeros(2, int)\n"
        "table = load_or_compute(*arrays, 'int16')\n"
        "print(table.values.filename, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder.parent)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        path = Path(process.stdout.readline().strip())
        for number in range(4):
            load_or_compute(VECTORS + number, FILTERS)
        assert path in folder.iterdir()
        process.communicate("\n", timeout=60)
    os.utime(path, (0, 0))
    load_or_compute(VECTORS, FILTERS)
    load_or_compute(VECTORS + 1, FILTERS)
    assert path not in folder.iterdir()


def test_a_folder_that_others_can_write_to_is_not_used(folder: Path) -> None:
    """The table is computed again, for this process alone."""
    folder.chmod(0o777)
    assert not isinstance(load_or_compute(VECTORS, FILTERS), np.memmap)
    assert list(folder.iterdir()) == []
