"""API keys are read from a file and the environment, and compared with a request's header."""

from pathlib import Path

import pytest

from serving.api_keys import KEYS_FILE_VARIABLE, KEYS_VARIABLE, ApiKeys, ApiKeysError, load_api_keys

KEY, OTHER_KEY = "k" * 20, "o" * 20


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    monkeypatch.delenv(KEYS_FILE_VARIABLE, raising=False)


def test_without_keys_none_is_required() -> None:
    """Without configured keys, no header contains a valid one."""
    assert not load_api_keys()
    assert not ApiKeys().authorizes(b"Bearer ")


def test_keys_of_file_and_environment_authorize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only keys of the file and the environment authorize a request."""
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n{OTHER_KEY}\n\n")
    monkeypatch.setenv(KEYS_VARIABLE, KEY)
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(path))
    keys = load_api_keys()
    assert keys
    for good in (KEY, OTHER_KEY):
        assert keys.authorizes(f"Bearer {good}".encode())
        assert keys.authorizes(f"bearer  {good} ".encode())
    for bad in ("", "Bearer", f"Basic {KEY}", KEY, f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer # of the team"):
        assert not keys.authorizes(bad.encode())
    assert not keys.authorizes(b"Bearer \xff\xfe")


def test_keys_are_separated_by_commas_or_white_space_and_may_follow_a_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As editors and lists write them; a key that occurs twice counts once."""
    path = tmp_path / "keys"
    path.write_text(f"\ufeff{KEY}, {OTHER_KEY},\n  # a comment\n{KEY}\n", encoding="utf-8")
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(path))
    keys = load_api_keys()
    assert len(keys) == 2
    monkeypatch.delenv(KEYS_FILE_VARIABLE)
    monkeypatch.setenv(KEYS_VARIABLE, f"\ufeff{KEY},{OTHER_KEY}")
    for key in (KEY, OTHER_KEY):
        assert keys.authorizes(f"Bearer {key}".encode())
        assert load_api_keys().authorizes(f"Bearer {key}".encode())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "contains no key"),
        ("# nothing\n", "contains no key"),
        ("short", "fewer than 16"),
        ("ü" * 20, "not ASCII"),
    ],
)
def test_keys_that_cannot_be_read_are_an_error(
    content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service does not start open if its keys cannot be read."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(path))
    with pytest.raises(ApiKeysError, match=message):
        load_api_keys()
