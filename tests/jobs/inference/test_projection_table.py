"""Projection table: one verified file on a machine for all processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cluster.package import REPOSITORY
from jobs.inference.projection_table import NUM_UNUSED_TO_KEEP, load_or_compute, table_folder

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
FILTERS = np.arange(1, 7, dtype=np.float32).reshape(3, 2)


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


@pytest.mark.parametrize("damage", ["empty", "zeros", "truncated", "one value", "header"])
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
        "table = load_or_compute(np.ones((4, 3), np.float32), np.ones((3, 2), np.float32))\n"
        "print(table.filename, flush=True)\n"
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
