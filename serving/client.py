"""A client that gets its answer: it waits and asks again where a replica died, restarts or sheds load.

from serving.client import Client
Client("http://127.0.0.1:8000").classify("a fine film")
"""

import json
from collections.abc import Sequence
from typing import Any

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
        retries: further tries; they wait 0.1 s, 0.2 s and so on up to 5 s, with some chance in it, or as long as
            the service's Retry-After says. Classifying twice changes nothing, so any request may be sent again.
        timeout_s: for each try.
        connections: kept open at once.
    """

    def __init__(
        self, url: str, key: str | None = None, *, retries: int = 12, timeout_s: float = 30, connections: int = 8
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        again = urllib3.Retry(
            retries,
            redirect=0,
            status_forcelist=PASSING,
            allowed_methods=None,  # POST too
            backoff_factor=0.1,
            backoff_max=5,
            backoff_jitter=0.1,
            respect_retry_after_header=True,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(maxsize=connections, block=True, retries=again, timeout=timeout_s)

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
            response = self._pool.request(method, self._url + path, body=body, headers=self._headers)
        except urllib3.exceptions.HTTPError as error:
            raise ServiceError(f"{self._url} does not answer: {error}") from error
        if response.status == 200:
            return response.json()
        try:
            told = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            told = response.data[:200].decode(errors="replace") or response.reason
        raise ServiceError(f"{self._url}{path}: {response.status}: {told}", response.status)
