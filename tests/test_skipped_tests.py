"""`--fail-on-skip` fails a run in which a test was skipped that should have run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from tests.support.skipped_tests import NO_GPU, NO_SHARED_DATA, is_accepted

MODULE = """
import pytest

def test_passes():
    pass

def test_without_gpu():
    pytest.skip({no_gpu!r})

@pytest.mark.xfail
def test_known_bug():
    assert False

{more}
"""
SKIPPED = "@pytest.mark.skip(reason='no browser')\ndef test_page():\n    pass\n"


def run_pytest(folder: Path, more: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_module.py").write_text(MODULE.format(no_gpu=NO_GPU, more=more))
    # Other plugins take seconds to load.
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.support.skipped_tests", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *options, "test_module.py"], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skip_for_another_reason_fails_the_run_and_is_listed(tmp_path: Path, workers: str) -> None:
    result = run_pytest(tmp_path, SKIPPED, "--fail-on-skip", "-p", "xdist", "-n", workers)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout + result.stderr
    assert "test_module.py::test_page: no browser" in result.stdout
    assert "test_without_gpu:" not in result.stdout
    assert "test_known_bug:" not in result.stdout


def test_a_skipped_module_fails_the_run(tmp_path: Path) -> None:
    result = run_pytest(tmp_path, "pytest.importorskip('no_such_module')", "--fail-on-skip")
    assert result.returncode != 0, result.stdout
    assert "test_module.py: could not import 'no_such_module'" in result.stdout


@pytest.mark.parametrize(("more", "option"), [("", "--fail-on-skip"), (SKIPPED, "-q")])
def test_accepted_reasons_and_runs_without_the_option_pass(tmp_path: Path, more: str, option: str) -> None:
    result = run_pytest(tmp_path, more, option)
    assert result.returncode == 0, result.stdout


def test_missing_data_is_accepted_only_where_the_shared_folder_does_not_exist(tmp_path: Path) -> None:
    assert is_accepted(NO_SHARED_DATA, tmp_path / "shared")
    assert not is_accepted(NO_SHARED_DATA, tmp_path)
