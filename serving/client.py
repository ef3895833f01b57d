"""A client that gets its answer: it waits and asks again where a replica died, restarts or sheds load.

from serving.client import Client
Client("http://127.0.0.1:8000").classify("a fine film")
"""

import json
import random
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

import urllib3

from cluster import UsageError

# What passes: HAProxy's own 500 where a connection broke, timeouts, and load that was shed.
RETRY_STATUSES = (408, 429, 500, 502, 503, 504)


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
        patience_s: for so long a request is sent again. Between two tries it waits 0.1 s, 0.2 s and so on up to 5 s,
            give or take a half, and where the service says Retry-After so much longer; the last try begins when the
            patience ends. Classifying twice changes nothing, so any request may be sent again.
        timeout_s: for each try, and for a connection to be free.
        connections: kept open at once.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        retry_timeout_s: float = 60,
        timeout_s: float = 30,
        connections: int = 8,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._patience_s, self._timeout_s = retry_timeout_s, timeout_s
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
        response = self._answer(method, self._url + path, body)
        try:
            told = response.json()
            if response.status == 200:
                return told
            told = told["error"]
        except (ValueError, KeyError, TypeError):
            told = response.data[:200].decode(errors="replace") or response.reason
        raise ServiceError(f"{self._url}{path}: {response.status}: {told}", response.status)

    def _answer(self, method: str, url: str, body: bytes | None) -> urllib3.BaseHTTPResponse:
        """Return the first answer that does not pass, or the last one before patience ends."""
        deadline = time.monotonic() + self._patience_s
        for tries in count():
            response, longer = None, 0.0
            try:
                response = self._pool.request(
                    method, url, body=body, headers=self._headers, retries=False, pool_timeout=self._timeout_s
                )
                if response.status not in RETRY_STATUSES:
                    return response
                longer = _retry_after(response)
            except urllib3.exceptions.HTTPError as error:
                if time.monotonic() >= deadline:
                    raise ServiceError(f"{self._url} does not answer: {error}") from error
            left = deadline - time.monotonic()
            if left <= 0 and response is not None:
                return response
            # With some chance in it, or all that were shed at once would come back at once.
            time.sleep(max(0, min(left, longer + min(5, 0.1 * 2 ** min(tries, 9)) * random.uniform(0.5, 1.5))))
        raise AssertionError("never reached")


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Return how many seconds an answer asks to wait."""
    try:
        return urllib3.Retry().get_retry_after(response) or 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0
