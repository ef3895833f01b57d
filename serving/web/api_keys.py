"""Who may ask: API keys from a file or the environment, never from a configuration that lies in a repository."""

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
    """The keys cannot be read, so nobody is let in."""


class ApiKeys:
    """The keys that open the service; without any it is open to whoever reaches it."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def authorizes(self, authorization: bytes) -> bool:
        """Tell whether an Authorization header holds a key; the time that takes says nothing about the keys."""
        scheme, _, key = authorization.partition(b" ")
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, _digest(key.strip()))
        return found and scheme.lower() == b"bearer"


def load_api_keys() -> ApiKeys:
    """Return the keys of this environment; KeysError as `listed`."""
    return ApiKeys(read_key_list())


def read_key_list() -> list[str]:
    """Return the keys of SERVING_API_KEYS and of the file that SERVING_API_KEYS_FILE names.

    They are separated by white space; in the file a line that starts with # is none.

    Raises:
        KeysError: the file is missing or empty, or a key is too short.
    """
    keys = os.environ.get(KEYS_VARIABLE, "").split()
    path = os.environ.get(KEYS_FILE_VARIABLE)
    if path:
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ApiKeysError(f"{KEYS_FILE_VARIABLE}: {path} cannot be read: {error}") from error
        found = [key for line in lines if not line.startswith("#") for key in line.split()]
        if not found:
            raise ApiKeysError(f"{KEYS_FILE_VARIABLE}: {path} holds no key")
        keys += found
    if any(len(key) < MIN_KEY_LENGTH for key in keys):
        raise ApiKeysError(f"a key has fewer than {MIN_KEY_LENGTH} characters")
    return keys


def are_configured() -> bool:
    """Tell whether this environment asks for keys; whether they can be read is not looked at."""
    return bool(os.environ.get(KEYS_VARIABLE, "").split() or os.environ.get(KEYS_FILE_VARIABLE))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
