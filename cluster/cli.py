"""Command-line scaffold that all entry points share: sub-commands, verbosity, version and exit codes."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cluster import UsageError, __version__
from cluster.logs import RESULT, ConsoleHandler, handle_logs

EXIT_BROKEN_PIPE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

RunCommand = Callable[[argparse.Namespace], int | None]


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


class CommandGroup:
    """The sub-commands of a parser."""

    def __init__(self, parser: CommandParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")
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
        parser.set_defaults(run=run, resumable=resumable)
        return parser

    def add_group(self, name: str, text: str) -> "CommandGroup":
        """Return a new group of sub-commands, such as `vectors` in `finetune-cnn vectors train`."""
        return CommandGroup(self._add_parser(name, text))

    def _add_parser(self, name: str, text: str) -> CommandParser:
        parser = self._commands.add_parser(name, help=text, description=text)
        self._sections.setdefault(self._heading, []).append(argparse.Action([], dest=name, help=text))
        _add_verbosity(parser)
        return parser


class CommandLine(CommandGroup):
    """A command line with sub-commands.

    A sub-command whose parser has the default `settings_argument="NAME"` also accepts KEY=VALUE words after its
    options; they are appended to the list NAME.
    """

    def __init__(self, program: str, description: str) -> None:
        self.parser = CommandParser(prog=program, description=description)
        self.parser.add_argument("--version", action="version", version=f"finetune-cnn {__version__}")
        self.parser.set_defaults(log_level=logging.INFO)
        _add_verbosity(self.parser)
        super().__init__(self.parser)

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run a sub-command and return the exit code: its own, 2 for a usage error, or 130 for Ctrl-C."""
        options = self._parse(arguments)
        handler = ConsoleHandler()
        if options.log_level == logging.DEBUG:
            logging.addLevelName(RESULT, "RESULT")
            handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        try:
            with handle_logs(handler, options.log_level):
                run: RunCommand = options.run
                return run(options) or 0
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USAGE
        except BrokenPipeError:
            # The reader of the output has closed it. The interpreter flushes standard output when it exits.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 stays open until then
            return EXIT_BROKEN_PIPE
        except KeyboardInterrupt:
            hint = "; the same command resumes from here" if options.resumable else ""
            print(f"interrupted{hint}", file=sys.stderr)
            return EXIT_INTERRUPTED

    def _parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        options, rest = self.parser.parse_known_args(arguments)
        name = getattr(options, "settings_argument", None)
        if rest and (name is None or not all("=" in word and word[0] != "-" for word in rest)):
            self.parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest and name is not None:
            getattr(options, name).extend(rest)
        return options


def _add_verbosity(parser: argparse.ArgumentParser) -> None:
    # Without a default, an option before the verb is not overwritten by the verb's parser.
    for option, level, text in (
        ("--quiet", RESULT, "print results, warnings and errors only"),
        ("--verbose", logging.DEBUG, "print each message with its level and logger"),
    ):
        parser.add_argument(
            option, dest="log_level", action="store_const", const=level, default=argparse.SUPPRESS, help=text
        )
