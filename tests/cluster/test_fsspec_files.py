"""Files of web servers, which fsspec reads."""

import functools
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster import input_files
from cluster.storage import StorageError

CONTENT = b"0123456789" * 300_000


class WebServer(SimpleHTTPRequestHandler):
    """A web server without ranges: `/f` is a file, `/short` ends early, `/503` and `/dropped` fail."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/503":
            self.send_error(503)
        elif self.path == "/dropped":
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.do_HEAD()
            with suppress(OSError):  # the reader has seen that there are no ranges
                self.wfile.write(CONTENT[:1000] if self.path == "/short" else CONTENT)


@pytest.fixture
def web_server() -> Iterator[str]:
    """The URL of a running server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), WebServer) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(timeout=30)


def test_a_file_of_a_web_server_without_ranges_is_read_at_any_position(web_server: str) -> None:
    """It is larger than a block, and is read as a whole then; a stream of it is read by parts."""
    with input_files.open_random_access(f"{web_server}/f?x=y") as file:
        file.seek(2_999_997)
        assert file.read() == b"789"
    with input_files.open_decompressed(f"{web_server}/f?x=y") as stream:
        assert b"".join(iter(functools.partial(stream.read, 1 << 20), b"")) == CONTENT


@pytest.mark.parametrize(
    ("path", "message"), [("short", "payload is not completed"), ("503", "503"), ("dropped", "Server disconnected")]
)
@pytest.mark.parametrize("open_file", [input_files.open_decompressed, input_files.open_random_access])
def test_a_download_that_fails_is_one_of_the_errors_that_readers_expect(
    web_server: str, path: str, message: str, open_file: Any
) -> None:
    """The errors of the HTTP client have no base class in common with those of other files."""
    with (
        pytest.raises((StorageError, *input_files.READ_ERRORS), match=message),
        open_file(f"{web_server}/{path}") as file,
    ):
        file.read()
