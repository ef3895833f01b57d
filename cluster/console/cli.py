"""Command-line scaffold that all entry points share: sub-commands, verbosity, version and exit codes."""

import argparse
import difflib
import errno
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from cluster import UsageError, __version__, convert_interrupts
from cluster.console.logs import RESULT, ConsoleHandler, handle_logs
from cluster.console.output import (
    JSON_OPTION,
    RED,
    collect_result,
    paint,
    print_error,
    report_result,
    requests_json,
)
from cluster.ray_private import JOB_VARIABLE

OWN_PACKAGES = ("cluster", "jobs", "serving", "finetune_cnn")

PROGRAM = "finetune-cnn"  # the console command

EXIT_BROKEN_PIPE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# Errors of a file that the user can remedy, and that a command may not have caught.
_USER_ERRORS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EROFS, errno.ENOSPC, errno.EDQUOT)

RunCommand = Callable[[argparse.Namespace], int | None]
SuggestKeys = Callable[[str], list[str]]

_SETTING = re.compile(r"\s*[A-Za-z_][\w.]*\s*=")
# Shells expand it at the start of a word, but not in --out=~/report.
_HOME_PATH = re.compile(r"~[^/\s]*/.*", re.DOTALL)


class CommandParser(argparse.ArgumentParser):
    """A parser whose help lists its sub-commands under headings.

    sections: the lines of the sub-commands by heading, both in the order of the help text.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sections: dict[str, list[argparse.Action]] = {}

    def format_help(self) -> str:
        """Return the help text."""
        if not self.sections:
            return super().format_help()
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for heading, commands in (self.sections | {"options": self._optionals._group_actions}).items():
            formatter.start_section(heading)
            formatter.add_arguments(commands)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Print the usage and an error, and exit with code 2."""
        report_result({"error": message})
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: {paint('error:', RED, sys.stderr)} {message}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            # A command of a group, such as logs in `job logs`, is found without the name of its group too.
            names = {name.rpartition(" ")[2]: name for name in list_parsers(self)}
            names |= {name: name for name in action.choices}
            nearest = difflib.get_close_matches(value, names, n=1)
            hint = f"did you mean '{names[nearest[0]]}'?" if nearest else "`--help` lists the commands"
            self.error(f"unknown command '{value}'; {hint}")
        super()._check_value(action, value)


def parse_count(word: str) -> int:
    """Return the positive integer of an option; argparse prints the error."""
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {word}")
    return int(word)


def list_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of all commands by name, in the order of the help text; those of groups as `group command`."""
    parsers: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        for name, command in action.choices.items() if isinstance(action, argparse._SubParsersAction) else ():
            inner = {f"{name} {verb}": inner_command for verb, inner_command in list_parsers(command).items()}
            parsers |= inner or {name: command}
    return parsers


class CommandGroup:
    """The sub-commands of a parser."""

    def __init__(self, parser: CommandParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND", prog=parser.prog)
        self._sections = parser.sections
        self._heading = "commands"

    def start_section(self, heading: str) -> None:
        """List the commands that are added from here on under another heading of the help text."""
        self._heading = heading

    def add_command(self, name: str, run: RunCommand, text: str, *, resumable: bool = False) -> CommandParser:
        """Return the parser of a new sub-command.

        Args:
            run: called with the parsed options; returns the exit code, or None for 0.
            text: help text.
            resumable: the same command resumes after Ctrl-C.
        """
        parser = self._add_parser(name, text)
        parser.set_defaults(run=run, resumable=resumable, command_parser=parser)
        return parser

    def add_group(self, name: str, text: str) -> "CommandGroup":
        """Return a new group of sub-commands, such as `vectors` in `finetune-cnn vectors train`."""
        return CommandGroup(self._add_parser(name, text))

    def _add_parser(self, name: str, text: str) -> CommandParser:
        parser = self._commands.add_parser(name, help=text, description=text)
        self._sections.setdefault(self._heading, []).append(argparse.Action([], dest=name, help=text))
        _add_common_options(parser)
        return parser


class CommandLine(CommandGroup):
    """A command line with sub-commands.

    A sub-command whose parser has the default `settings_argument="NAME"` also accepts KEY=VALUE words after its
    options; they are appended to the list NAME. With the default `file_after_options=True` it accepts any words there.
    Its default `suggest_keys`, a function, returns the settings that an unknown option may mean. Its default
    `validate`, a function of the parsed options, raises a UsageError if they are invalid.
    """

    def __init__(self, program: str, description: str) -> None:
        self.parser = CommandParser(prog=program, usage="%(prog)s [options] COMMAND ...", description=description)
        self.parser.add_argument("--version", action="version", version=f"finetune-cnn {__version__}")
        self.parser.set_defaults(log_level=logging.INFO, command_line=self)
        _add_common_options(self.parser)
        super().__init__(self.parser)

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run a sub-command and return the exit code: its own, 2 for a usage error, or 130 for Ctrl-C."""
        words = sys.argv[1:] if arguments is None else list(arguments)
        with collect_result() if requests_json(words) else nullcontext():
            return self._run(words)

    def _run(self, words: Sequence[str]) -> int:
        options = self._parse(words)
        handler = ConsoleHandler()
        if options.log_level == logging.DEBUG:
            logging.addLevelName(RESULT, "RESULT")
            handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        try:
            with handle_logs(handler, options.log_level), convert_interrupts():
                run: RunCommand = options.run
                return run(options) or 0
        except UsageError as error:
            print_error(str(error))
            return EXIT_USAGE
        except ModuleNotFoundError as error:
            if options.log_level == logging.DEBUG or (error.name or "").partition(".")[0] in ("", *OWN_PACKAGES):
                raise
            print_error(_describe_missing_package(str(error.name)))
            return EXIT_USAGE
        except BrokenPipeError:
            # The reader of the output has closed it. The interpreter flushes standard output when it exits.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 stays open until then
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if options.log_level == logging.DEBUG or error.filename is None or error.errno not in _USER_ERRORS:
                raise
            print_error(f"{error.filename}: {error.strerror}")
            return EXIT_USAGE
        except KeyboardInterrupt as error:
            hint = f" {error}" if error.args else "; the same command resumes from here" if options.resumable else ""
            print(f"interrupted{hint}", file=sys.stderr)
            report_result({"error": f"interrupted{hint}"})
            return EXIT_INTERRUPTED

    def validate(self, arguments: Sequence[str]) -> None:
        """Check the words of a command that is to run elsewhere: its options, and by its parser's `validate`.

        Only the console command has all commands. Another command line, such as `python -m cluster`, checks nothing.

        Raises:
            UsageError: they are invalid.
            SystemExit: the parser does not accept them; the error is printed.
        """
        if self.parser.prog != PROGRAM:
            return
        options = self._parse(arguments)
        if validate := getattr(options, "validate", None):
            validate(options)

    def _parse(self, words: Sequence[str]) -> argparse.Namespace:
        options, rest = self.parser.parse_known_args(words)
        name = getattr(options, "settings_argument", None)
        takes_file = getattr(options, "file_after_options", False)
        if rest and (name is None or any(word[:1] == "-" or not (takes_file or _SETTING.match(word)) for word in rest)):
            parser: CommandParser = options.command_parser
            hint = _suggest_option(parser, rest, words, getattr(options, "suggest_keys", None))
            parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
        if rest and name is not None:
            getattr(options, name).extend(rest)
        for key, value in vars(options).items():
            setattr(options, key, _expand_home(value))
        return options


def _suggest_option(
    parser: CommandParser, unknown: Sequence[str], words: Sequence[str], suggest_keys: SuggestKeys | None
) -> str:
    """Return what the first unknown option may mean, as the end of an error message; empty if nothing is similar.

    Args:
        unknown: words that the parser does not accept. words: all words of the command line.
    """
    option = next((word for word in unknown if word.startswith("--")), "")
    name, equals, value = option.partition("=")
    nearest = difflib.get_close_matches(name, parser._option_string_actions, n=1, cutoff=0.7)
    if nearest:
        return f"; did you mean {nearest[0]}?"
    keys = suggest_keys(name[2:].replace("-", "_")) if suggest_keys and option else []
    if not keys:
        return ""
    if not equals:
        index = list(words).index(option) + 1
        value = words[index] if index < len(words) and not words[index].startswith("-") else "VALUE"
    return f"; settings are written without dashes: {' or '.join(f'{key}={value}' for key in keys)}"


def _expand_home(value: Any) -> Any:
    """Return a value of an option, with the home folder instead of `~` if it is such a path."""
    if isinstance(value, list):
        return [_expand_home(item) for item in value]
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))
    return os.path.expanduser(value) if isinstance(value, str) and _HOME_PATH.fullmatch(value) else value


def _describe_missing_package(name: str) -> str:
    remedy = "install it there, or run the command with the Python that has it"
    if JOB_VARIABLE in os.environ:  # this process is a job
        remedy = (
            "a job runs the `python` that was first on the PATH when `ray start` was run on the head: start Ray in an "
            "environment that has the packages, or let the job install them: finetune-cnn submit --install"
        )
    return f"the Python at {sys.executable} lacks the package {name}; {remedy}"


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    text = "print the result as JSON, and all else to standard error"
    parser.add_argument(JSON_OPTION, action="store_true", default=argparse.SUPPRESS, help=text)
    # Without a default, an option before the verb is not overwritten by the verb's parser.
    for option, level, text in (
        ("--quiet", RESULT, "print results, warnings and errors only"),
        ("--verbose", logging.DEBUG, "print each message with its level and logger"),
    ):
        parser.add_argument(
            option, dest="log_level", action="store_const", const=level, default=argparse.SUPPRESS, help=text
        )
