"""A client that gets its answer: it waits and asks again where a replica died, restarts or sheds load.

from serving.client import Client
Client("http://127.0.0.1:8000").classify("a fine film")
"""

import json
import random
import time
from collections.abc import Sequence
from typing import Any, Self

import urllib3

from cluster import UsageError

# What passes: HAProxy's own 500 where a connection broke, timeouts, and load that was shed.
PASSING = (408, 429, 500, 502, 503, 504)


class ServiceError(UsageError):
    """The service refused a request, or could not be reached; `status` is its HTTP status, or None."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks a service; may be used from several threads.

    Args:
        url: of the service, without a path.
        key: one of its API keys, where it wants one.
        patience_s: for so long a request is sent again. Tries wait 0.1 s, 0.2 s and so on up to 5 s, with some chance
            in it, and where the service says Retry-After so much longer; never beyond the patience. Classifying twice
            changes nothing, so any request may be sent again.
        timeout_s: for each try.
        connections: kept open at once.
    """

    def __init__(
        self, url: str, key: str | None = None, *, patience_s: float = 60, timeout_s: float = 30, connections: int = 8
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._patience_s = patience_s
        self._pool = urllib3.PoolManager(maxsize=connections, block=True, timeout=timeout_s)

    def classify(self, texts: str | Sequence[str], **parameters: Any) -> list[Any]:
        """Return the labels of a text with their scores, the best first, or such a list for each of several texts.

        Args:
            parameters: top_k, function_to_apply, threshold, explain.

        Raises:
            ServiceError: the service refused, or did not answer whatever was tried.
        """
        inputs = texts if isinstance(texts, str) else list(texts)
        return self._ask("POST", "/predict", {"inputs": inputs, "parameters": parameters})

    def info(self) -> dict[str, Any]:
        """Return what the service says of itself."""
        return self._ask("GET", "/info", None)

    def _ask(self, method: str, path: str, content: Any) -> Any:
        body = None if content is None else json.dumps(content).encode()
        try:
            response = self._pool.request(
                method, self._url + path, body=body, headers=self._headers, retries=_Again.until(self._patience_s)
            )
        except urllib3.exceptions.HTTPError as error:
            raise ServiceError(f"{self._url} does not answer: {error}") from error
        if response.status == 200:
            return response.json()
        try:
            told = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            told = response.data[:200].decode(errors="replace") or response.reason
        raise ServiceError(f"{self._url}{path}: {response.status}: {told}", response.status)


class _Again(urllib3.Retry):
    """Tries until a moment, where urllib3's own counts them; a Retry-After is waited for beside the backoff."""

    _last = 0.0

    @classmethod
    def until(cls, patience_s: float) -> Self:
        """Return one that gives up after so many seconds from now."""
        made = cls(
            total=None,
            redirect=0,
            status_forcelist=PASSING,
            allowed_methods=None,  # POST too
            backoff_factor=0.1,
            backoff_max=5,
            backoff_jitter=0.1,
            raise_on_status=False,
        )
        made._last = time.monotonic() + patience_s
        return made

    def new(self, **changes: Any) -> Self:
        made = super().new(**changes)
        made._last = self._last
        return made

    def is_exhausted(self) -> bool:
        return super().is_exhausted() or time.monotonic() >= self._last

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        return not self.is_exhausted() and super().is_retry(method, status_code, has_retry_after)

    def get_retry_after(self, response: urllib3.BaseHTTPResponse) -> float | None:
        told = super().get_retry_after(response)
        if told is None:
            return None
        # Or all that were shed at once would come back at once.
        told += random.uniform(0, min(self.backoff_max, 0.1 * 2 ** len(self.history)))
        return min(told, max(0.0, self._last - time.monotonic()))
