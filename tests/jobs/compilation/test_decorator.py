"""Compiled kernels and numba's cache."""

import subprocess
import sys
from pathlib import Path

import numba
import pytest

from cluster.package import REPOSITORY
from jobs.compilation import intrinsics
from jobs.compilation.cache import _find_files
from jobs.compilation.decorator import compiled
from jobs.datasets.tokenization import nearest_words
from jobs.inference.scoring_kernel import score_texts
from serving.web.compiled_scorer import compile_request

KERNEL = "from jobs.compilation.decorator import compiled\n{imports}\n@compiled()\ndef {name}():\n    return {value}\n"
MODULES = {
    "constant.py": {"imports": "", "name": "constant", "value": "VALUE"},
    "called.py": {"imports": "from constant import constant", "name": "called", "value": "constant()"},
    "caller.py": {"imports": "from called import called as function", "name": "double", "value": "2 * function()"},
}


def run(folder: Path, cache: Path) -> str:
    """Return what the caller returns in a new process, and whether its code was read from the cache."""
    script = "from caller import double; print(double(), sum(double.stats.cache_hits.values()))"
    path = {"PYTHONPATH": f"{folder}:{REPOSITORY}", "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=path, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


def write_kernels(folder: Path, value: int) -> Path:
    """Write a module for each kernel, of which the first is called through others; return the folder."""
    folder.mkdir(exist_ok=True)
    for name, fields in MODULES.items():
        (folder / name).write_text(KERNEL.format(**fields).replace("VALUE", str(value)))
    return folder


def test_a_kernel_is_compiled_again_when_a_file_changes_whose_kernels_it_calls(tmp_path: Path) -> None:
    """Otherwise it is read from the cache with the kernels that it called, here through another one."""
    cache = tmp_path / "cache"
    assert run(write_kernels(tmp_path / "code", 1), cache) == "2 0"
    assert run(tmp_path / "code", cache) == "2 1"
    assert run(write_kernels(tmp_path / "code", 2), cache) == "4 0"


def test_a_copy_of_the_source_needs_no_compilation(tmp_path: Path) -> None:
    """Ray unpacks a job's code into a new folder; a version in between does not remove what others compiled."""
    cache = tmp_path / "cache"
    assert [run(write_kernels(tmp_path / name, value), cache) for name, value in (("a", 1), ("b", 2))] == ["2 0", "4 0"]
    assert run(write_kernels(tmp_path / "c", 1), cache) == "2 1"
    assert (cache / "finetune-cnn" / "kernels").stat().st_mode & 0o077 == 0  # numba's files are pickles


def test_without_a_folder_that_can_be_written_kernels_are_compiled(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    code = write_kernels(tmp_path / "code", 1)
    assert [run(code, tmp_path / "cache"), run(code, tmp_path / "cache")] == ["2 0", "2 0"]


def test_a_kernel_depends_on_the_functions_that_numba_lacks() -> None:
    assert Path(str(intrinsics.__file__)) in _find_files(score_texts.py_func)  # type: ignore[attr-defined]
    assert {Path(str(intrinsics.__file__)), Path(str(nearest_words.__file__))} <= _find_files(
        compile_request.__wrapped__
    )


ANNOUNCED = """
import logging
from jobs.compilation.decorator import compiled
logging.basicConfig(level="INFO")
def first():
    return 1
def second():
    return 2
first.__module__ = second.__module__ = "jobs.example"
for function in (first, second):
    compiled()(function)()
"""


def test_compilation_is_announced_once(tmp_path: Path) -> None:
    """Not for each kernel."""
    (tmp_path / "script.py").write_text(ANNOUNCED)
    path = {"PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, str(tmp_path / "script.py")]
    result = subprocess.run(command, env=path, capture_output=True, text=True, timeout=120, check=True)
    assert result.stderr.count("compiling code for this processor") == 1


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
