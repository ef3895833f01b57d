"""Reference page of the commands, from their parsers."""

import argparse
import copy
from collections.abc import Iterator

USAGE_WIDTH = 88  # characters; a code block of this width needs no scroll bar
GENERATED_NOTE = "This page is generated from the code."


def iter_commands(parser: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, str]]:
    """Yield the parser and the one-line help of each command without sub-commands, in the order of the help text."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                if name in texts:  # else it is an alias
                    leaves = list(iter_commands(command))
                    yield from leaves or [(command, texts[name])]


def iter_arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the documented arguments and options of a parser, without sub-commands."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction) and action.help != argparse.SUPPRESS:
            yield action


def render_commands(main_parser: argparse.ArgumentParser) -> str:
    """Return the page of all commands with their usage, arguments, options and defaults."""
    commands = list(iter_commands(main_parser))
    common = set.intersection(*({_argument_key(action) for action in iter_arguments(parser)} for parser, _ in commands))
    lines = [
        "# Commands",
        f"{GENERATED_NOTE} `--help` prints the same, for all commands or for one.",
        "## Options of all commands",
        _render_arguments(main_parser, list(iter_arguments(main_parser))),
    ]
    for parser, text in commands:
        own = [action for action in iter_arguments(parser) if _argument_key(action) not in common]
        own = sorted(map(_shorten_arguments, own), key=lambda action: bool(action.option_strings))
        usage = argparse.HelpFormatter(parser.prog, width=USAGE_WIDTH)
        usage.add_usage(None, own, [], prefix="")
        lines += [f"## {parser.prog}", _capitalize(parser.description or text)]
        lines.append(f"```console\n{usage.format_help().strip()}\n```")
        if own:
            lines.append(_render_arguments(parser, own))
    return "\n\n".join(lines) + "\n"


def _shorten_arguments(action: argparse.Action) -> argparse.Action:
    """Return an argument that is not repeated in the usage if its name ends with dots."""
    if action.nargs == "+" and str(action.metavar).endswith("..."):
        action = copy.copy(action)
        action.nargs = None
    return action


def _argument_key(action: argparse.Action) -> tuple[object, ...]:
    return (tuple(action.option_strings), action.dest, action.help)


def _render_arguments(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    rows = ["| argument | description |", "|---|---|"]
    rows += [
        f"| {format_argument(parser, action)} | {_escape(_describe_argument(parser, action))} |" for action in actions
    ]
    return "\n".join(rows)


def format_argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return an argument as in a usage line, in code, such as "`--out OUT`"."""
    formatter = parser._get_formatter()
    if not action.option_strings:
        return f"`{formatter._format_args(action, formatter._get_default_metavar_for_positional(action))}`"
    values = ""
    if action.nargs != 0:
        values = " " + formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    return ", ".join(f"`{option}{values}`" for option in action.option_strings)


def _describe_argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    if action.default not in (None, False, argparse.SUPPRESS, []) and "default" not in text:
        text += f" (default: {action.default})"
    return f"{text} (required)" if action.required and action.option_strings else text


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
