"""Commands as subprocesses with a timeout."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.package import REPOSITORY

COMMAND_TIMEOUT_S = 240


def run_command(
    *command: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = REPOSITORY,
    input: str | None = None,
    timeout: float = COMMAND_TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its exit code and its output as text.

    Args:
        command: `python` as the first word is this interpreter.
        timeout: in seconds; afterwards the command is killed and subprocess.TimeoutExpired raised.
    """
    words = [sys.executable, *command[1:]] if command[0] == "python" else [*command]
    return subprocess.run(
        words, env=env, cwd=cwd, input=input, capture_output=True, text=True, timeout=timeout, check=False
    )
