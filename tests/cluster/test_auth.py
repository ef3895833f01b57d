"""Token of a cluster: its file is readable by the owner only, and a wrong or missing token is an error at once."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from cluster import auth
from cluster.__main__ import main
from cluster.auth import TokenError
from tests.support.commands import run_command


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def file_mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_created_once_and_readable_by_its_owner_only(home: Path) -> None:
    """The mode does not depend on the umask; later calls return the same token."""
    assert auth.load_token() is None
    umask = os.umask(0)
    try:
        token = auth.ensure_token()
    finally:
        os.umask(umask)
    assert len(token) == 64
    assert auth.ensure_token() == auth.load_token() == token == (home / ".ray/auth_token").read_text()
    assert file_mode(home / ".ray/auth_token") == 0o600


def test_concurrent_first_commands_use_the_same_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All have seen that there is no token before the first one writes it; nothing else remains in the folder."""
    barrier, make_token = Barrier(8), auth.secrets.token_hex

    def make_token_together(size: int) -> str:
        if size == 32:
            barrier.wait(10)
        return make_token(size)

    monkeypatch.setattr(auth.secrets, "token_hex", make_token_together)
    with ThreadPoolExecutor(8) as threads:
        tokens = set(threads.map(lambda _: auth.ensure_token(), range(8)))
    assert tokens == {(home / ".ray/auth_token").read_text()}
    assert os.listdir(home / ".ray") == ["auth_token"]


def test_an_empty_file_is_no_token(home: Path) -> None:
    """A command that was killed while it wrote the token left such a file."""
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").touch()
    assert auth.ensure_token() == (home / ".ray/auth_token").read_text() != ""
    assert file_mode(home / ".ray/auth_token") == 0o600


def test_a_file_that_others_can_read_is_restricted_to_its_owner(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own command writes such files."""
    path = home / "elsewhere"
    path.write_text("abc\n")
    path.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert auth.load_token() == "abc"
    assert file_mode(path) == 0o600
    monkeypatch.setenv("RAY_AUTH_TOKEN", "first")
    assert auth.load_token() == "first"


def test_the_file_of_another_user_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a mounted secret: its permissions stay."""
    path = home / "secret"
    path.write_text("abc\n")
    path.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", refuse)
    assert auth.load_token() == "abc"


def test_a_blank_variable_is_no_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token of the file is used, also by Ray, which would send the blank one."""
    token = auth.ensure_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", " \n")
    assert auth.load_token() == token
    assert auth.enable_token_auth() == token
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_the_command_names_the_source_of_the_token(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file only if there is one."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    assert main(["token", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out) == {"path": None}
    assert "the token is that of RAY_AUTH_TOKEN" in output.err
    assert not (home / ".ray").exists()
    monkeypatch.setenv("RAY_AUTH_TOKEN", " ")
    assert main(["token", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(home / ".ray/auth_token")}
    assert (home / ".ray/auth_token").is_file()


def test_a_file_that_is_no_text_is_an_error(home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray/auth_token").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenError, match=r"\.ray/auth_token: the token is not UTF-8 text"):
        auth.load_token()


def test_a_folder_that_cannot_be_written_is_an_error(home: Path) -> None:
    """The error names the path of the file."""
    (home / ".ray").write_text("")
    with pytest.raises(TokenError, match=r"\.ray/auth_token: the token cannot be written"):
        auth.ensure_token()


def test_the_environment_decides_whether_tokens_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are used if there is one, unless RAY_AUTH_MODE disables them."""
    assert auth.enable_token_auth() is None
    assert "RAY_AUTH_MODE" not in os.environ
    token = auth.ensure_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert auth.enable_token_auth() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert auth.enable_token_auth() == token


@pytest.mark.ray
@pytest.mark.slow
def test_an_embedded_ray_requires_a_token(home: Path, ray_environment: dict[str, str]) -> None:
    """Ray creates a token, readable by its owner only."""
    script = (
        "from cluster.connection import connect\n"
        "with connect(num_cpus=1):\n"
        "    import ray, grpc\n"
        "    from cluster import auth\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        "    auth.verify_token(address, auth.load_token())\n"
        "    for wrong in ('wrong', None):\n"
        "        try:\n"
        "            auth.verify_token(address, wrong)\n"
        "        except auth.TokenError as error:\n"
        "            print(error)\n"
    )
    environment = {key: value for key, value in ray_environment.items() if not key.startswith("RAY_AUTH")}
    result = run_command("python", "-c", script, env=environment | {"HOME": str(home)})
    assert result.returncode == 0, result.stderr
    assert "rejects the token: " in result.stdout
    assert "requires a token, and there is none: " in result.stdout
    assert file_mode(home / ".ray/auth_token") == 0o600
