"""The fast configuration, as a shell takes it."""

import subprocess
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.switches import switches


def test_a_shell_takes_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values of several lines too; the folder is its owner's alone."""
    folder = tmp_path / "files of haproxy"
    assert main(["switches", "--folder", str(folder)]) == 0
    script = 'eval "$(cat)"; printf %s "$RAY_SERVE_HAPROXY_RETRY_ON"; printf %s "$RAY_SERVE_HAPROXY_SOCKET_PATH"'
    told = subprocess.run(
        ["sh", "-c", script], input=capsys.readouterr().out, capture_output=True, text=True, check=True
    ).stdout
    wanted = switches(folder)
    assert told == wanted["RAY_SERVE_HAPROXY_RETRY_ON"] + str(folder / "admin.sock")
    assert folder.stat().st_mode & 0o77 == 0
    folder.chmod(0o755)
    assert main(["switches", "--folder", str(folder)]) == 2
    assert "others may enter it" in capsys.readouterr().err


def test_ray_knows_every_switch(tmp_path: Path) -> None:
    """A renamed one would silently do nothing."""
    import ray.serve._private.constants as constants

    text = Path(constants.__file__).read_text()
    for name in switches(tmp_path):
        assert f'"{name}"' in text, name
