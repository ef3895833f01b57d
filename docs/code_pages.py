"""Reference pages of the commands, from their parsers, and of the public Python names, from their docstrings."""

import argparse
import copy
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

USAGE_WIDTH = 88  # characters; a code block of this width needs no scroll bar
GENERATED_NOTE = "This page is generated from the code."
SECTIONS = {"Args": "Arguments", "Returns": "Returns", "Yields": "Yields", "Raises": "Raises"}


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


def render_python(module: ModuleType) -> str:
    """Return the page of a module's public names with their signatures and docstrings."""
    lines = ["# Python", GENERATED_NOTE, _render_docstring(module)]
    for name in module.__all__:
        lines += _render_object(name, getattr(module, name), "##")
    return "\n\n".join(lines) + "\n"


def _render_object(name: str, value: object, heading: str) -> list[str]:
    lines = [f"{heading} {name}".replace("__", r"\_\_")]  # not bold
    if callable(value):
        lines.append(f"```python\n{_format_signature(name, value)}\n```")
    elif isinstance(value, str | int | float):
        lines.append(f"Value: `{value!r}`")
    if isinstance(value, property) or callable(value):
        lines.append(_render_docstring(value))
    if inspect.isclass(value) and not issubclass(value, BaseException):
        for member, attribute in vars(value).items():
            if not member.startswith("_") and (callable(attribute) or isinstance(attribute, property)):
                lines += _render_object(f"{name}.{member}", attribute, heading + "#")
    return lines


def _format_signature(name: str, value: Any) -> str:
    try:
        signature = inspect.signature(value)
    except ValueError:
        return name
    parameters = [str(item) for item in signature.parameters.values() if item.name != "self"]
    returns = "" if (returned := signature.return_annotation) is signature.empty else inspect.formatannotation(returned)
    arrow = f" -> {returns}" if returns and not inspect.isclass(value) else ""
    # Types without the names of their modules.
    arrow, *parameters = (re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", part) for part in (arrow, *parameters))
    text = f"{name}({', '.join(parameters)}){arrow}"
    if len(text) > USAGE_WIDTH:
        text = "\n    ".join([f"{name}(", *(f"{parameter}," for parameter in parameters)]) + f"\n){arrow}"
    return text.replace("'", "")


def _render_docstring(value: object) -> str:
    """Return a docstring as Markdown: sections such as "Args:" become definition lists."""
    return re.sub(
        rf"^({'|'.join(SECTIONS)}):\n((?:[ ]{{4}}.*\n?|\n)+)",
        lambda match: f"**{SECTIONS[match[1]]}**\n\n{_render_section(match[2])}\n",
        (inspect.getdoc(value) or "") + "\n",
        flags=re.MULTILINE,
    ).strip()


def _render_section(text: str) -> str:
    items = re.split(r"^(?=\S)", textwrap.dedent(text), flags=re.MULTILINE)
    rows = []
    for item in filter(None, items):
        names, colon, description = item.partition(": ")
        rows.append(f"* `{names}`: {_join_lines(description)}" if colon else f"* {_join_lines(item)}")
    return "\n".join(rows) + "\n"


def _join_lines(text: str) -> str:
    return " ".join(text.split())


def _capitalize(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
