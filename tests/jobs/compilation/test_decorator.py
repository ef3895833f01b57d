"""Compiled kernels and numba's cache."""

import subprocess
import sys
from pathlib import Path

from cluster.package import REPOSITORY

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
