"""Steps that a command reports to its bar."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from cluster.console.progress import ReportStep


def record_steps(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Return a list that receives the steps that a module reports, with their shares.

    Each step that its bar counts must run, and must be counted before it is reported.
    """
    reported: list[tuple[str, float]] = []

    @contextmanager
    def step_bar(description: str, steps: Sequence[str], logger: Any) -> Iterator[ReportStep]:
        start = len(reported)

        def report(step: str, share: float = 0.0) -> None:
            assert step in steps
            reported.append((step, share))

        yield report
        assert list(dict.fromkeys(step for step, _ in reported[start:])) == list(steps)

    monkeypatch.setattr(module, "step_bar", step_bar)
    return reported
