"""Static files on a web server of this machine, in a headless Chromium."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from selenium.webdriver.remote.webdriver import WebDriver

from tests.support.browser import start_browser

# Only resources of the server, no code in the page, and no HTML that a script writes.
POLICY = "default-src 'self'; require-trusted-types-for 'script'"
TIMEOUT_S = 60
_SCRIPT = """
const args = JSON.parse(arguments[0]), done = arguments[1];
const load = (name) => import(new URL(name, location.href).href);
(async () => { BODY })().then(
  (result) => done(JSON.stringify(result ?? null)),
  (error) => done(JSON.stringify(String(error))),
);
"""


class _StaticFiles(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@dataclass(frozen=True)
class StaticSite:
    """A folder, and a browser that reads its files at a URL."""

    driver: WebDriver
    folder: Path
    url: str

    def run(self, name: str, body: str, *arguments: object) -> Any:
        """Return what JavaScript on a page returns, or the text of the exception that it throws.

        Arguments and result pass as JSON, in which surrogates may be unpaired.

        Args:
            name: folder of the site with an index.html.
            body: of an asynchronous function with the variable `args`, and with `load`, which imports a module of the
                folder.
        """
        url = f"{self.url}/{name}/index.html"
        if self.driver.current_url != url:
            self.driver.get(url)
        return json.loads(self.driver.execute_async_script(_SCRIPT.replace("BODY", body), json.dumps(arguments)))


@contextmanager
def serve_site(folder: Path) -> Iterator[StaticSite]:
    """Context manager: a site of a folder; skips the test if Chromium is not installed."""
    with start_browser() as driver:
        driver.set_script_timeout(TIMEOUT_S)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_StaticFiles, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield StaticSite(driver, folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            server.server_close()
            thread.join(timeout=10)
