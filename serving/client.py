"""HTTP client of the service that retries while replicas restart or load is shed.

from serving.client import Client
Client("http://127.0.0.1:8000").classify("a fine film")
"""

import gzip
import json
import random
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any
from urllib.parse import quote

import urllib3

from cluster import UsageError

# Temporary failures: HAProxy's own 500 after a broken connection, timeouts, and shed load.
RETRY_STATUSES = (408, 429, 500, 502, 503, 504)
MAX_BACKOFF_S = 5
MIN_COMPRESSED_BYTES = 1024  # of a body; a shorter one fits into one packet


class ServiceError(UsageError):
    """The service refused a request or could not be reached; `status` is its HTTP status, or None."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """HTTP client of a service; safe to use from several threads.

    >>> import finetune_cnn
    >>> client = finetune_cnn.Client("http://127.0.0.1:8000")  # of `finetune-cnn serve model`
    >>> client.classify("a good film", top_k=1)
    [{'label': 'good', 'score': 0.999...}]

    Args:
        url: of the service, with its route prefix if that is not "/"; white space around it is removed.
        key: one of its API keys, if it requires one. White space around it is removed.
        retry_timeout_s: how long a request is retried, in seconds. The wait between attempts grows from 0.1 s to 5 s,
            plus or minus half of it, plus the service's Retry-After. The last attempt starts when this time is over.
            Classifying twice changes nothing, so every request may be repeated.
        timeout_s: timeout of an attempt, and of waiting for a free connection, in seconds.
        connections: maximum number of open connections.
        compress: send bodies of at least MIN_COMPRESSED_BYTES with gzip, for slow networks; it takes the service more
            time.

    Raises:
        ServiceError: the URL or the key is invalid.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        retry_timeout_s: float = 60,
        timeout_s: float = 30,
        connections: int = 8,
        compress: bool = False,
    ) -> None:
        self._url = _validate_url(url.strip()).rstrip("/")
        authorization = {"authorization": f"Bearer {_validate_key(key.strip())}"} if key and key.strip() else {}
        self._headers = {"content-type": "application/json"} | authorization
        self._retry_timeout_s, self._timeout_s, self._compress = retry_timeout_s, timeout_s, compress
        self._pool = urllib3.PoolManager(maxsize=connections, block=True, timeout=timeout_s)

    def classify(self, texts: str | Sequence[str], *, model: str | None = None, **parameters: Any) -> Any:
        """Return the labels of a text with their scores, the best first, or a list of such lists for several texts.

        >>> [scores[0]["label"] for scores in client.classify(["a good film", "a bad film"])]
        ['good', 'bad']

        If a text may have several labels, `above_threshold` is true of those that it gets.

        Args:
            model: name of one of the service's further models, as of `models`; None for that of `/predict`.
            parameters: top_k, function_to_apply, threshold, explain, abstain. With abstain the labels of a text are an
                object: `label`, None if the classifier abstains, and `scores`, the list.

        Raises:
            ServiceError: the service refused the request, or did not respond within the retry timeout.
        """
        inputs = texts if isinstance(texts, str) else list(texts)
        return self._request("POST", f"{_model_path(model)}/predict", {"inputs": inputs, "parameters": parameters})

    def info(self, model: str | None = None) -> dict[str, Any]:
        """Return the content of `/info`, or of `/models/NAME/info`.

        >>> client.info()["labels"]
        ['bad', 'good']
        """
        info: dict[str, Any] = self._request("GET", f"{_model_path(model)}/info", None)
        return info

    def models(self) -> list[str]:
        """Return the names of the service's further models.

        >>> client.models()
        []
        """
        return [model["name"] for model in self._request("GET", "/models", None)["models"]]

    def _request(self, method: str, path: str, content: Mapping[str, object] | None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        headers = self._headers
        if self._compress and body is not None and len(body) >= MIN_COMPRESSED_BYTES:
            body, headers = gzip.compress(body), headers | {"content-encoding": "gzip"}
        response = self._send_with_retries(method, self._url + path, body, headers)
        try:
            content = response.json()
            if response.status == 200:
                return content
            reason = content["error"]
        except (ValueError, KeyError, TypeError):
            reason = response.data[:200].decode(errors="replace") or response.reason
        raise ServiceError(f"{self._url}{path}: {response.status}: {reason}", response.status)

    def _send_with_retries(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        """Return the first response that is no temporary failure, or the last one within the retry timeout."""
        deadline = time.monotonic() + self._retry_timeout_s
        for attempt in count():
            response, retry_after = None, 0.0
            try:
                response = self._pool.request(
                    method, url, body=body, headers=headers, retries=False, pool_timeout=self._timeout_s
                )
                if response.status not in RETRY_STATUSES:
                    return response
                retry_after = _retry_after(response)
            except urllib3.exceptions.HTTPError as error:
                if _is_permanent(error):
                    raise ServiceError(f"{self._url} cannot be called: {error}") from error
                if time.monotonic() >= deadline:
                    raise ServiceError(f"{self._url} does not respond: {error}") from error
            remaining = deadline - time.monotonic()
            if remaining <= 0 and response is not None:
                return response
            # Jitter: without it all clients whose requests were shed together would return together.
            backoff = min(MAX_BACKOFF_S, 0.1 * 2 ** min(attempt, 9)) * random.uniform(0.5, 1.5)
            time.sleep(max(0, min(remaining, retry_after + backoff)))
        raise AssertionError("unreachable")


def _validate_url(url: str) -> str:
    """Return the URL of a service; ServiceError if it has no host, an invalid port or another scheme."""
    try:
        parts = urllib3.util.parse_url(url)
    except urllib3.exceptions.LocationParseError as error:
        raise ServiceError(f"{url}: is not the URL of a service: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ServiceError(f"{url}: is not the URL of a service, such as http://127.0.0.1:8000")
    return url


def _validate_key(key: str) -> str:
    """Return an API key; ServiceError, which does not contain it, if no service can have it."""
    if not re.fullmatch(r"[!-~]+", key):
        raise ServiceError("the API key contains white space or characters that are not ASCII, so no service has it")
    return key


def _is_permanent(error: BaseException | None) -> bool:
    """Return whether a request fails again: the certificate is rejected, the server has no TLS, or the host is no name.

    A connection that ends while TLS starts is temporary: the server restarts.
    """
    while error is not None:
        if isinstance(error, urllib3.exceptions.LocationValueError):
            return True
        if isinstance(error, urllib3.exceptions.SSLError):
            cause = error.args[0] if error.args else None
            return not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
        error = getattr(error, "reason", None) or error.__cause__  # reason: of MaxRetryError
    return False


def _model_path(name: str | None) -> str:
    return "" if name is None else f"/models/{quote(name, safe='')}"


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    """Return the Retry-After of a response in seconds, 0 without a readable one."""
    try:
        return urllib3.Retry().get_retry_after(response) or 0.0
    except urllib3.exceptions.InvalidHeader:
        return 0.0
