"""The application's responses to every kind of request, and changes of its checkpoint, without Ray."""

import asyncio
import gzip
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from pydantic import ValidationError

from cluster import UsageError
from cluster.package import REPOSITORY
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from serving import app
from serving.api_keys import KEYS_VARIABLE
from serving.app import Replica
from serving.web import asgi, served_models
from serving.web import body as body_module
from serving.web.admission import AdmissionQueue
from serving.web.distribution import Distances
from serving.web.metrics import MAX_CHECKPOINT_TAGS, MAX_ROLE_TAGS, OTHER, ModelCounters, ModelCounts, ReplicaMetrics
from serving.web.served_models import ServedModel, ServedModels, load_models
from tests.serving.mounted_replica import MountedReplica
from tests.support.asgi import configure, make_replica, send_request, serve_replica

BODY = b'{"inputs": "word1 word2"}'


@pytest.fixture(scope="module")
def replica(run_folder: Path) -> Replica:
    return make_replica({"checkpoint": str(run_folder)}, limits={"max_body_bytes": 1000})


def test_scores_are_those_of_the_checkpoint(replica: Replica, run_folder: Path) -> None:
    """Scores are compared on both paths, for one text and for lists."""
    texts = ["word1 word2", "", "\u00fcber"]
    expected = Classifier(load_checkpoint(str(run_folder))).predict_logits(texts)
    body = json.dumps({"inputs": texts, "parameters": {"function_to_apply": "none"}}).encode()
    for path in ("/", "/predict"):
        status, headers, response = send_request(replica, path, body)
        assert (status, headers["content-type"]) == (200, "application/json")
        for rows, scores in zip(response, expected, strict=True):
            assert [np.float32(row["score"]) for row in rows] == sorted(scores, reverse=True)
            assert {row["label"]: row["score"] for row in rows} == pytest.approx(
                dict(zip("abc", map(float, scores), strict=True)), abs=1e-5
            )
    assert send_request(replica, "/", BODY)[2] == [send_request(replica, "/predict", BODY)[2]]
    assert send_request(replica, "/predict/", BODY)[2] == send_request(replica, "/predict", BODY)[2]


def test_the_page_of_a_route_prefix_is_in_its_folder(replica: Replica) -> None:
    """Its requests are relative: without a slash at the end of its path they would go to another service."""
    mounted = MountedReplica(replica, "/api/tickets")
    for method in ("GET", "HEAD"):
        status, headers, content = send_request(mounted, "/api/tickets", method=method)
        assert (status, headers["location"], content) == (307, "tickets/", "")
    assert send_request(mounted, "/api/tickets/")[0] == 200
    assert send_request(mounted, "/api/tickets", BODY)[2] == [send_request(mounted, "/api/tickets/predict", BODY)[2]]
    for root_path in ("/api/tickets", "", "/other"):
        description = send_request(MountedReplica(replica, root_path), f"{root_path}/openapi.json")[2]
        assert description.get("servers") == ([{"url": root_path}] if root_path else None)
        assert send_request(MountedReplica(replica, ""), "/")[0] == 200


def test_info_describes_the_checkpoint_and_the_limits(replica: Replica, run_folder: Path) -> None:
    _, _, info = send_request(replica, "/info")
    assert (info["labels"], info["metrics"], info["vocabulary"]) == (["a", "b", "c"], {"epoch": 1}, 200)
    assert list(info) == [
        "checkpoint", "name", "experiment", "text_column", "label_column", "manifest", "labels",
        "model", "text", "vocabulary", "metrics", "multi_label", "limits",
    ]  # fmt: skip
    assert info["checkpoint"] == str(run_folder / "first")
    assert len(info["manifest"]) == 64
    assert info["limits"]["max_body_bytes"] == 1000
    assert send_request(replica, "/health")[2] == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "body", "method", "status", "message"),
    [
        ("/predict", b"{", None, 400, "not valid JSON"),
        ("/predict", b'{"inputs": 5}', None, 422, "inputs"),
        ("/predict", BODY + b" " * 1000, None, 413, "longer than 1000 bytes"),
        ("/predict", [b"x" * 600, b"x" * 600, b""], None, 408, "did not arrive"),
        ("/predict", [], None, 408, "did not arrive"),
        ("/predict", None, None, 405, "/predict accepts POST"),
        ("/info", b"{}", None, 405, "/info accepts GET and HEAD"),
        ("/", b"", "DELETE", 405, "/ accepts GET and HEAD and POST"),
        ("/other/", BODY, None, 404, "no such path: /other; the paths are /, /predict"),
        ("/%00\ud800" * 100, BODY, None, 404, "no such path"),
    ],
)
def test_a_rejected_request_is_a_4xx_with_a_reason(
    replica: Replica, path: str, body: bytes, method: str, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is JSON; the OpenAPI description lists the status."""
    monkeypatch.setattr(body_module, "TIMEOUT_S", 0.1)
    actual_status, headers, response = send_request(replica, path, body, method)
    assert actual_status == status
    assert message in response["error"]
    assert ("allow" in headers) == (status == 405)
    if path == "/predict" and status != 405:
        assert str(status) in send_request(replica, "/openapi.json")[2]["paths"]["/predict"]["post"]["responses"]


def test_a_chunked_body_is_read_completely(replica: Replica) -> None:
    pieces = iter([BODY[:5], BODY[5:9], BODY[9:]])
    with serve_replica(replica) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.request("POST", "/predict", pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        assert json.loads(connection.getresponse().read()) == send_request(replica, "/predict", BODY)[2]
        connection.request("POST", "/predict", b"x" * 5000)
        assert connection.getresponse().status == 413


def test_a_late_body_is_read_and_a_missing_one_ends_the_connection(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body arrives after the headers, in pieces, or not at all."""
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    with serve_replica(replica) as url:

        def send_parts(*parts: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.1)  # so that the parts arrive one by one
                response = b""
                while (b"\r\n\r\n" not in response or b"408" in response) and (chunk := connection.recv(1 << 16)):
                    response += chunk
                return response

        for parts in ((BODY,), (BODY[:7], BODY[7:])):
            assert send_parts(head, *parts).startswith(b"HTTP/1.1 200")
        monkeypatch.setattr(body_module, "TIMEOUT_S", 0.5)
        for parts in ((), (BODY[:7],)):
            assert send_parts(head, *parts).startswith(b"HTTP/1.1 408")


def test_a_key_is_required_except_for_page_health_and_description(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "a-key-of-20-letters"
    monkeypatch.setenv(KEYS_VARIABLE, key)
    replica = make_replica({"checkpoint": str(run_folder)})
    for path, body in (("/predict", BODY), ("/", BODY), ("/info", None)):
        assert send_request(replica, path, body)[0] == 401
        status, headers, _ = send_request(replica, path, body, authorization="Bearer wrong")
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert send_request(replica, path, body, authorization=f"Bearer {key}")[0] == 200
    for path in ("/", "/health", "/openapi.json"):
        assert send_request(replica, path)[0] == 200
    assert "security" in send_request(replica, "/openapi.json")[2]["paths"]["/predict"]["post"]


def test_a_replica_does_not_import_torch(run_folder: Path) -> None:
    """Torch is not imported from the import of the application to a response; Ray does not import it either."""
    script = (
        "import asyncio, json, sys\n"
        "from serving.app import ApplicationArguments, Replica\n"
        "async def main():\n"
        "    replica = Replica(ApplicationArguments().model_dump())\n"
        f"    await replica.reconfigure({{'checkpoint': {str(run_folder)!r}}})\n"
        "    async def receive():\n"
        f"        return {{'type': 'http.request', 'body': {BODY!r}}}\n"
        "    async def send(message):\n"
        "        print(message.get('status') or len(json.loads(message['body'])))\n"
        "    scope = {'type': 'http', 'method': 'POST', 'path': '/predict', 'headers': []}\n"
        "    await replica.__serve_build_asgi_app__()(scope, receive, send)\n"
        "asyncio.run(main())\n"
        "print({'torch', 'gensim', 'sklearn', 'jobs.training.loop'} & set(sys.modules))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "200\n3\nset()\n"


@pytest.mark.parametrize("immediate", [True, False])
def test_a_request_is_counted_once(run_folder: Path, monkeypatch: pytest.MonkeyPatch, immediate: bool) -> None:
    """A request admitted immediately and one that waits each count a status, a wait, a text and its latency."""
    monkeypatch.setattr(AdmissionQueue, "try_admit", lambda queue: immediate)
    replica = make_replica({"checkpoint": str(run_folder)})
    response = send_request(replica, "/predict", BODY)
    assert response[0] == 200
    assert (replica.metrics._statuses, len(replica.metrics._queue_waits_s)) == ({200: 1}, 1)
    assert replica.models is not None
    counters = replica.models.primary.take_counters()
    assert (sum(counters.label_counts), len(counters.latencies_s)) == (1, 1)


@pytest.mark.parametrize("path", ["/predict", "/models/other/predict", "/info"])
def test_an_unexpected_error_is_counted_as_a_500(run_folder: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """The web server responds to it; the alert and the dashboard read the status that the replica counts."""
    replica = make_replica({"checkpoint": str(run_folder), "models": {"other": str(run_folder / "second")}})
    monkeypatch.setattr(ServedModel, "score", MagicMock(side_effect=ZeroDivisionError))
    monkeypatch.setattr(asgi.ClassifierApplication, "_describe_models", MagicMock(side_effect=ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        send_request(replica, path, None if path == "/info" else BODY)
    assert replica.metrics._statuses == {500: 1}


def test_the_number_of_scores_of_a_response_is_limited(run_folder: Path) -> None:
    replica = make_replica({"checkpoint": str(run_folder)}, limits={"max_scores": 5})
    two = {"inputs": ["word1", "word2"]}
    status, _, response = send_request(replica, "/predict", json.dumps(two).encode())
    assert (status, response["error"][:44]) == (413, "the response would have more than 5 scores; ")
    for request in (two | {"parameters": {"top_k": 2}}, {"inputs": "word1"}):
        assert send_request(replica, "/predict", json.dumps(request).encode())[0] == 200


def test_a_refused_checkpoint_leaves_the_previous_one_served(run_folder: Path, tmp_path: Path) -> None:
    """For every kind of error, /info returns the reason until a checkpoint is accepted."""
    replica = make_replica({"checkpoint": str(run_folder)})
    before = send_request(replica, "/predict", BODY)[2]
    shutil.copytree(run_folder / "second", tmp_path / "altered")
    (tmp_path / "altered" / "labels.json").write_text('["x", "y", "z"]')
    for user_config, reason in (
        ({"checkpoint": str(tmp_path / "altered")}, "labels.json does not match the manifest"),
        ({"checkpoint": str(tmp_path)}, f"{tmp_path}: contains neither a checkpoint nor a best.json"),
        ({"checkpoint": str(run_folder), "candidate": {"checkpoint": "x"}}, "candidate.weight"),
        ({}, "checkpoint: Field required"),
    ):
        configure(replica, user_config)
        assert reason in send_request(replica, "/info")[2]["refused"]
        assert send_request(replica, "/predict", BODY)[2] == before
    configure(replica, {"checkpoint": str(run_folder / "second")})
    assert "refused" not in send_request(replica, "/info")[2]
    assert send_request(replica, "/predict", BODY)[2] != before


def test_a_replica_that_refuses_its_first_checkpoint_serves_the_previous_one(run_folder: Path, tmp_path: Path) -> None:
    """Without a candidate, if that is the reason; a replica without another checkpoint does not start."""
    first, second, refused = str(run_folder / "first"), str(run_folder / "second"), str(tmp_path)
    candidate = {"checkpoint": refused, "weight": 0.5}
    other = {"checkpoint": second, "weight": 0.5}
    for user_config, served, reported in (
        ({"checkpoint": refused, "previous": second}, second, refused),
        ({"checkpoint": first, "previous": second, "candidate": candidate}, first, refused),
        ({"checkpoint": first, "candidate": other | {"weight": 2}}, first, second),
        ({"checkpoint": refused, "previous": second, "candidate": other}, second, refused),
        ({"checkpoint": first, "previous": second, "unknown": 1}, second, first),
    ):
        replica = make_replica(user_config)
        info = send_request(replica, "/info")[2]
        assert (info["checkpoint"], info["refused_checkpoint"]) == (served, reported)
        assert "candidate" not in info
    for user_config in ({"checkpoint": refused}, {"checkpoint": refused, "previous": str(tmp_path / "none")}):
        with pytest.raises(UsageError, match="neither a checkpoint nor"):
            make_replica(user_config)


def test_a_running_replica_serves_a_new_checkpoint_without_its_refused_candidate(
    run_folder: Path, tmp_path: Path
) -> None:
    """And the new further models: a replica that starts later does the same."""
    first, second, refused = str(run_folder / "first"), str(run_folder / "second"), str(tmp_path)
    models = {"other": first}
    for candidate in ({"checkpoint": refused, "weight": 0.5}, {"checkpoint": first, "weight": 2}):
        replica = make_replica({"checkpoint": first, "candidate": {"checkpoint": second, "weight": 0.5}})
        changed = {"checkpoint": second, "candidate": candidate, "models": models}
        configure(replica, changed)
        info = send_request(replica, "/info")[2]
        assert (info["checkpoint"], info["refused_checkpoint"]) == (second, candidate["checkpoint"])
        assert "candidate" not in info
        assert replica.pool.names == ("other",)
        configure(replica, changed | {"checkpoint": refused, "models": {}})
        assert send_request(replica, "/info")[2]["checkpoint"] == second


def test_a_checkpoint_is_loaded_once_although_its_candidate_is_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when both are tried again: a table is computed for each loaded checkpoint."""
    first, second, paths = str(run_folder / "first"), str(run_folder / "second"), []

    def record_path(path: str, *arguments: Any) -> Checkpoint:
        paths.append(path)
        return load_checkpoint(path, *arguments)

    replica = make_replica({"checkpoint": first})
    monkeypatch.setattr(served_models, "load_checkpoint", record_path)
    changed = {"checkpoint": second, "candidate": {"checkpoint": str(tmp_path), "weight": 0.5}}
    for _ in range(2):
        configure(replica, changed)
        assert send_request(replica, "/info")[2]["refused_checkpoint"] == str(tmp_path)
    assert paths == [second]
    shutil.copytree(run_folder / "first", tmp_path, dirs_exist_ok=True)
    configure(replica, changed)
    assert "refused" not in send_request(replica, "/info")[2]
    assert paths == [second, str(tmp_path)]


def test_a_refused_checkpoint_is_served_once_it_is_repaired(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve does not send the same user_config again. A later one is not undone by the retries."""
    monkeypatch.setattr(app, "FLUSH_PERIOD_S", 0.01)
    replica = make_replica({"checkpoint": str(run_folder)})
    flushes: list[object] = []
    monkeypatch.setattr(replica.metrics, "flush", lambda models, pool: flushes.append(models))
    late = tmp_path / "late"

    def served() -> str:
        assert replica.models is not None
        return replica.models.primary.info["checkpoint"]

    async def run() -> None:
        await replica.reconfigure({"checkpoint": str(late)})
        assert served() == str(run_folder / "first")
        shutil.copytree(run_folder / "second", late)
        while served() != str(late):
            await asyncio.sleep(0.01)
        await replica.reconfigure({"checkpoint": str(run_folder / "first")})
        flushes.clear()
        while len(flushes) <= 2 * app.RELOAD_RETRY_PERIODS:
            await asyncio.sleep(0.01)
        assert served() == str(run_folder / "first")

    asyncio.run(asyncio.wait_for(run(), 60))
    assert "refused" not in send_request(replica, "/info")[2]


def test_a_refused_checkpoint_is_tried_again_after_growing_times(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In flushes of the metrics, since each try may be a download; a new user_config is tried as the first one."""
    monkeypatch.setattr(app, "FLUSH_PERIOD_S", 0.001)
    monkeypatch.setattr(app, "MAX_RELOAD_RETRY_PERIODS", 20)
    replica = make_replica({"checkpoint": str(run_folder)})
    flushes: list[object] = []
    tries: list[int] = []
    monkeypatch.setattr(replica.metrics, "flush", lambda models, pool: flushes.append(models))

    def record_try(*arguments: Any) -> ServedModels:
        tries.append(len(flushes))
        return load_models(*arguments)

    monkeypatch.setattr(app, "load_models", record_try)

    async def run() -> None:
        for _ in range(2):
            tries.clear()
            flushes.clear()
            await replica.reconfigure({"checkpoint": str(tmp_path)})
            while len(tries) < 5:
                await asyncio.sleep(0.001)
            gaps = [later - earlier for earlier, later in pairwise(tries)]
            assert (gaps[0] >= 5, gaps[1:]) == (True, [10, 20, 20])

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_retry_leaves_the_refusals_of_further_models(run_folder: Path, tmp_path: Path) -> None:
    """They have growing times of their own; a new user_config is tried at once."""
    config = {"checkpoint": str(run_folder), "candidate": {"checkpoint": str(tmp_path), "weight": 0.5}}
    replica = make_replica(config | {"models": {"late": str(tmp_path / "late")}})
    assert send_request(replica, "/models/late/predict", BODY)[0] == 503
    shutil.copytree(run_folder / "first", tmp_path / "late")
    asyncio.run(replica._export_once(retry=True))
    assert send_request(replica, "/models/late/predict", BODY)[0] == 503
    configure(replica, replica._user_config)
    assert send_request(replica, "/models/late/predict", BODY)[0] == 200


def test_a_candidate_responds_to_its_share(run_folder: Path) -> None:
    """A header names the model; a shadow sends no response, and its agreement is counted."""
    first, second = (
        send_request(make_replica({"checkpoint": str(run_folder / name)}), "/predict", BODY)[2]
        for name in ("first", "second")
    )
    candidate = {"checkpoint": str(run_folder / "second"), "weight": 0.5}
    replica = make_replica({"checkpoint": str(run_folder / "first"), "candidate": candidate})
    responses = [send_request(replica, "/predict", BODY) for _ in range(60)]
    by_name = {headers["x-checkpoint"]: labels for _, headers, labels in responses}
    info = send_request(replica, "/info")[2]
    assert by_name == {info["name"]: first, info["candidate"]["name"]: second}
    assert list(info["candidate"])[:2] == ["weight", "shadow"]

    shadow = candidate | {"weight": 1, "shadow": True}
    configure(replica, {"checkpoint": str(run_folder / "first"), "candidate": shadow})
    assert all(send_request(replica, "/predict", BODY)[2] == first for _ in range(5))
    assert replica.models is not None
    assert replica.models.candidate is not None
    counters = replica.models.candidate.counters
    assert counters.shadow_texts == 5
    assert counters.shadow_agreements == (5 if first[0]["label"] == second[0]["label"] else 0)


def test_abstention_uses_the_threshold_of_the_checkpoint_that_responds(
    replica: Replica, run_folder: Path, tmp_path: Path
) -> None:
    """A checkpoint of an earlier version has none, which is an error with the reason."""
    content = json.dumps({"inputs": "word1 word2", "abstain": True}).encode()
    status, _, response = send_request(replica, "/predict", content)
    assert (status, "has no thresholds of abstention" in response["error"]) == (409, True)
    scores = send_request(replica, "/predict", BODY)[2]
    best = scores[0]["score"]
    for threshold, label in ((best - 1e-6, scores[0]["label"]), (best + 1e-6, None)):
        name = f"c{label}"
        metrics = {"epoch": 1, "abstention": {"thresholds": {"retention": threshold}}}
        save_checkpoint(tmp_path / name, replace(load_checkpoint(str(run_folder / "first")), metrics=metrics))
        other = make_replica({"checkpoint": str(tmp_path / name)})
        assert send_request(other, "/predict", content)[2] == {"label": label, "scores": scores}
        assert send_request(other, "/", content)[2] == [{"label": label, "scores": scores}]
        assert send_request(other, "/predict", BODY)[2] == scores


@pytest.mark.slow
def test_responses_match_the_openapi_description(run_folder: Path, tmp_path: Path) -> None:
    """schemathesis sends what the description allows and forbids, also to a further model.

    Without its stateful phase, which takes `POST /models/NAME` for the creation of what `/models/NAME/info` returns.
    """
    metrics = {"epoch": 1, "abstention": {"thresholds": {"retention": 0.5, "precision": None}}}
    save_checkpoint(tmp_path / "c", replace(load_checkpoint(str(run_folder / "first")), metrics=metrics))
    models = {"second": str(run_folder / "second")}
    with serve_replica(make_replica({"checkpoint": str(tmp_path / "c"), "models": models})) as url:
        command = [str(Path(sys.executable).parent / "st"), "run", f"{url}/openapi.json", "--checks", "all",
                   "--phases", "examples,coverage,fuzzing", "--max-examples", "25", "--seed", "1", "--no-color",
                   "--workers", "1"]  # fmt: skip
        process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert process.returncode == 0, process.stdout[-4000:]
    assert "9 selected" in process.stdout


def test_head_has_the_headers_of_get_and_no_body(replica: Replica) -> None:
    """Health checks of load balancers send HEAD."""
    with serve_replica(replica) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        for path in ("/", "/health", "/info", "/openapi.json"):
            headers = []
            for method in ("GET", "HEAD"):
                connection.request(method, path)
                response = connection.getresponse()
                assert response.status == 200
                assert bool(response.read()) == (method == "GET")
                headers.append((response.headers["content-length"], response.headers["content-type"]))
            assert headers[0] == headers[1]
        connection.close()


def test_a_gzip_body_is_decoded(replica: Replica) -> None:
    """Other encodings, damaged bodies and bodies that swell beyond the limit are refused with a reason."""
    expected = send_request(replica, "/predict", BODY)[2]

    def send(body: bytes, encoding: str) -> tuple[int, str]:
        status, _, response = send_request(replica, "/predict", body, **{"content-encoding": encoding})
        return status, response if status == 200 else response["error"]

    assert send(gzip.compress(BODY), "gzip") == (200, expected)
    assert send(BODY, "identity") == (200, expected)
    for body, encoding, status, message in (
        (b"\x1b\x00", "br", 415, "br is not supported; send gzip"),
        (b"\x1f\x8b damaged", "gzip", 400, "not valid gzip"),
        (gzip.compress(BODY)[:-3], "gzip", 400, "cut off"),
        (gzip.compress(b" " * 100_000), "gzip", 413, "decoded body is longer than 1000 bytes"),
    ):
        actual, reason = send(body, encoding)
        assert actual == status
        assert message in reason


def test_headers_name_the_checkpoint_and_the_share_of_unknown_words(replica: Replica) -> None:
    """For single texts and lists, and the checkpoint also in errors and pages; an empty text has no words."""
    name = send_request(replica, "/info")[2]["name"]
    for inputs, share in (
        ("word1 zzz qqq", "0.667"),
        ("", "0.000"),
        (["word1", "zzz", "ü"], "0.667"),
        ("zzz", "1.000"),
    ):
        for extra in ({}, {"parameters": {"top_k": 1}}):
            _, headers, _ = send_request(replica, "/predict", json.dumps({"inputs": inputs} | extra).encode())
            assert (headers["x-unknown-words"], headers["x-checkpoint"]) == (share, name)
    for path, body in (("/", None), ("/health", None), ("/predict", b"{"), ("/nothing", None)):
        assert send_request(replica, path, body)[1]["x-checkpoint"] == name


def test_metrics_are_exported_again_after_an_error(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is logged once, and a later flush exports what came after it."""
    monkeypatch.setattr(app, "FLUSH_PERIOD_S", 0.01)
    messages: list[str] = []
    monkeypatch.setattr(app.logger, "exception", lambda text, *_: messages.append(text))
    replica = make_replica({"checkpoint": str(run_folder)})
    flushes = 0

    def flush(models: object, pool: object) -> None:
        nonlocal flushes
        flushes += 1
        if flushes <= 3:
            raise OSError("no exporter")

    monkeypatch.setattr(replica.metrics, "flush", flush)

    async def run() -> None:
        await replica.reconfigure({"checkpoint": str(run_folder)})
        while flushes <= 5:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert messages == ["metrics cannot be exported; the next try is in %g s"]


def test_the_number_of_exported_series_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A series per label and role; checkpoints beyond the limit share a tag."""
    metrics = ReplicaMetrics()
    labels, texts, distances = MagicMock(), MagicMock(), MagicMock()
    monkeypatch.setattr(metrics._exported, "distances", distances)
    monkeypatch.setattr(metrics._exported, "labels", labels)
    monkeypatch.setitem(metrics._exported.sums, "texts", texts)
    for number in range(MAX_CHECKPOINT_TAGS + 5):
        counters = ModelCounters(2)
        counters.label_counts = [1, 2]
        metrics.flush([ModelCounts("primary", f"c-{number}", ["a", "b"], counters)])
        metrics.flush([ModelCounts(f"models/{number}", "c-0", ["a"], ModelCounters(1), Distances(1, {"labels": 0.5}))])
    roles = {call.args[1]["role"] for call in distances.set.call_args_list}
    assert len(roles) == MAX_ROLE_TAGS - 1  # and `primary`, which has no distance here
    series = {tuple(sorted(call.args[1].items())) for call in labels.inc.call_args_list}
    assert series == {(("label", label), ("role", "primary")) for label in "ab"}
    tags = {call.args[1]["checkpoint"] for call in texts.inc.call_args_list}
    assert len(tags) == MAX_CHECKPOINT_TAGS + 1
    assert OTHER in tags


def test_the_type_of_the_table_is_a_setting(run_folder: Path) -> None:
    """Scores with float32 are those of the network; with int16, the default, they differ a little."""
    body = b'{"inputs": "word1 word2", "parameters": {"function_to_apply": "none"}}'
    scores = []
    for arguments in ({}, {"table_dtype": "float32"}):
        replica = make_replica({"checkpoint": str(run_folder)}, **arguments)
        rows = send_request(replica, "/predict", body)[2]
        scores.append([score for _, score in sorted((row["label"], row["score"]) for row in rows)])
    exact = Classifier(load_checkpoint(str(run_folder)), table_dtype="float32").predict_logits(["word1 word2"])[0]
    assert scores[1] == pytest.approx(exact.tolist(), abs=1e-6)
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    with pytest.raises(ValidationError, match="table_dtype"):
        make_replica({"checkpoint": str(run_folder)}, table_dtype="int8")


def test_without_a_checkpoint_requests_are_answered_with_the_reason() -> None:
    """Serve does not configure a replica without a `user_config`."""
    replica = Replica(app.ApplicationArguments().model_dump())
    for path, body in (("/predict", BODY), ("/info", None)):
        status, _, response = send_request(replica, path, body)
        assert (status, response["error"]) == (
            503, "no checkpoint is configured: set args.checkpoint or user_config.checkpoint"
        )  # fmt: skip
    assert send_request(replica, "/health")[0] == 200


def test_texts_that_a_replaced_checkpoint_classified_are_counted(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those since the last flush."""
    first, second = (str(run_folder / name) for name in ("first", "second"))
    replica = make_replica({"checkpoint": first})
    counted: list[int] = []
    monkeypatch.setattr(
        replica.metrics, "flush",
        lambda models, pool: counted.extend(sum(counts.counters.label_counts) for counts in models),
    )  # fmt: skip
    for path in (second, second, first):
        send_request(replica, "/predict", BODY)
        configure(replica, {"checkpoint": path})
    asyncio.run(replica._export_once(retry=False))
    assert counted == [1, 2, 0]
