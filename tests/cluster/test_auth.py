"""The token's file is its owner's alone, and a wrong or missing token is told at once."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import auth as token
from cluster.auth import TokenError
from cluster.package import REPOSITORY


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_once_for_its_owner_alone(home: Path) -> None:
    """Whatever the umask; the next call finds it."""
    assert token.load_token() is None
    before = os.umask(0)
    try:
        made = token.ensure_token()
    finally:
        os.umask(before)
    assert len(made) == 64
    assert token.ensure_token() == token.load_token() == made == (home / ".ray/auth_token").read_text()
    assert mode_of(home / ".ray/auth_token") == 0o600


def test_a_file_that_others_can_read_is_closed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray's own command leaves it."""
    path = home / "elsewhere"
    path.write_text("abc\n")
    path.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert token.load_token() == "abc"
    assert mode_of(path) == 0o600
    monkeypatch.setenv("RAY_AUTH_TOKEN", "first")
    assert token.load_token() == "first"


def test_a_folder_that_cannot_be_written_is_an_error(home: Path) -> None:
    """By its name."""
    (home / ".ray").write_text("")
    with pytest.raises(TokenError, match=r"\.ray/auth_token: a token cannot be written"):
        token.ensure_token()


def test_what_the_environment_says_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are on where there is one, unless they were switched off."""
    assert token.enable_token_auth() is None
    assert "RAY_AUTH_MODE" not in os.environ
    made = token.ensure_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert token.enable_token_auth() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert token.enable_token_auth() == made


@pytest.mark.ray
@pytest.mark.slow
def test_an_embedded_ray_asks_for_a_token(home: Path, ray_environment: dict[str, str]) -> None:
    """One that it made, readable by its owner alone."""
    script = (
        "from cluster.connection import connect\n"
        "with connect(num_cpus=1):\n"
        "    import ray, grpc\n"
        "    from cluster import auth as token\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        "    token.verify_token(address, token.load_token())\n"
        "    for wrong in ('wrong', None):\n"
        "        try:\n"
        "            token.verify_token(address, wrong)\n"
        "        except token.TokenError as error:\n"
        "            print(error)\n"
    )
    environment = {key: value for key, value in ray_environment.items() if not key.startswith("RAY_AUTH")}
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY, env=environment | {"HOME": str(home)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "does not take the token that was sent" in found.stdout
    assert "wants a token, and there is none" in found.stdout
    assert mode_of(home / ".ray/auth_token") == 0o600
