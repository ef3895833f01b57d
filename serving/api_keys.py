"""API keys of the service, from a file or the environment. They are never part of a configuration file."""

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from cluster import UsageError

KEYS_VARIABLE = "SERVING_API_KEYS"
KEYS_FILE_VARIABLE = "SERVING_API_KEYS_FILE"
MIN_KEY_LENGTH = 16


class ApiKeysError(UsageError):
    """The keys cannot be read; the service must not start without them."""


class ApiKeys:
    """Accepted keys; without any, the service is open to everyone who can reach it."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __len__(self) -> int:
        return len(self._digests)

    def authorizes(self, authorization: bytes) -> bool:
        """Return whether an Authorization header contains one of the keys, in constant time."""
        scheme, _, key = authorization.partition(b" ")
        matches = False
        for digest in self._digests:
            matches |= hmac.compare_digest(digest, _digest(key.strip()))
        return matches and scheme.lower() == b"bearer"


def load_api_keys() -> ApiKeys:
    """Return the keys of this environment; ApiKeysError as `read_key_list`."""
    return ApiKeys(read_key_list())


def read_key_list() -> list[str]:
    """Return the keys of SERVING_API_KEYS and of the file that SERVING_API_KEYS_FILE names.

    Keys are separated by white space or commas; lines of the file that start with # are comments. A key has at least
    MIN_KEY_LENGTH characters, all of them ASCII.

    Raises:
        ApiKeysError: the file is missing or empty, or a key is too short or not ASCII.
    """
    keys = _split_keys(os.environ.get(KEYS_VARIABLE, ""))
    path = os.environ.get(KEYS_FILE_VARIABLE)
    if path:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise ApiKeysError(f"{KEYS_FILE_VARIABLE}: {path} cannot be read: {error}") from error
        file_keys = [key for line in lines if not line.lstrip().startswith("#") for key in _split_keys(line)]
        if not file_keys:
            raise ApiKeysError(f"{KEYS_FILE_VARIABLE}: {path} contains no key")
        keys += file_keys
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise ApiKeysError(
            f"an API key has fewer than {MIN_KEY_LENGTH} characters; keys are separated by white space or commas"
        )
    if not all(key.isascii() for key in keys):  # it cannot be sent in a header
        raise ApiKeysError("an API key has a character that is not ASCII")
    return list(dict.fromkeys(keys))


def are_configured() -> bool:
    """Return whether this environment sets keys, even if they cannot be read."""
    return bool(_split_keys(os.environ.get(KEYS_VARIABLE, "")) or os.environ.get(KEYS_FILE_VARIABLE))


def _split_keys(text: str) -> list[str]:
    """Return the keys in a text; a byte order mark that was copied from a file is not part of a key."""
    return text.replace("\ufeff", " ").replace(",", " ").split()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
