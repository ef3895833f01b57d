"""A Hugging Face Hub of this machine, and a site in a browser, for the tests of the package."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import HubServer, connect_to_hub, run_hub_server
from tests.support.static_site import StaticSite, serve_site


@pytest.fixture(scope="package")
def hub_server() -> Iterator[HubServer]:
    """The server, which the tests of the package share."""
    with run_hub_server() as server:
        yield server


@pytest.fixture
def hub(hub_server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A Hub without repositories, which huggingface_hub connects to, with a cache and a token of the test."""
    hub_server.repositories.clear()
    hub_server.requests.clear()
    connect_to_hub(hub_server, tmp_path / "hub-cache", monkeypatch)
    return hub_server


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StaticSite]:
    """A site without files, which the tests of the package share; each writes a folder of its own."""
    with serve_site(tmp_path_factory.mktemp("site")) as static_site:
        yield static_site
