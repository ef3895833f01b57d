"""Progress messages where there is no terminal, and bars on terminals."""

import io
import logging
import sys

import pytest
from rich.console import Console

from cluster.console import progress
from cluster.console.output import collect_result
from cluster.console.progress import count_bar, make_progress_logger, progress_bar, step_bar, terminal_bar
from cluster.console.tables import GrowingTable

logger = logging.getLogger("jobs.example")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time in seconds, as the only item."""
    times = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: times[0])
    return times


def test_progress_is_logged_every_few_seconds_and_at_the_end(clock: list[float], messages: list[str]) -> None:
    with progress_bar("reading texts", "bytes", 2000, logger) as report:
        report(500)
        assert messages == []
        clock[0] += 4
        report(1000)
        report(1500)
        assert messages == ["reading texts:  50%, 1,000 bytes, 250 a second"]
        report(2000)
        assert messages[1:] == ["reading texts: 100%, 2,000 bytes, 500 a second"]


def test_an_unknown_total_has_no_percentage(clock: list[float], messages: list[str]) -> None:
    report = make_progress_logger("word2vec", "words", None, logger)
    clock[0] += 4
    report(1000)
    assert messages == ["word2vec: 1,000 words, 250 a second"]


def test_a_terminal_shows_a_bar_and_no_messages(messages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With --quiet neither. Lines on standard output stay there if it is no terminal."""
    stderr, stdout = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("reading texts", "bytes", 2000, logger) as report:
        report(500)
        print("a line")
    assert "25%" in stderr.getvalue()
    assert stdout.getvalue() == "a line\n"
    assert messages == []
    stderr.truncate(0)
    monkeypatch.setattr(logging.getLogger("jobs"), "level", logging.WARNING)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    with count_bar("epoch", 3, logger) as show:
        assert show is None
    assert stderr.getvalue().strip("\0") == ""


def test_a_bar_counts_parts() -> None:
    output = Terminal()
    with terminal_bar("epoch", 4, Console(file=output, force_terminal=True, width=100), counts=True) as show:
        show(1.5, "9 examples/s")
    assert "epoch" in output.getvalue()
    assert "1/4 9 examples/s" in output.getvalue()


def test_a_growing_table_prints_its_header_once() -> None:
    table = GrowingTable()
    assert table.format_row({"epoch": 1, "loss": "0.5000"}) == "epoch    loss\n    1  0.5000"
    assert table.format_row({"epoch": 2, "loss": "0.25"}, "best") == "    2    0.25  best"


STEPS = ("reading", "comparing", "writing")


def test_a_terminal_shows_the_step_and_its_number(messages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time since the start: that until the end is not known."""
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with step_bar("checking", STEPS, logger) as report_step:
        report_step("reading")
        report_step("comparing", 0.5)
    output = stderr.getvalue()
    assert "checking" in output
    assert "1/3 comparing" in output
    assert "0:00:0" in output
    assert "-:--:--" not in output
    assert messages == []


def test_steps_are_counted_when_they_are_known(messages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    steps = ["reading"]
    with step_bar("checking", steps, logger) as report_step:
        report_step("reading", 0.1)
        steps += ["comparing", "writing"]
        report_step("writing")
    output = stderr.getvalue()
    assert "2/3 writing" in output


def test_steps_are_shown_neither_in_a_pipe_nor_with_json(
    messages: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report_all() -> None:
        with step_bar("checking", STEPS, logger) as report_step:
            for step in STEPS:
                report_step(step, 0.5)

    report_all()
    assert capsys.readouterr() == ("", "")
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with collect_result():
        report_all()
        with count_bar("epoch", 3, logger) as show:
            assert show is None
    assert stderr.getvalue() == ""
    assert messages == []
