"""Command-line scaffold that the three CLIs share: sub-commands, verbosity, version and exit codes."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from cluster import UsageError, __version__
from cluster.logs import RESULT, ConsoleHandler, handle_logs

EXIT_BROKEN_PIPE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

RunCommand = Callable[[argparse.Namespace], int | None]


class CommandGroup:
    """The sub-commands of a parser."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="VERB")

    def add_command(self, name: str, run: RunCommand, text: str, *, resumable: bool = False) -> argparse.ArgumentParser:
        """Return the parser of a new sub-command.

        Args:
            run: called with the parsed options; returns the exit code, or None for 0.
            text: help text.
            resumable: the same command resumes after Ctrl-C.
        """
        parser = self._commands.add_parser(name, help=text, description=text)
        parser.set_defaults(run=run, resumable=resumable)
        _add_verbosity(parser)
        return parser

    def add_group(self, name: str, text: str) -> "CommandGroup":
        """Return a new group of sub-commands, such as `vectors` in `python -m jobs vectors train`."""
        parser = self._commands.add_parser(name, help=text, description=text)
        _add_verbosity(parser)
        return CommandGroup(parser)


class CommandLine(CommandGroup):
    """A command line with sub-commands.

    A sub-command whose parser has the default `settings_argument="NAME"` also accepts KEY=VALUE words after its
    options; they are appended to the list NAME.
    """

    def __init__(self, program: str, description: str) -> None:
        self._parser = argparse.ArgumentParser(prog=program, description=description)
        self._parser.add_argument("--version", action="version", version=f"finetune-cnn {__version__}")
        self._parser.set_defaults(log_level=logging.INFO)
        _add_verbosity(self._parser)
        super().__init__(self._parser)

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
        options, rest = self._parser.parse_known_args(arguments)
        name = getattr(options, "settings_argument", None)
        if rest and (name is None or not all("=" in word and word[0] != "-" for word in rest)):
            self._parser.error(f"unrecognized arguments: {' '.join(rest)}")
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
