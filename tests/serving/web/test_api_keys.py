"""Who is let in."""

from pathlib import Path

import pytest

from serving.web import api_keys as keys

KEY, OTHER = "k" * 20, "o" * 20


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.KEYS_VARIABLE, raising=False)
    monkeypatch.delenv(keys.KEYS_FILE_VARIABLE, raising=False)


def test_without_keys_nothing_is_asked() -> None:
    """And no header is one."""
    assert not keys.load_api_keys()
    assert not keys.ApiKeys().authorizes(b"Bearer ")


def test_keys_of_file_and_environment_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, and nothing else."""
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n{OTHER}\n\n")
    monkeypatch.setenv(keys.KEYS_VARIABLE, KEY)
    monkeypatch.setenv(keys.KEYS_FILE_VARIABLE, str(path))
    found = keys.load_api_keys()
    assert found
    for good in (KEY, OTHER):
        assert found.authorizes(f"Bearer {good}".encode())
        assert found.authorizes(f"bearer  {good} ".encode())
    for bad in ("", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer # of the team"):
        assert not found.authorizes(bad.encode())
    assert not found.authorizes(b"Bearer \xff\xfe")


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "short"])
def test_keys_that_cannot_be_read_are_an_error(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a service that is open."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(keys.KEYS_FILE_VARIABLE, str(path))
    with pytest.raises(keys.ApiKeysError):
        keys.load_api_keys()
