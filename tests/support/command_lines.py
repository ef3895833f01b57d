"""Check of commands in texts against the parsers of `finetune-cnn`."""

import finetune_cnn
from cluster.console.cli import list_parsers


def check_command(words: list[str], command: str) -> None:
    """Fail if a sub-command or an option does not exist.

    Args:
        words: of the command, without `finetune-cnn`.
        command: for the message.
    """
    parser = finetune_cnn.build_parser()
    parsers, name = list_parsers(parser), ""
    for word in words:
        if word.startswith("--"):
            options = parsers.get(name, parser)._option_string_actions
            assert word.partition("=")[0] in options, f"{command}: no option {word}"
        elif name not in parsers:
            name = f"{name} {word}".lstrip()
            assert any(f"{known} ".startswith(f"{name} ") for known in parsers), f"{command}: no command {name}"
