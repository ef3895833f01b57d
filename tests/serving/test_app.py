"""What the application answers, whatever it is asked."""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cluster.package import REPOSITORY
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from serving import app
from serving.web import api_keys as keys
from serving.web import body as bodies
from serving.web.admission import AdmissionQueue
from tests.serving.asgi_client import configure, make_replica, send_request, serve_replica
from tests.support.checkpoints import checkpoint_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a best.json and two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "first", checkpoint_of("non-static"))
    save_checkpoint(folder / "second", checkpoint_of("multichannel"))
    (folder / "best.json").write_text(json.dumps({"checkpoint": "first"}))
    return folder


@pytest.fixture(scope="module")
def made(saved: Path) -> app.Replica:
    return make_replica({"checkpoint": str(saved)}, limits={"max_body_bytes": 1000})


ONE = b'{"inputs": "word1 word2"}'


def test_scores_are_those_of_the_checkpoint(made: app.Replica, saved: Path) -> None:
    """On both paths, for one text and for lists."""
    texts = ["word1 word2", "", "\u00fcber"]
    expected = Classifier(load_checkpoint(str(saved))).predict_logits(texts)
    body = json.dumps({"inputs": texts, "parameters": {"function_to_apply": "none"}}).encode()
    for path in ("/", "/predict"):
        status, headers, found = send_request(made, path, body)
        assert (status, headers["content-type"]) == (200, "application/json")
        for rows, scores in zip(found, expected, strict=True):
            assert [np.float32(row["score"]) for row in rows] == sorted(scores, reverse=True)
            assert {row["label"]: row["score"] for row in rows} == pytest.approx(
                dict(zip("abc", map(float, scores), strict=True)), abs=1e-5
            )
    assert send_request(made, "/", ONE)[2] == [send_request(made, "/predict", ONE)[2]]
    assert send_request(made, "/predict/", ONE)[2] == send_request(made, "/predict", ONE)[2]


def test_info_says_what_it_serves(made: app.Replica, saved: Path) -> None:
    """Labels, figures, where the checkpoint lies and which it is, and the limits."""
    _, _, info = send_request(made, "/info")
    assert (info["labels"], info["metrics"], info["vocabulary"]) == (["a", "b", "c"], {"epoch": 1}, 200)
    assert info["checkpoint"] == str(saved / "first")
    assert len(info["manifest"]) == 64
    assert info["limits"]["max_body_bytes"] == 1000
    assert send_request(made, "/health")[2] == {"status": "ok"}


@pytest.mark.parametrize(
    ("path", "body", "method", "status", "message"),
    [
        ("/predict", b"{", None, 400, "not valid JSON"),
        ("/predict", b'{"inputs": 5}', None, 422, "inputs"),
        ("/predict", ONE + b" " * 1000, None, 413, "longer than 1000 bytes"),
        ("/predict", [b"x" * 600, b"x" * 600, b""], None, 408, "did not arrive"),
        ("/predict", [], None, 408, "did not arrive"),
        ("/predict", None, None, 405, "/predict takes POST"),
        ("/info", b"{}", None, 405, "/info takes GET"),
        ("/", b"", "DELETE", 405, "/ takes GET and POST"),
        ("/other/", ONE, None, 404, "there is no /other; there are /, /predict"),
        ("/%00\ud800" * 100, ONE, None, 404, "there is no"),
    ],
)
def test_what_cannot_be_answered_is_told(
    made: app.Replica, path: str, body: bytes, method: str, status: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a 4xx with a reason in JSON."""
    monkeypatch.setattr(bodies, "TIMEOUT_S", 0.1)
    found, headers, answer = send_request(made, path, body, method)
    assert found == status
    assert message in answer["error"]
    assert ("allow" in headers) == (status == 405)
    if path == "/predict" and status != 405:
        assert str(status) in send_request(made, "/openapi.json")[2]["paths"]["/predict"]["post"]["responses"]


def test_a_body_in_pieces_is_read_whole(made: app.Replica) -> None:
    """As slow or long ones come."""

    class Ends(list):
        """Pieces of which the last says so."""

    pieces = Ends([ONE[:5], ONE[5:9], ONE[9:]])
    with serve_replica(made) as url:
        import http.client

        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        connection.request("POST", "/predict", iter(pieces), encode_chunked=True,
                           headers={"Transfer-Encoding": "chunked"})  # fmt: skip
        assert json.loads(connection.getresponse().read()) == send_request(made, "/predict", ONE)[2]
        connection.request("POST", "/predict", b"x" * 5000)
        assert connection.getresponse().status == 413


def test_a_body_that_comes_late_is_read_and_one_that_never_comes_ends_the_connection(
    made: app.Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a web server alone before the replica: whole after the headers, in pieces, or not at all."""
    monkeypatch.setattr(bodies, "TIMEOUT_S", 1)
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(ONE)
    with serve_replica(made) as url:

        def sent(*parts: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as connection:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(0.1)
                found = b""
                while (b"\r\n\r\n" not in found or b"408" in found) and (chunk := connection.recv(1 << 16)):
                    found += chunk
                return found

        for parts in ((ONE,), (ONE[:7], ONE[7:])):
            assert sent(head, *parts).startswith(b"HTTP/1.1 200")
        for parts in ((), (ONE[:7],)):
            assert sent(head, *parts).startswith(b"HTTP/1.1 408")


def test_a_key_opens_all_but_the_page_and_the_description(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else does."""
    key = "a key of 20 letters".replace(" ", "-")
    monkeypatch.setenv(keys.KEYS_VARIABLE, key)
    made = make_replica({"checkpoint": str(saved)})
    for path, body in (("/predict", ONE), ("/", ONE), ("/info", None)):
        assert send_request(made, path, body)[0] == 401
        status, headers, _ = send_request(made, path, body, authorization="Bearer wrong")
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert send_request(made, path, body, authorization=f"Bearer {key}")[0] == 200
    for path in ("/", "/health", "/openapi.json"):
        assert send_request(made, path)[0] == 200
    assert "security" in send_request(made, "/openapi.json")[2]["paths"]["/predict"]["post"]


def test_no_torch_in_the_whole_replica(saved: Path) -> None:
    """From the import of the application to an answer; Ray brings none either."""
    script = (
        "import asyncio, json, sys\n"
        "from serving.app import ApplicationArguments, Replica\n"
        "async def main():\n"
        "    made = Replica(ApplicationArguments().model_dump())\n"
        f"    await made.reconfigure({{'checkpoint': {str(saved)!r}}})\n"
        "    async def receive():\n"
        f"        return {{'type': 'http.request', 'body': {ONE!r}}}\n"
        "    async def send(message):\n"
        "        print(message.get('status') or len(json.loads(message['body'])))\n"
        "    scope = {'type': 'http', 'method': 'POST', 'path': '/predict', 'headers': []}\n"
        "    await made.__serve_build_asgi_app__()(scope, receive, send)\n"
        "    made.stop_reporting()\n"
        "asyncio.run(main())\n"
        "print({'torch', 'gensim', 'sklearn', 'jobs.training.loop'} & set(sys.modules))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout == "200\n3\nset()\n"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_plain_question_is_counted_once(saved: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """Whether it is answered at once or in its turn: a status, a wait, a text and its time."""
    monkeypatch.setattr(AdmissionQueue, "try_admit", lambda turn: at_once)
    made = make_replica({"checkpoint": str(saved)})
    found = send_request(made, "/predict", ONE)
    assert found[0] == 200
    assert (made.metrics._statuses, len(made.metrics._waits)) == ({200: 1}, 1)
    assert made.models is not None
    tally = made.models.primary.take_counters()
    assert (sum(tally.label_counts), len(tally.latencies_s)) == (1, 1)
    assert send_request(made, "/predict", ONE.replace(b'"word', b'"\\u0077ord'))[2] == found[2]  # on the ordinary road


def test_a_refused_swap_leaves_the_old_one_serving(saved: Path, tmp_path: Path) -> None:
    """Whatever is wrong with it; /info says what, until one is taken."""
    made = make_replica({"checkpoint": str(saved)})
    before = send_request(made, "/predict", ONE)[2]
    shutil.copytree(saved / "second", tmp_path / "altered")
    (tmp_path / "altered" / "labels.json").write_text('["x", "y", "z"]')
    for wrong, reason in (
        ({"checkpoint": str(tmp_path / "altered")}, "not what the manifest says"),
        ({"checkpoint": str(tmp_path)}, "holds neither a checkpoint"),
        ({"checkpoint": str(saved), "candidate": {"checkpoint": "x"}}, "candidate.weight"),
        ({}, "checkpoint: Field required"),
    ):
        configure(made, wrong)
        assert reason in send_request(made, "/info")[2]["refused"]
        assert send_request(made, "/predict", ONE)[2] == before
    configure(made, {"checkpoint": str(saved / "second")})
    assert "refused" not in send_request(made, "/info")[2]
    assert send_request(made, "/predict", ONE)[2] != before


def test_a_refused_checkpoint_is_served_once_it_is_mended(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve does not ask again for what it has asked for already; and what is asked for meanwhile is not undone."""
    monkeypatch.setattr(app, "FLUSH_PERIOD_S", 0.01)
    made = make_replica({"checkpoint": str(saved)})
    late = tmp_path / "late"

    async def run() -> None:
        await made.reconfigure({"checkpoint": str(late)})
        assert made.models.primary.info["checkpoint"] == str(saved / "first")
        shutil.copytree(saved / "second", late)
        while made.models.primary.info["checkpoint"] != str(late):
            await asyncio.sleep(0.01)
        await made.reconfigure({"checkpoint": str(saved / "first")})
        await asyncio.sleep(0.2)
        assert made.models.primary.info["checkpoint"] == str(saved / "first")
        made.stop_reporting()

    asyncio.run(asyncio.wait_for(run(), 30))
    assert "refused" not in send_request(made, "/info")[2]


def test_a_candidate_answers_its_share(saved: Path) -> None:
    """The answer says which; as a shadow it answers nothing, and is counted."""
    first, second = (
        send_request(make_replica({"checkpoint": str(saved / name)}), "/predict", ONE)[2]
        for name in ("first", "second")
    )
    candidate = {"checkpoint": str(saved / "second"), "weight": 0.5}
    made = make_replica({"checkpoint": str(saved / "first"), "candidate": candidate})
    answers = [send_request(made, "/predict", ONE) for _ in range(60)]
    by_name = {headers["x-checkpoint"]: found for _, headers, found in answers}
    info = send_request(made, "/info")[2]
    assert by_name == {info["name"]: first, info["candidate"]["name"]: second}

    configure(made, {"checkpoint": str(saved / "first"), "candidate": candidate | {"weight": 1, "shadow": True}})
    assert all(send_request(made, "/predict", ONE)[2] == first for _ in range(5))
    tally = made.models.candidate.counters
    assert tally.shadow_texts == 5
    assert tally.shadow_agreements == (5 if first[0]["label"] == second[0]["label"] else 0)


@pytest.mark.slow
def test_the_description_is_true(saved: Path, tmp_path: Path) -> None:
    """schemathesis asks whatever the description allows and forbids, and finds each answer described."""
    with serve_replica(make_replica({"checkpoint": str(saved)})) as url:
        command = [str(Path(sys.executable).parent / "st"), "run", f"{url}/openapi.json", "--checks", "all",
                   "--max-examples", "25", "--seed", "1", "--no-color", "--workers", "1"]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "5 selected" in done.stdout
