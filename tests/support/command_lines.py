"""Check of commands in texts against the parsers of `finetune-cnn`."""

import argparse

import finetune_cnn


def check_command(words: list[str], command: str) -> None:
    """Fail if a sub-command or an option does not exist.

    Args:
        words: of the command, without `finetune-cnn`.
        command: for the message.
    """
    parser = finetune_cnn.build_parser()
    for word in words:
        groups = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if word.startswith("--"):
            assert word.partition("=")[0] in parser._option_string_actions, f"{command}: no option {word}"
        elif groups:
            assert word in groups[0], f"{command}: no command {word}"
            parser = groups[0][word]
