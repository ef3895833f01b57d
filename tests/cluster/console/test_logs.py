"""Console of the commands: streams, and characters that its encoding does not have."""

import io
import logging
import os
import sys

import pytest

from cluster.console.logs import RESULT, ConsoleHandler, handle_logs
from tests.support.commands import run_command


def test_results_and_warnings_have_their_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """Messages below the level are not printed; warnings and errors start with their level."""
    logger = logging.getLogger("cluster.test")
    with handle_logs(ConsoleHandler(), RESULT):
        logger.info("progress")
        logger.log(RESULT, "result")
        logger.warning("rows are skipped")
        logger.error("no file")
    assert capsys.readouterr() == ("result\n", "warning: rows are skipped\nerror: no file\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_text_is_printed_on_any_console(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the encoding lacks is an escape sequence; a part of a character, as in names of files, is one everywhere."""
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding))
    # pytest would capture the message, and pytest-xdist cannot send a part of a character between its processes.
    monkeypatch.setattr(logging.getLogger("jobs"), "propagate", False)
    with handle_logs(ConsoleHandler()):
        logging.getLogger("jobs.test").info("naïve 東京 \udcff")
        print("naïve 東京 \udcff", flush=True)
    lines = stream.getvalue().decode(encoding).splitlines()
    expected = "naïve 東京 \udcff".encode(encoding, "backslashreplace").decode(encoding)
    assert lines == [expected, expected]


def test_a_command_prints_on_a_console_without_utf_8() -> None:
    """The command line installs the handler before it prints anything."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    result = run_command("python", "-m", "jobs", "show", "data.label_column=größe", env=environment)
    assert result.returncode == 0, result.stderr
    assert "label_column: gr\\xf6\\xdfe" in result.stdout
