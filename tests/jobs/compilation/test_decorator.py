"""Compiled kernels and numba's cache."""

import subprocess
import sys
from pathlib import Path

import numba
import pytest

from cluster.package import REPOSITORY
from jobs.compilation.decorator import compiled

CALLED = "from jobs.compilation.decorator import compiled\n\n@compiled()\ndef value():\n    return {value}\n"
CALLER = (
    "import called\nfrom jobs.compilation.decorator import compiled\n\n"
    "@compiled(calls=[called])\ndef double():\n    return 2 * called_value()\n"
).replace("import called\n", "import called\nfrom called import value as called_value\n", 1)


def run(folder: Path) -> str:
    """Return what the caller returns in a new process, and whether numba read it from its cache."""
    script = "from caller import double; print(double(), sum(double.stats.cache_hits.values()))"
    command = [sys.executable, "-c", script]
    path = {"PYTHONPATH": f"{folder}:{REPOSITORY}", "NUMBA_CACHE_DIR": str(folder / "cache")}
    return subprocess.run(command, env=path, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


def test_a_kernel_is_compiled_again_when_a_file_changes_whose_kernels_it_calls(tmp_path: Path) -> None:
    """Otherwise it is read from the cache, with the kernels that it called when it was compiled."""
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "called.py").write_text(CALLED.format(value=1))
    assert [run(tmp_path), run(tmp_path)] == ["2 0", "2 1"]
    (tmp_path / "called.py").write_text(CALLED.format(value=2))
    assert run(tmp_path) == "4 0"


def increment(value: int) -> int:
    return value + 1


def test_a_literal_has_the_type_of_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a kernel would be compiled for each literal that another one calls it with."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))  # compiled now
    callee = compiled()(increment)

    @compiled()
    def add_two(value: int) -> int:
        return callee(value) + callee(7) - 7

    assert add_two(3) == 5
    assert [str(types) for types in callee.signatures] == ["(int64,)"]  # type: ignore[attr-defined]
