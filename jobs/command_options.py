"""Options that several commands share, and the KEY=VALUE words among their arguments."""

import argparse
import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager

CHECKPOINT_HELP = "a checkpoint, a best.json, a folder with either, or hf://OWNER/NAME"

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option --force."""
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the option --address."""
    parser.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else Ray starts here)")


def ray_address(address: str | None) -> AbstractContextManager[None]:
    """Context manager: RAY_ADDRESS has this value inside; None changes nothing."""
    from cluster.machine import set_variables

    return set_variables({"RAY_ADDRESS": address} if address else {})


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the KEY=VALUE words among files and settings, and the files: what exists is a file."""
    settings = [word for word in words if _SETTING.match(word) and not os.path.exists(word)]
    return settings, [word for word in words if word not in settings]
