"""The service behind HAProxy on real Ray Serve, under load, while checkpoints, replicas and load change."""

import gzip
import json
import os
import random
import re
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import urllib3
from huggingface_hub import InferenceClient

from benchmarks.deployed_service import DeployedService, deploy_service
from benchmarks.load_generator import generate_load
from benchmarks.serving_scenarios import kill_replica
from cluster.package import REPOSITORY
from jobs.config.text_distribution import count_distribution
from jobs.model.checkpoint import load_checkpoint, save_checkpoint
from serving.client import Client, ServiceError
from serving.deployment import verification
from serving.deployment.configurations import DeploymentError
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA
from tests.support.malformed_requests import make_malformed_request, send_bytes
from tests.support.services import call, run_service
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# The tests may run in any order. In this one the number of replicas rarely changes, which takes seconds.

BODY = b'{"inputs": "word1 word2 word3"}'
# Some milliseconds of work; both are less than 64 KiB and arrive in one piece.
LONG_BODY = json.dumps({"inputs": ["word1 " * 200] * 30}).encode()
EXPLAIN_BODY = json.dumps({"inputs": ["word1 " * 500] * 16, "explain": True}).encode()  # takes milliseconds
QUEUE_LIMITS = {"max_ongoing_requests": 64, "max_queued_requests": 256}


@pytest.fixture(scope="module")
def service(run_folder: Path) -> Iterator[DeployedService]:
    with deploy_service(str(run_folder / "first")) as deployed:
        with urllib.request.urlopen(deployed.metrics_url, timeout=30) as response:
            assert b"haproxy_" in response.read()
        yield deployed


def reset(service: DeployedService, run_folder: Path, **options: object) -> None:
    """Deploy the first checkpoint with one replica, whatever an earlier test left, and wait until it runs."""
    defaults = {"user_config": {"checkpoint": str(run_folder / "first")}, "num_replicas": 1, **QUEUE_LIMITS}
    service.deploy(**(defaults | options))


def list_servers(service: DeployedService) -> set[str]:
    """Return the names of the replicas that HAProxy sends requests to."""
    with urllib.request.urlopen(service.metrics_url, timeout=30) as response:
        metrics = response.read().decode()
    return set(
        re.findall(r'^haproxy_server_status{[^}]*server="(SERVE_REPLICA_[^"]+)",state="UP"} 1', metrics, re.MULTILINE)
    )


def wait_for_two_servers(service: DeployedService, *, other_than: set[str]) -> set[str]:
    """Return the names of the replicas that HAProxy sends requests to, once there are two and not the given ones."""

    def find() -> set[str]:
        servers = list_servers(service)
        return servers if len(servers) == 2 and servers != other_than else set()

    return wait_for(find, "HAProxy to use two replicas", 60)


def deploy_refused(service: DeployedService, folder: Path, **options: object) -> str:
    """Deploy a folder without a checkpoint and return the error, after a shorter time-out than that of a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "CHECKPOINT_SWAP_TIMEOUT_S", 6)
        with pytest.raises(DeploymentError) as caught:
            service.deploy(user_config={"checkpoint": str(folder)}, **options)
    return str(caught.value)


def test_clients_of_hugging_face_work_unchanged(service: DeployedService) -> None:
    """InferenceClient, and requests of text-embeddings-inference's clients; each response has the request's id."""
    _, expected = call(service.url + "/predict", BODY)
    labels = InferenceClient(model=service.url).text_classification("word1 word2 word3", top_k=2)
    assert [(row.label, row.score) for row in labels] == [(row["label"], row["score"]) for row in expected[:2]]
    batch = {"inputs": [["word1 word2 word3"], ["word4"]], "raw_scores": False, "truncate": True}
    assert call(service.url + "/predict", json.dumps(batch).encode())[1][0] == expected
    request = urllib.request.Request(service.url + "/predict", BODY, {"X-Request-ID": "mine-5"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.headers["X-Request-ID"] == "mine-5"
    assert Client(service.url).classify(["word1 word2 word3"]) == [expected]
    with pytest.raises(ServiceError, match=r"422: parameters\.top_k"):
        Client(service.url).classify("word1", top_k=0)


def test_conventions_of_web_services_hold_behind_haproxy(service: DeployedService, run_folder: Path) -> None:
    """OPTIONS and CORS, gzip bodies, and further models; more of each is tested without Ray."""
    application, origin = service.configuration["applications"][0], "https://example.com"
    arguments = application["args"]
    url, models = service.url, {"second": str(run_folder / "second")}
    try:
        application["args"] = arguments | {"allowed_origins": [origin]}
        reset(service, run_folder, user_config={"checkpoint": str(run_folder / "first"), "models": models})
        preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        for path in ("/predict", "/models/second/predict"):
            response = send(url + path, "OPTIONS", preflight)
            assert (response.status, response.headers["access-control-allow-origin"]) == (200, origin)
            response = send(url + path, "POST", {"Origin": origin}, BODY)
            assert (response.status, response.headers["access-control-allow-origin"]) == (200, origin)
        assert send(url + "/predict", "OPTIONS", {}).headers["allow"] == "POST, OPTIONS"
        for body, encoding, status in (
            (gzip.compress(BODY), "gzip", 200), (gzip.compress(b" " * (64 << 20)), "gzip", 413),
            (b"\x1b\x00", "br", 415), (gzip.compress(BODY)[:-4], "gzip", 400),
        ):  # fmt: skip
            assert send(url + "/predict", "POST", {"Content-Encoding": encoding}, body).status == status
        client = Client(url, compress=True)
        texts = ["word1 word2 word3"] * 200
        assert client.classify(texts) == Client(url).classify(texts)
        assert client.models() == ["second"]
        assert client.info("second")["checkpoint"] == models["second"]
        labels = client.classify("word1 word2 word3", model="second")
        assert labels != client.classify("word1 word2 word3")
        with pytest.raises(ServiceError, match="404: no such model: third; the models are second"):
            client.classify("word1", model="third")
    finally:
        application["args"] = arguments


def send(url: str, method: str, headers: dict[str, str], body: bytes | None = None) -> urllib3.BaseHTTPResponse:
    return urllib3.request(method, url, headers=headers, body=body, timeout=30, retries=False)


def test_malformed_requests_do_no_harm(service: DeployedService, run_folder: Path) -> None:
    """10,000 malformed requests, and some that never end: no 5xx, the same process, memory does not grow."""
    reset(service, run_folder)
    [pid] = service.replica_pids()
    choose = random.Random(0)
    slow = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(40)]
    for number, connection in enumerate(slow):
        start = (b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\n{", b"POST /pre")[number % 2]
        connection.sendall(start)
    memory = []
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        for connection in slow:
            stack.enter_context(connection)
        for part in range(4):
            requests = [make_malformed_request(choose) for _ in range(2500)]
            responses = list(pool.map(lambda content: send_bytes(service.port, content), requests))
            statuses = Counter(response[9:12] for response in responses)
            assert not [status for status in statuses if status.startswith(b"5")], (part, statuses)
            assert statuses[b"400"] > 100, statuses
            assert statuses[b"422"] > 20, statuses  # these reached the application
            assert any(b"the body is longer than" in response for response in responses)
            assert sum(b'"phrases"' in response for response in responses) > 20
            memory.append(measure_memory(pid))
        assert call(service.url + "/predict", BODY)[0] == 200  # while the slow connections are still open
    assert service.replica_pids() == [pid]
    assert memory[-1] < 1.1 * memory[0] + (20 << 20)


def measure_memory(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_swap_fails_no_request_and_a_refused_one_changes_nothing(
    service: DeployedService, run_folder: Path, tmp_path: Path
) -> None:
    """The processes of the replicas stay the same."""
    reset(service, run_folder)
    first, second = str(run_folder / "first"), str(run_folder / "second")
    before = service.replica_pids()
    with generate_load(service.url + "/predict", BODY, 8) as load:
        service.deploy(user_config={"checkpoint": second})
        wait_for(lambda: service.all_replicas_serve(second), "the second checkpoint", 60)
        assert f"is refused and {second} is still served" in deploy_refused(service, tmp_path)
        assert service.all_replicas_serve(second)
        service.deploy(user_config={"checkpoint": first})
        wait_for(lambda: service.all_replicas_serve(first), "the first checkpoint", 60)
    assert not load.failed_responses()
    assert len(load.responses) > 50
    assert service.replica_pids() == before


def test_the_metrics_of_the_dashboard_and_the_alerts_are_exported(
    service: DeployedService, run_folder: Path, tmp_path: Path
) -> None:
    """Ray's endpoint exports all of them after requests to a service with a shadow and a further model."""
    checkpoint = load_checkpoint(str(run_folder / "first"))
    rows = np.arange(100)
    stored = count_distribution(rows % 3, rows / 100, rows % 9, rows % 2, 3)
    save_checkpoint(tmp_path / "c", replace(checkpoint, metrics={"epoch": 1, "distribution": stored}))
    monitored = str(tmp_path / "c")
    shadow = {"checkpoint": str(run_folder / "second"), "weight": 1, "shadow": True}
    reset(service, run_folder, user_config={"checkpoint": monitored, "candidate": shadow, "models": {"m": monitored}})
    wait_for(lambda: service.all_replicas_serve(monitored), "the checkpoint", 60)
    for path in ("/predict", "/models/m/predict"):
        assert call(service.url + path, b'{"inputs": "word1 never-seen"}')[0] == 200
    files = (REPOSITORY / "serving/dashboard.json", REPOSITORY / "serving/alerts.yaml")
    names = {name for file in files for name in re.findall(r"ray_\w+", file.read_text())}
    targets = Path(service.head.environment["RAY_TMPDIR"], "prom_metrics_service_discovery.json")

    def export() -> str:
        metrics = ""
        for target in json.loads(targets.read_text())[0]["targets"]:
            with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as response:
                metrics += response.read().decode()
        return metrics

    def list_missing() -> set[str]:
        metrics = export()
        return {name for name in names if f"\n{name}{{" not in metrics}

    wait_for(lambda: not list_missing(), "the metrics", 60)
    metrics = export()
    for expression in (
        r'ray_classifier_requests_total{[^}]*status="200"[^}]*} [1-9]',
        r'ray_classifier_labels_total{[^}]*label="[abc]"[^}]*role="models/m"[^}]*} [1-9]',
        r"ray_classifier_unknown_tokens_total{[^}]*} [1-9]",
        r'ray_classifier_distribution_distance{[^}]*part="unknown_words"[^}]*role="primary"[^}]*} 0\.[0-9]+',
        r'ray_classifier_distribution_texts{[^}]*role="models/m"[^}]*} 1',
        r"ray_classifier_models_open{[^}]*} 1",
    ):
        assert re.search(expression, metrics), expression
    # The tags that the expressions group and select by.
    for name, tags in (
        ("distribution_distance", "application deployment replica role part"),
        ("texts_total", "checkpoint"),
    ):
        [line] = [line for line in metrics.splitlines() if line.startswith(f"ray_classifier_{name}{{")][:1]
        assert all(f'{tag}="' in line for tag in tags.split())
    reset(service, run_folder)  # without a distribution: no texts
    without_texts = r'ray_classifier_distribution_texts{[^}]*role="primary"[^}]*} 0'
    wait_for(lambda: re.search(without_texts, export()), "a replica without a distribution", 60)


def test_our_client_loses_nothing_with_a_single_replica(service: DeployedService, run_folder: Path) -> None:
    """The client retries until the next replica runs."""
    reset(service, run_folder)
    client = Client(service.url)
    expected = client.classify("word1")
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_replica, service)
        while not killed.done():
            assert client.classify("word1") == expected
        killed.result()
    assert client.classify("word1") == expected


@pytest.mark.parametrize(("word", "ongoing", "queued"), [("wörd1 ", 1, 2), ("word1 ", 4, 8)])
def test_load_beyond_the_queue_is_shed(
    service: DeployedService, run_folder: Path, word: str, ongoing: int, queued: int
) -> None:
    """The response is 503 with Retry-After, although the replica is blocked: Ray counts the waiting requests."""
    reset(service, run_folder, max_ongoing_requests=ongoing, max_queued_requests=queued)
    body = json.dumps({"inputs": [word * 200] * 30}).encode()
    try:
        with generate_load(service.url + "/predict", body, 40) as load:
            wait_for(
                lambda: load.count_statuses()[200] > 50 and load.count_statuses()[503] > 20,
                "responses and rejections",
                60,
            )
        assert set(load.count_statuses()) == {200, 503}
        assert load.retry_after == {"1": load.count_statuses()[503]}
    finally:
        service.deploy(**QUEUE_LIMITS)


def test_haproxy_rejects_requests_beyond_the_limit_of_the_replica(service: DeployedService, run_folder: Path) -> None:
    """The response is the same 503 with Retry-After and a reason in JSON; the replica responds to the others."""
    reset(service, run_folder)
    # With a pause, since clients that repeat a rejected request at once take the cores that the replica needs.
    with generate_load(service.url + "/predict", EXPLAIN_BODY, MAX_REQUESTS_PER_REPLICA + 200, pause_s=1) as load:
        wait_for(
            lambda: load.count_statuses()[200] > MAX_REQUESTS_PER_REPLICA and load.count_statuses()[503] > 200,
            "responses and rejections",
            60,
        )
        status, response = call(service.url + "/predict", EXPLAIN_BODY)
        while status == 200:
            status, response = call(service.url + "/predict", EXPLAIN_BODY)
        assert (status, set(response)) == (503, {"error"})
        with urllib.request.urlopen(service.metrics_url, timeout=30) as metrics:
            sessions = re.findall(
                r'haproxy_server_max_sessions{proxy="http-classifier.*} (\d+)', metrics.read().decode()
            )
    assert set(load.count_statuses()) == {200, 503}
    assert load.retry_after == {"1": load.count_statuses()[503]}
    assert max(map(int, sessions)) <= MAX_REQUESTS_PER_REPLICA


def test_a_replica_that_starts_while_a_checkpoint_is_refused_serves_the_previous_one(
    service: DeployedService, run_folder: Path, tmp_path: Path
) -> None:
    """The replica never had another configuration than the refused one; no older replica needs to be left."""
    second = str(run_folder / "second")
    reset(service, run_folder, user_config={"checkpoint": second})
    assert f"is refused and {second} is still served" in deploy_refused(service, tmp_path, num_replicas=2)
    wait_for(lambda: len(service.replica_pids()) == 2, "two replicas", 60)
    assert service.all_replicas_serve(second)
    before = service.replica_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: len(service.replica_pids()) == 2 and not set(before) & set(service.replica_pids()),
        "the expected state",
        60,
    )
    assert service.all_replicas_serve(second)
    assert "refused" in service.info()
    service.delete()
    with pytest.raises(DeploymentError, match="DEPLOY_FAILED"):  # a new service has no previous checkpoint
        service.deploy(num_replicas=1, user_config={"checkpoint": str(tmp_path)})
    reset(service, run_folder)


def test_a_rolling_update_fails_no_request(service: DeployedService, run_folder: Path) -> None:
    """New processes replace the old ones."""
    reset(service, run_folder, num_replicas=2)
    before = service.replica_pids()
    cpus = service.deployment["ray_actor_options"]["num_cpus"]
    with generate_load(service.url + "/predict", BODY, 8) as load:
        service.deploy(ray_actor_options={"num_cpus": cpus + 0.01})
        wait_for(lambda: not set(before) & set(service.replica_pids()), "new replicas", 60)
        time.sleep(1)
    assert not load.failed_responses()


def test_an_idle_connection_is_not_left_with_the_replaced_haproxy(service: DeployedService, run_folder: Path) -> None:
    """It is closed soon after a rollout, and clients open another one; Ray's default leaves it open for two minutes."""
    reset(service, run_folder)
    client = Client(service.url, retry_timeout_s=0)
    expected = client.classify("word1")
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        response = b""
        while not response.endswith(b'{"status": "ok"}'):  # head and body may arrive separately
            received = connection.recv(1 << 16)
            assert received, response
            response += received
        assert response.startswith(b"HTTP/1.1 200")
        before = service.replica_pids()
        service.deploy(ray_actor_options={"num_cpus": service.deployment["ray_actor_options"]["num_cpus"] + 0.02})
        wait_for(lambda: not set(before) & set(service.replica_pids()), "new replicas", 60)
        connection.settimeout(25)
        assert connection.recv(1 << 16) == b""  # closed by HAProxy, without a response
    time.sleep(1)  # until the process, whose end closes one connection after the other, has closed the client's too
    assert client.classify("word1") == expected  # on the connection of the first request, if it were still open


def test_killed_replicas_fail_no_request_while_another_runs(service: DeployedService, run_folder: Path) -> None:
    """kill -9 under load, with a client that does not retry.

    Except for at most one response per kill that was being sent: its head has reached the client already, before the
    web server wrote the body, and no proxy can repeat the request then.
    """
    reset(service, run_folder, num_replicas=2)
    kills = 3
    with generate_load(service.url + "/predict", BODY, 8) as load:
        for _ in range(kills):
            # HAProxy learns of new replicas later than Serve: without a second one, it would have none after the kill.
            before = wait_for_two_servers(service, other_than=set())
            kill_replica(service)
            wait_for_two_servers(service, other_than=before)
    cut_off = [failure for failure in load.failed_responses() if failure[2] == "ClientPayloadError"]
    assert load.failed_responses() == cut_off
    assert len(cut_off) <= kills
    assert len(load.responses) > 50


def test_the_number_of_replicas_follows_the_load(service: DeployedService, run_folder: Path) -> None:
    """There are more replicas while many requests wait, and one again when few do; no request fails."""
    reset(service, run_folder)
    service.deploy(autoscaling_config=service.autoscaling_config | {"downscale_delay_s": 3})
    with generate_load(service.url + "/predict", LONG_BODY, 64) as load:
        wait_for(lambda: len(service.replica_pids()) > 1, "a second replica", 60)
        load.connections = 2
        wait_for(lambda: len(service.replica_pids()) == 1, "a single replica", 60)
    assert not load.failed_responses()


def test_a_first_request_without_a_replica_is_answered(service: DeployedService) -> None:
    """It waits until a replica has started; without requests the replica ends again."""
    scaling = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 2, "target_ongoing_requests": 1,
               "upscale_delay_s": 0.5, "downscale_delay_s": 1, "look_back_period_s": 1,
               "metrics_interval_s": 0.5}  # fmt: skip
    service.deploy(autoscaling_config=scaling)
    wait_for(service.has_no_replicas, "the end of all replicas", 60)
    assert call(service.url + "/predict", BODY)[0] == 200
    assert service.replica_pids()


def test_run_uses_haproxy_in_the_ray_that_it_starts(run_folder: Path, ray_environment: dict[str, str]) -> None:
    """HAProxy's files are removed at the end."""
    with run_service(run_folder / "first", ray_environment) as url:
        assert call(url + "/predict", BODY)[0] == 200
        port = url.rpartition(":")[2]
        [folder] = [path for path in Path("/tmp").glob("serving-*/*/haproxy.cfg") if f":{port}\n" in path.read_text()]
    assert not folder.exists()
