"""Options that several commands share, and the KEY=VALUE words among their arguments."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Sequence

CHECKPOINT_HELP = "a checkpoint, a best.json, a folder with either, or hf://OWNER/NAME"

_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add the option --force."""
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the option --address."""
    parser.add_argument("--address", help="a running Ray cluster (default: RAY_ADDRESS, else Ray starts here)")


@contextlib.contextmanager
def ray_address(address: str | None) -> Iterator[None]:
    """Context manager: RAY_ADDRESS has this value inside; None changes nothing."""
    previous = os.environ.get("RAY_ADDRESS")
    if address:
        os.environ["RAY_ADDRESS"] = address
    try:
        yield
    finally:
        if address:
            os.environ.pop("RAY_ADDRESS", None)
            if previous is not None:
                os.environ["RAY_ADDRESS"] = previous


def split_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the KEY=VALUE words among files and settings, and the files: what exists is a file."""
    settings = [word for word in words if _SETTING.match(word) and not os.path.exists(word)]
    return settings, [word for word in words if word not in settings]
