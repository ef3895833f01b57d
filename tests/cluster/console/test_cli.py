"""Command-line scaffold: verbosity, version, exit codes, and the three CLIs that use it."""

import argparse
import logging
import re
import sys
import tomllib
from pathlib import Path

import pytest

import cluster.__main__
import jobs.__main__
import serving.__main__
from cluster import UsageError, __version__
from cluster.console.cli import CommandLine, RunCommand
from cluster.package import REPOSITORY
from tests.support.commands import run_command

logger = logging.getLogger("jobs.example")


def log_all(options: argparse.Namespace) -> None:
    logger.debug("details")
    logger.info("progress")
    logger.warning("problem")
    print("result")


def make_command_line(run: RunCommand = log_all, *, resumable: bool = False) -> CommandLine:
    cli = CommandLine("example", "An example.")
    cli.add_command("work", run, "works", resumable=resumable)
    cli.add_group("group", "has commands").add_command("work", run, "works")
    return cli


def test_help_lists_the_commands_under_their_headings(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a heading, commands are under `commands`; the options come last."""
    cli = make_command_line()
    cli.start_section("more")
    cli.add_command("rest", log_all, "rests")
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    expected = [["commands:"], ["work", "works"], ["group", "has", "commands"], ["more:"], ["rest", "rests"]]
    start = lines.index(["commands:"])
    assert lines[start : start + 6] == [*expected, ["options:"]]
    with pytest.raises(SystemExit):
        cli.main(["group", "--help"])
    assert "commands:\n  work" in capsys.readouterr().out


def raise_error(error: BaseException) -> RunCommand:
    def run(options: argparse.Namespace) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("options", "out", "err"),
    [
        ([], "progress\nresult\n", "warning: problem\n"),
        (["--quiet"], "result\n", "warning: problem\n"),
        (
            ["--verbose"],
            "DEBUG jobs.example: details\nINFO jobs.example: progress\nresult\n",
            "WARNING jobs.example: problem\n",
        ),
    ],
    ids=["default", "quiet", "verbose"],
)
def test_verbosity_is_accepted_before_and_after_the_verb(
    options: list[str], out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results and warnings are printed at every level."""
    for arguments in (
        [*options, "work"],
        ["work", *options],
        [*options, "group", "work"],
        ["group", *options, "work"],
        ["group", "work", *options],
    ):
        assert make_command_line().main(arguments) == 0
        assert capsys.readouterr() == (out, err)


def test_the_version_has_one_source() -> None:
    """The project's metadata takes it from the code."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cluster.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize("module", [cluster.__main__, jobs.__main__, serving.__main__])
def test_every_command_line_prints_its_version(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version and exits with code 0."""
    with pytest.raises(SystemExit) as stop:
        module.main(["--version"])  # type: ignore[attr-defined]
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"finetune-cnn {__version__}\n"


def test_ctrl_c_in_compiled_code_is_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    """numba's dispatcher raises a SystemError, whose cause has the interruption; any other one is an error."""

    def interrupt(options: argparse.Namespace) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    assert make_command_line(interrupt).main(["work"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    with pytest.raises(SystemError):
        make_command_line(raise_error(SystemError())).main(["work"])


@pytest.mark.parametrize("resumable", [False, True])
def test_ctrl_c_is_one_line_and_exit_code_130(resumable: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """The line contains a hint if the same command resumes."""
    cli = make_command_line(raise_error(KeyboardInterrupt()), resumable=resumable)
    assert cli.main(["work"]) == 130
    expected = "interrupted; the same command resumes from here\n" if resumable else "interrupted\n"
    assert capsys.readouterr() == ("", expected)


def test_a_usage_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A usage error has no traceback; other errors have one."""
    assert make_command_line(raise_error(UsageError("a.csv: is empty"))).main(["work"]) == 2
    assert capsys.readouterr() == ("", "error: a.csv: is empty\n")
    with pytest.raises(ZeroDivisionError):
        make_command_line(raise_error(ZeroDivisionError())).main(["work"])


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As is a name that is too long; with --verbose, and for a file that should be there, there is a traceback."""
    path = str(tmp_path / ("x" * 256))
    cli = make_command_line(lambda _: print(Path(path).read_text()))
    assert cli.main(["work"]) == 2
    assert capsys.readouterr() == ("", f"error: {path}: File name too long\n")
    with pytest.raises(OSError, match="too long"):
        cli.main(["work", "--verbose"])
    with pytest.raises(FileNotFoundError):
        make_command_line(lambda _: print(Path("missing").read_text())).main(["work"])


def test_a_missing_package_is_one_line_with_the_python_that_lacks_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job it explains which Python that is. With --verbose, and for our own packages, there is a traceback."""
    error = ModuleNotFoundError("No module named 'ray'", name="ray")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert make_command_line(raise_error(error)).main(["work"]) == 2
    assert capsys.readouterr().err.startswith(f"error: the Python at {sys.executable} lacks the package ray; install")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert make_command_line(raise_error(error)).main(["work"]) == 2
    assert "first on the PATH when `ray start` was run on the head" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        make_command_line(raise_error(error)).main(["work", "--verbose"])
    with pytest.raises(ModuleNotFoundError):
        make_command_line(raise_error(ModuleNotFoundError(name="jobs.none"))).main(["work"])


def test_the_exit_code_of_a_command_is_returned() -> None:
    """For example, a command returns the exit code of a job on a cluster."""
    assert make_command_line(lambda options: 7).main(["work"]) == 7


@pytest.mark.parametrize("arguments", [[], ["play"], ["work", "--loud"], ["work", "a=b"]])
def test_unknown_arguments_are_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The error message contains the usage."""
    with pytest.raises(SystemExit) as stop:
        make_command_line().main(arguments)
    assert stop.value.code == 2
    assert "usage: example" in capsys.readouterr().err


def test_output_that_nobody_reads_is_no_traceback() -> None:
    """The reader has closed the pipe, as `head` does."""
    script = f'import sys; from {__name__} import *; sys.exit(make_command_line(print_much).main(["work"]))'
    result = run_command("sh", "-c", f"({sys.executable} -c '{script}'; echo exit $? >&2) | true")
    assert result.stderr == "exit 1\n"


def print_much(options: argparse.Namespace) -> None:
    for number in range(100_000):
        print(number)


def make_settings_command_line() -> tuple[CommandLine, list[argparse.Namespace]]:
    """Return a command line whose command accepts settings, and a list of the options of its calls."""
    calls: list[argparse.Namespace] = []

    def record(options: argparse.Namespace) -> None:
        calls.append(options)

    cli = CommandLine("example", "An example.")
    parser = cli.add_command("work", record, "works")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--out")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--address")
    keys = {"epochs": ["train.epochs", "tune.epochs"], "batch_size": ["train.batch_size"]}
    parser.set_defaults(settings_argument="settings", suggest_keys=lambda name: keys.get(name, []))
    group = cli.add_group("job", "jobs")
    for name in ("logs", "work"):
        group.add_command(name, record, "works")
    return cli, calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wrok"], "unknown command 'wrok'; did you mean 'work'?"),
        (["logs"], "unknown command 'logs'; did you mean 'job logs'?"),
        (["wokr"], "did you mean 'work'?"),
        (["job", "lgos"], "unknown command 'lgos'; did you mean 'logs'?"),
        (["xyzzy"], "unknown command 'xyzzy'; `--help` lists the commands"),
        (["work", "--adress", "x"], "unrecognized arguments: --adress; did you mean --address?"),
        (["work", "--epochs", "3"], "settings are written without dashes: train.epochs=3 or tune.epochs=3"),
        (["work", "a.yaml", "--batch-size=8", "x=1"], "settings are written without dashes: train.batch_size=8"),
        (["work", "--epochs", "--out", "x"], "settings are written without dashes: train.epochs=VALUE"),
        (["job", "logs", "--epochs", "3"], "unrecognized arguments: --epochs 3\n"),
    ],
)
def test_what_was_meant_is_suggested(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli, calls = make_settings_command_line()
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not calls


def test_a_home_folder_in_an_option_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells expand it at the start of a word only."""
    monkeypatch.setenv("HOME", "/home/me")
    cli, calls = make_settings_command_line()
    assert cli.main(["work", "~/a.yaml", "--out=~/report", "--folder=~/x", "--address=~", "data.train=~/x"]) == 0
    [options] = calls
    assert (options.out, options.folder, options.address, options.settings) == (
        "/home/me/report",
        Path("/home/me/x"),
        "~",
        ["/home/me/a.yaml", "data.train=~/x"],
    )


def test_a_setting_with_spaces_is_a_setting(capsys: pytest.CaptureFixture[str]) -> None:
    cli, calls = make_settings_command_line()
    assert cli.main(["work", "--out", "x", "model.dropout = 0.3", "data.text_column=the text"]) == 0
    assert calls[0].settings == ["model.dropout = 0.3", "data.text_column=the text"]
