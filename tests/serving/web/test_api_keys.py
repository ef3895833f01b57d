"""Who is let in."""

from pathlib import Path

import pytest

from serving.web import api_keys as keys

KEY, OTHER = "k" * 20, "o" * 20


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    monkeypatch.delenv(keys.FILE_VARIABLE, raising=False)


def test_without_keys_nothing_is_asked() -> None:
    """And no header is one."""
    assert not keys.read()
    assert not keys.Keys().admit(b"Bearer ")


def test_keys_of_file_and_environment_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, and nothing else."""
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n{OTHER}\n\n")
    monkeypatch.setenv(keys.VARIABLE, KEY)
    monkeypatch.setenv(keys.FILE_VARIABLE, str(path))
    found = keys.read()
    assert found
    for good in (KEY, OTHER):
        assert found.admit(f"Bearer {good}".encode())
        assert found.admit(f"bearer  {good} ".encode())
    for bad in ("", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer # of the team"):
        assert not found.admit(bad.encode())
    assert not found.admit(b"Bearer \xff\xfe")


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "short"])
def test_keys_that_cannot_be_read_are_an_error(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a service that is open."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(keys.FILE_VARIABLE, str(path))
    with pytest.raises(keys.KeysError):
        keys.read()
