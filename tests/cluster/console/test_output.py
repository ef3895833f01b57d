"""Output of commands: one JSON object for programs, colours on terminals."""

import io
import json
import logging
import os
import pty
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster import UsageError
from cluster.console.cli import CommandLine
from cluster.console.logs import RESULT, ConsoleFormatter
from cluster.console.output import (
    RED,
    paint,
    print_next,
    print_result_now,
    report_result,
    requests_json,
    shows_colors,
)
from tests.cluster.console.test_cli import logger


def call(run: Callable[[], int | None], *words: str) -> int:
    """Return the exit code of a command with the words after its name."""
    cli = CommandLine("example", "An example.")
    cli.add_command("work", lambda options: run(), "works")
    return cli.main(["work", *words])


def work() -> int:
    logger.info("progress")
    logger.log(RESULT, "a table")
    logger.warning("a warning")
    print("wrote x")
    report_result({"path": "x", "metrics": {"loss": float("nan"), "accuracy": np.float32(0.5)}})
    report_result(lambda: {"rows": np.arange(2)})
    print_next("finetune-cnn serve x", "finetune-cnn show")
    return 3


def test_the_result_is_one_json_object_and_the_rest_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN is null: JSON has neither NaN nor infinity."""
    assert call(work, "--json") == 3
    output, error = capsys.readouterr()
    assert json.loads(output) == {
        "path": "x",
        "metrics": {"loss": None, "accuracy": 0.5},
        "rows": [0, 1],
        "next": ["finetune-cnn serve x", "finetune-cnn show"],
    }
    assert output.count("\n") == 1
    lines = ["progress", "a table", "warning: a warning", "wrote x", "next: finetune-cnn serve x, or finetune-cnn show"]
    assert error.splitlines() == lines


def test_without_the_option_the_values_are_not_computed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> dict[str, object]:
        raise AssertionError

    def run() -> None:
        report_result(fail)

    assert call(run) == 0
    assert capsys.readouterr() == ("", "")


def test_a_result_is_printed_while_the_command_continues(capsys: pytest.CaptureFixture[str]) -> None:
    """A service runs until it is stopped. What is reported afterwards is no second object."""

    def run() -> None:
        report_result({"url": "http://127.0.0.1:8000"})
        print_result_now()
        assert json.loads(capsys.readouterr().out) == {"url": "http://127.0.0.1:8000"}
        report_result({"more": 1})

    assert call(run, "--json") == 0
    assert capsys.readouterr().out == ""


def raise_error(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("a.csv: is empty"), 2, "a.csv: is empty"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ModuleNotFoundError("No module named 'ray'", name="ray"), 2, f"the Python at {sys.executable} lacks the"),
    ],
)
def test_an_error_is_a_json_object_too(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code and the message of the command without --json."""
    assert call(lambda: raise_error(error), "--json") == code
    output, printed = capsys.readouterr()
    assert json.loads(output)["error"].startswith(message)
    assert call(lambda: raise_error(error)) == code
    assert capsys.readouterr() == ("", printed)


def test_an_unexpected_error_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        call(lambda: raise_error(ZeroDivisionError("by zero")), "--json")
    assert json.loads(capsys.readouterr().out) == {"error": "ZeroDivisionError: by zero"}


@pytest.mark.parametrize("words", [["--jsno"], ["x"]])
def test_an_error_of_the_parser_is_a_json_object(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call(work, "--json", *words)
    assert stop.value.code == 2
    output, error = capsys.readouterr()
    assert json.loads(output)["error"].startswith(f"unrecognized arguments: {words[0]}")
    assert "usage: example" in error


def test_the_words_of_a_submitted_command_and_of_help_do_not_count() -> None:
    assert requests_json(["work", "--json"])
    assert not requests_json(["submit", "--", "train", "--json"])
    assert not requests_json(["work", "--json", "--help"])


@pytest.mark.parametrize(
    ("environment", "terminal", "other"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_terminals_show_colors(
    environment: dict[str, str], terminal: bool, other: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    main, end = pty.openpty()
    with os.fdopen(main, "rb", 0), os.fdopen(end, "w") as stream:
        assert shows_colors(stream) == terminal
    assert shows_colors(io.StringIO()) == other
    assert paint("error:", RED, io.StringIO()) == ("\033[31merror:\033[0m" if other else "error:")


def test_errors_are_red_and_warnings_yellow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else has a colour."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")

    def run() -> None:
        logger.info("progress")
        logger.warning("rows are skipped")
        raise UsageError("a.csv: is empty")

    assert call(run) == 2
    red, yellow, end = "\033[31m", "\033[33m", "\033[0m"
    expected = f"{yellow}warning:{end} rows are skipped\n{red}error:{end} a.csv: is empty\n"
    assert capsys.readouterr() == ("progress\n", expected)
    record: dict[str, Any] = {"levelno": 40, "levelname": "ERROR", "msg": "no file"}
    text = ConsoleFormatter().format(logging.makeLogRecord(record))
    assert text == f"{red}error:{end} no file"
    with pytest.raises(SystemExit):
        call(run, "x")
    assert f"example work: {red}error:{end} unrecognized" in capsys.readouterr().err
