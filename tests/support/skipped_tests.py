"""Pytest plugin: `--fail-on-skip` makes a run fail when a test was skipped that should have run.

Two reasons are accepted: no GPU, and no shared data where the folder next to the checkout does not exist at all.
"""

from pathlib import Path

import pytest

from cluster.package import REPOSITORY

SHARED = REPOSITORY.parent / "shared"
NO_GPU = "there is no GPU"
NO_SHARED_DATA = f"no data at {SHARED / 'data'}"


def is_accepted(reason: str, shared: Path = SHARED) -> bool:
    """Return whether a run with `--fail-on-skip` may skip a test for this reason."""
    return reason == NO_GPU or (reason == NO_SHARED_DATA and not shared.exists())


class SkippedTests:
    """Collects skipped tests and fails the session if one of the reasons is not accepted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Record a skipped test; an expected failure is not one."""
        if not hasattr(report, "wasxfail"):
            self._record(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record a skipped module."""
        self._record(report)

    def _record(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if not is_accepted(reason):
                self.lines.append(f"{report.nodeid}: {reason}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn success into failure."""
        if self.lines and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List what was skipped."""
        if self.lines:
            terminalreporter.section("skipped tests that --fail-on-skip does not accept", red=True)
            for line in self.lines:
                terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fail-on-skip", action="store_true", help="fail if a test is skipped that should have run")


def pytest_configure(config: pytest.Config) -> None:
    # The workers of pytest-xdist send their reports to the process that started them.
    if config.getoption("--fail-on-skip") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkippedTests(), "skipped-tests")
