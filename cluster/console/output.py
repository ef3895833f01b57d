"""Output of a command: its result as an object of JSON, errors and warnings in colour, and the next command."""

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from cluster.console.plan import Plan

JSON_OPTION = "--json"
_PRINTED_OPTIONS = {"-h", "--help", "--version"}  # whose output is no result

RED, YELLOW = 31, 33  # ANSI escape codes of colours

Values = Mapping[str, object]


class _Result:
    """Result of the running command: where it is printed, and the values so far."""

    def __init__(self, stdout: TextIO) -> None:
        self.stdout = stdout
        self.values: dict[str, object] = {}
        self.is_printed = False

    def print(self) -> None:
        """Print the values as a JSON object, in ASCII, with null for NaN and infinity; the first call only."""
        if self.is_printed:
            return
        self.is_printed = True
        try:
            print(json.dumps(_to_json(self.values), allow_nan=False), file=self.stdout, flush=True)
        except BrokenPipeError:  # the interpreter flushes standard output when it exits
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 stays open until then


_result: ContextVar[_Result | None] = ContextVar("result", default=None)


def requests_json(words: Sequence[str]) -> bool:
    """Return whether the words of a command line ask for JSON; those after `--` are of another command."""
    own = words[: words.index("--")] if "--" in words else words
    return JSON_OPTION in own and not _PRINTED_OPTIONS & set(own)


@contextlib.contextmanager
def collect_result() -> Iterator[None]:
    """Context manager: print the values of `report_result` as one JSON object, and everything else to standard error.

    The object is printed at the end, with the key `error` if an exception ends the block.
    """
    result = _Result(sys.stdout)
    token = _result.set(result)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except BaseException as error:
        if not isinstance(error, SystemExit) or error.code:
            result.values.setdefault("error", " ".join(f"{type(error).__name__}: {error}".split()))
        raise
    finally:
        _result.reset(token)
        result.print()


def collects_result() -> bool:
    """Return whether the running command prints its result as JSON."""
    return _result.get() is not None


def report_result(values: Values | Callable[[], Values]) -> None:
    """Add values to the JSON object of the running command; without --json, do nothing.

    Args:
        values: JSON values, arrays of numpy or paths by name; or a function that returns them, if that takes time.
    """
    result = _result.get()
    if result is not None:
        result.values.update(values() if callable(values) else values)


def print_result_now() -> None:
    """Print the JSON object of a command that continues until somebody stops it."""
    result = _result.get()
    if result is not None:
        result.print()


def print_next(*commands: str) -> None:
    """Print the commands that usually follow, of which the user chooses one."""
    print(f"next: {', or '.join(commands)}", flush=True)
    report_result({"next": list(commands)})


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add the option --dry-run."""
    text = "print what would be read, started and written; start and write nothing"
    parser.add_argument("--dry-run", action="store_true", help=text)


def print_plan(plan: "Plan") -> None:
    """Print the plan of --dry-run; it is the result of the command."""
    print(plan.format(), flush=True)
    report_result(plan.to_json)


def print_error(message: str) -> None:
    """Print why a command fails; an error of the JSON object too."""
    print(f"{paint('error:', RED, sys.stderr)} {message}", file=sys.stderr)
    report_result({"error": message})


def paint(text: str, color: int, stream: TextIO) -> str:
    """Return text in a colour if the stream shows colours."""
    return f"\033[{color}m{text}\033[0m" if shows_colors(stream) else text


def shows_colors(stream: TextIO) -> bool:
    """Return whether a stream shows colours: a terminal does, unless NO_COLOR or FORCE_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _to_json(value: object) -> object:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_to_json(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    to_list = getattr(value, "tolist", None)  # of numpy's arrays and numbers
    return _to_json(to_list()) if to_list is not None else str(value)
