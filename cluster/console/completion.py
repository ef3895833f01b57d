"""Command completion: a script with which a shell completes commands, options, files and settings on the Tab key.

    source <(finetune-cnn completion bash)

The script is static: the shell starts no Python when the Tab key is pressed.
"""

import argparse
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cluster.console.cli import CommandLine, list_parsers
from cluster.console.output import report_result

SHELLS = ("bash", "zsh", "fish")
# Options whose value is a path.
PATH_OPTIONS = {"out", "template", "working_dir", "include", "launcher_file", "folder", "storage", "original"}

_WORDS = "_finetune_cnn_words"  # function that completes a file or the key of a setting
_FUNCTIONS = {
    # Bash starts a new word at each equals sign. `compgen -f` lists folders too, without the slash.
    "bash": """
{function}() {{
  local word=$1
  [[ $word == = ]] && word=
  compgen -d -S / -- "$word"
  compgen -f -- "$word" | while IFS= read -r name; do [[ -d $name ]] || echo "$name"; done
  compgen -W "{keys}" -- "$1"
}}""",
    "zsh": """
{function}() {{
  if compset -P '*='; then
    _files
  else
    local -a keys=({keys})
    compadd -S '' -a keys
    _files
  fi
}}""",
    "fish": """
function {function}
  __fish_complete_path (commandline -ct)
  printf '%s\\n' {keys}
end""",
}
# After a folder, and before the value of a setting, no space follows.
_BASH_END = """
_finetune_cnn_complete() {{
  {function} "$@"
  if [[ ${{#COMPREPLY[@]}} = 1 && ${{COMPREPLY[0]}} == *[=/] ]]; then
    compopt -o nospace 2>/dev/null
  fi
  return 0
}}

complete -o bashdefault -F _finetune_cnn_complete {program}
"""


def add_completion(commands: CommandLine, list_keys: Callable[[], Sequence[str]]) -> None:
    """Add the command completion; list_keys: returns the keys of settings."""
    run = functools.partial(_print_script, commands.parser, list_keys)
    completion = commands.add_command("completion", run, "print a script that completes commands in a shell")
    completion.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")


def _print_script(
    parser: argparse.ArgumentParser, list_keys: Callable[[], Sequence[str]], options: argparse.Namespace
) -> None:
    script = format_script(parser, options.shell, list_keys())
    print(script)
    report_result({"script": script})


def format_script(parser: argparse.ArgumentParser, shell: str, keys: Iterable[str]) -> str:
    """Return the script for a shell, one of `SHELLS`; keys: of settings, as `train.epochs`."""
    import shtab

    words = " ".join(f"{key}=" for key in keys)
    functions = {name: text.format(function=_WORDS, keys=words) for name, text in _FUNCTIONS.items()}
    for command in list_parsers(parser).values():
        accepts_settings = command.get_default("settings_argument") is not None
        actions: list[Any] = command._actions  # shtab reads an attribute of them
        for action in filter(_takes_path, actions):
            action.complete = _complete_words(functions) if accepts_settings else shtab.FILE
    script: str = shtab.complete(parser, shell)
    if shell != "bash":
        return script
    start, _, function = script.rpartition("complete -o bashdefault -F ")
    name, _, program = function.strip().partition(" ")
    return start + _BASH_END.format(function=name, program=program)


def _complete_words(functions: Mapping[str, str]) -> Mapping[str, Any]:
    return {"bash": _WORDS, "zsh": _WORDS, "fish": f"({_WORDS})", "preamble": functions}


def _takes_path(action: argparse.Action) -> bool:
    """Return whether a value of an argument may be a path."""
    if action.choices is not None or action.nargs == 0:
        return False
    return not action.option_strings or action.dest in PATH_OPTIONS
