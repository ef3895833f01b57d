"""Random malformed HTTP requests, most of them nearly valid."""

import json
import random
import socket
from contextlib import suppress

VALID_BODY = b'{"inputs": "word1 word2 word3"}'


def make_malformed_request(choose: random.Random) -> bytes:
    """Return the bytes of a random request."""
    body = choose.choice(
        [
            VALID_BODY, b"", b"{", b"[" * choose.randint(1, 30_000), b'{"inputs":' * choose.randint(1, 5000),
            choose.randbytes(choose.randint(0, 3000)), b'{"inputs": "\\ud800"}', b'{"inputs": "\xff\xfe"}',
            json.dumps({"inputs": chr(choose.randint(0x80, 0xD7FF)) * choose.randint(1, 3000)}).encode(),
            json.dumps({"inputs": ["x"] * choose.randint(250, 400)}).encode(),
            json.dumps({"inputs": choose.choice([None, 5, 1e300, {}, [[]], [["a", "b"]], [None], True])}).encode(),
            json.dumps({"inputs": "a", "parameters": {choose.choice(["top_k", "threshold", "function_to_apply"]):
                        choose.choice([-1, 0, 10**400, "x", [], {}, 1.5])}}).encode(),
            b'{"inputs": "a", "parameters": {"threshold": NaN, "top_k": Infinity}}',
            _make_explain_body(choose), _make_explain_body(choose),
            _make_long_body(choose) if choose.random() < 0.3 else VALID_BODY,
        ]
    )  # fmt: skip
    method = choose.choice([b"POST"] * 12 + [b"GET", b"PUT", b"BREW", b"p\x00st", b""])
    path = choose.choice([b"/predict", b"/"] * 6 + [b"/info", b"/%ff%00", b"//", b"/../../etc/passwd", b"*", b"/\xff",
                          b"/" + b"a" * choose.randint(1, 20_000)])  # fmt: skip
    headers = [b"host: x", b"connection: close", b"content-length: %d" % (len(body) + choose.choice([0, 0, 0, 0, -1]))]
    for _ in range(choose.choice([0, 0, 0, 1, 2])):
        headers.append(
            choose.choice(
                [
                    b"x-request-id: \xff\xfe",
                    b"x-request-id: " + b"i" * 3000,
                    b"x-request-timeout-seconds: nan",
                    b"x-request-disconnect-disabled: \xff",
                    b"serve_multiplexed_model_id: \xc3\x28",
                    b"traceparent: \xff",
                    b"content-type: \x80",
                    b"authorization: Bearer \xff",
                    b"a" * 5000 + b": b",
                    b"transfer-encoding: chunked",
                    b"content-length: 5",
                    b"content-length: -1",
                    b"expect: 100-continue",
                    b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: eA==\r\n"
                    b"sec-websocket-version: 13",
                    b"no colon",
                    b": empty",
                    b"x:\x00",
                    b"cookie: " + b"c" * 9000,
                ]
            )
        )
    version = choose.choice([b"HTTP/1.1"] * 20 + [b"HTTP/1.0", b"HTTP/9.9", b""])
    return method + b" " + path + b" " + version + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body


def _make_explain_body(choose: random.Random) -> bytes:
    """Return a body that asks for explanations, valid or not."""
    inputs = choose.choice(
        ["word1 word2", "", " ", "\u0000", "word1 \U0001f600 \u0301word2", "word1 " * 3000, "x" * 20_000,
         ["word1"] * 16, ["word1"] * 17, [[""], ["word1"]], [["a", "b"]], [], 5, None]
    )  # fmt: skip
    explain = choose.choice([True] * 6 + [False, None, 1, "true", [], {}])
    parameters = {"top_k": choose.choice([None, 1, 0, 10**9]), "threshold": choose.choice([None, 0, 2, "x"])}
    if choose.random() < 0.5:
        return json.dumps({"inputs": inputs, "explain": explain}).encode()
    return json.dumps({"inputs": inputs, "parameters": parameters | {"explain": explain}}).encode()


def _make_long_body(choose: random.Random) -> bytes:
    """Return a body of more than 64 KiB, which HAProxy does not buffer as a whole."""
    size = choose.choice([66_000, 66_000, 150_000, 150_000, 1_100_000])
    return choose.choice(
        [
            b'{"inputs": "%s"}' % (b"word1 " * (size // 6)),
            b'{"inputs": ["%s"]}' % b'", "'.join([b"word1 " * 60] * (size // 364)),
            b'{"inputs": "a", "explain": true, "other": "%s"}' % (b"x" * size),
            b'{"inputs": "a"' + b" " * size,
            b"[" * size,
            b"\xff" * size,
        ]
    )


def send_bytes(port: int, content: bytes) -> bytes:
    """Return the response to bytes; one that does not come within a second is given up."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        response = b""
        with suppress(OSError):
            connection.sendall(content)
            connection.settimeout(1)
            while chunk := connection.recv(1 << 16):
                response += chunk
        return response
