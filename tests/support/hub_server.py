"""HTTP server on this machine with the part of the Hugging Face Hub's API that huggingface_hub calls for models.

Files of tensors are uploaded by Git LFS, others in the commit itself, as on the Hub. Writing needs TOKEN.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars

TOKEN = "hf_test"


class Repository:
    """Commits of a repository, each with all its files; `main` is the last one. tags: commits by name."""

    def __init__(self, *, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.tags: dict[str, str] = {}

    def commit(self, changes: Mapping[str, bytes | None]) -> str:
        """Add a commit, and return its name, 40 hex digits; None removes a file."""
        changed = {**(list(self.commits.values()) or [{}])[-1], **changes}
        files = {name: content for name, content in changed.items() if content is not None}
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[name] = files
        return name

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a revision; None if there is none."""
        if revision == "main":
            return next(reversed(self.commits), None)
        commit = self.tags.get(revision, revision)
        return commit if commit in self.commits else None


class HubServer:
    """The server's state. url: its address; requests: method and path of each request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[str] = []

    def files(self, name: str) -> dict[str, bytes]:
        """Return the files of a repository's last commit."""
        repository = self.repositories[name]
        return repository.commits[str(repository.resolve("main"))]


def connect_to_hub(server: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub use a server of this machine during a test, with a cache of its own."""
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,  # another protocol, of servers of its own
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    disable_progress_bars()


@contextmanager
def run_hub_server() -> Iterator[HubServer]:
    """Context manager: the server, until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = server.hub = HubServer(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join(timeout=30)
        server.server_close()


def _is_large(name: str) -> bool:
    return name.endswith(".safetensors")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._route()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments: object) -> None:
        pass

    def _route(self) -> None:
        self._hub: HubServer = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        self._hub.requests.append(f"{self.command} {path}")
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self._body = self._read_chunks()
        # An upload goes to a signed address of an object store.
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send_json({"error": "Unauthorized"}, 401)
        for pattern, handle in self._ROUTES.items():
            method, _, expression = pattern.partition(" ")
            match = re.fullmatch(expression, path)
            if match and (method == self.command or (method == "GET" and self.command == "HEAD")):
                return handle(self, **match.groupdict())
        return self._send_json({"error": "Not found"}, 404)

    def _read_chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _find(self, name: str, revision: str) -> tuple[Repository, str] | None:
        """Return a repository and a commit; None after an error was sent."""
        repository = self._hub.repositories.get(name)
        if repository is None:
            self._send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.resolve(revision)
        if commit is None:
            self._send_json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def _validate_card(self) -> None:
        parts = json.loads(self._body)["content"].split("---\n")
        metadata = yaml.safe_load(parts[1]) if len(parts) > 2 else None
        is_valid = isinstance(metadata, dict) and all(isinstance(tag, str) for tag in metadata.get("tags", []))
        errors = [] if is_valid else [{"message": "no metadata"}]
        self._send_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self) -> None:
        values = json.loads(self._body)
        name = f"{values['organization']}/{values['name']}"
        if name in self._hub.repositories:
            error = {"error": "You already created this model repo", "url": f"{self._hub.url}/{name}"}
            return self._send_json(error, 409)
        self._hub.repositories[name] = Repository(private=values.get("visibility") == "private")
        return self._send_json({"url": f"{self._hub.url}/{name}", "name": name, "id": name})

    def _describe(self, name: str, revision: str = "main") -> None:
        if found := self._find(name, revision):
            repository, commit = found
            siblings = [{"rfilename": path} for path in repository.commits[commit]]
            self._send_json({"id": name, "sha": commit, "private": repository.private, "siblings": siblings})

    def _list(self, name: str, revision: str) -> None:
        if found := self._find(name, revision):
            repository, commit = found
            entries: list[dict[str, Any]] = []
            for path, content in repository.commits[commit].items():
                digest = hashlib.sha256(content).hexdigest()
                large = {"lfs": {"oid": digest, "size": len(content), "pointerSize": 1}} if _is_large(path) else {}
                entries.append({"type": "file", "path": path, "size": len(content), "oid": digest[:40], **large})
            self._send_json(entries)

    def _resolve_file(self, name: str, revision: str, path: str) -> None:
        if found := self._find(name, revision):
            repository, commit = found
            content = repository.commits[commit].get(path)
            if content is None:
                return self._send_json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            digest = hashlib.sha256(content).hexdigest()
            etag = digest if _is_large(path) else digest[:40]
            self._send(content, headers={"ETag": f'"{etag}"', "X-Repo-Commit": commit})
        return None

    def _choose_upload(self, name: str, revision: str) -> None:
        files = json.loads(self._body)["files"]
        modes = {True: "lfs", False: "regular"}
        self._send_json(
            {
                "files": [
                    {"path": file["path"], "uploadMode": modes[_is_large(file["path"])], "shouldIgnore": False}
                    for file in files
                ]
            }
        )

    def _offer_upload(self, name: str) -> None:
        objects = [
            {**item, "actions": {"upload": {"href": f"{self._hub.url}/upload/{item['oid']}"}}}
            for item in json.loads(self._body)["objects"]
        ]
        self._send_json({"transfer": "basic", "objects": objects})

    def _receive_upload(self, oid: str) -> None:
        assert hashlib.sha256(self._body).hexdigest() == oid
        self._hub.large_files[oid] = self._body
        self._send(b"")

    def _commit(self, name: str, revision: str) -> None:
        repository, changes = self._hub.repositories[name], {}
        for line in self._body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self._hub.large_files[value["oid"]]
        commit = repository.commit(changes)
        url = f"{self._hub.url}/{name}/commit/{commit}"
        self._send_json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    _NAME: ClassVar[str] = r"(?P<name>[^/]+/[^/]+?)"
    _ROUTES: ClassVar[dict[str, Callable[..., None]]] = {
        "POST /api/validate-yaml": _validate_card,
        "POST /api/repos/create": _create,
        f"GET /api/models/{_NAME}": _describe,
        f"GET /api/models/{_NAME}/revision/(?P<revision>.+)": _describe,
        f"GET /api/models/{_NAME}/tree/(?P<revision>[^/]+)": _list,
        f"GET /{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": _resolve_file,
        f"POST /api/models/{_NAME}/preupload/(?P<revision>.+)": _choose_upload,
        rf"POST /{_NAME}\.git/info/lfs/objects/batch": _offer_upload,
        "PUT /upload/(?P<oid>.+)": _receive_upload,
        f"POST /api/models/{_NAME}/commit/(?P<revision>.+)": _commit,
    }
