"""Commands whose output is read while they run."""

import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Self

from cluster.package import REPOSITORY


class RunningCommand:
    """Context manager: a command in a process group of its own; it is killed at the end. lines: of its output so far.

    Args:
        words: program and arguments.
        timeout: in seconds; afterwards the command is killed.
    """

    def __init__(self, words: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 600) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            words,
            cwd=REPOSITORY,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._timer = threading.Timer(timeout, self.process.kill)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def wait_for_line(self, text: str) -> None:
        """Read the output up to a line with this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"the command ended without {text!r}:\n{self.output}")

    def interrupt(self) -> int:
        """Send Ctrl-C, read the rest of the output and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Read the rest of the output and return the exit code.

        `Popen.communicate` would lose the lines that came together with the one that was waited for.
        """
        assert self.process.stdout is not None
        self.lines += self.process.stdout
        return self.process.wait()

    @property
    def output(self) -> str:
        """The output so far."""
        return "".join(self.lines)
