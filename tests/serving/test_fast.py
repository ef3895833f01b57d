"""The fast configuration on real Ray Serve: HAProxy before the replicas, under load, while things change."""

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
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient

from benchmarks.deployed_service import DeployedService, deploy_service, wait_until
from benchmarks.load_generator import generate_load
from benchmarks.ray_head import RayHead
from benchmarks.serving_scenarios import kill_replica
from cluster.package import REPOSITORY
from jobs.model.checkpoint import save_checkpoint
from serving.client import Client, ServiceError
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA
from serving.deployment.server import DeploymentError
from tests.serving.malformed_requests import make_malformed_request, send_bytes
from tests.support.checkpoints import checkpoint_of
from tests.support.http import call, serving

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ONE = b'{"inputs": "word1 word2 word3"}'


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "first", checkpoint_of("non-static"))
    save_checkpoint(folder / "second", checkpoint_of("multichannel"))
    return folder


@pytest.fixture(scope="module")
def service(saved: Path) -> Iterator[DeployedService]:
    with deploy_service(str(saved / "first")) as made:
        with urllib.request.urlopen(made.metrics_url, timeout=30) as response:
            assert b"haproxy_" in response.read()
        yield made


def test_the_clients_of_hugging_face_work_unchanged(service: DeployedService) -> None:
    """InferenceClient, and what text-embeddings-inference's clients send; each answer has the request's id."""
    _, expected = call(service.url + "/predict", ONE)
    found = InferenceClient(model=service.url).text_classification("word1 word2 word3", top_k=2)
    assert [(each.label, each.score) for each in found] == [(each["label"], each["score"]) for each in expected[:2]]
    tei = {"inputs": [["word1 word2 word3"], ["word4"]], "raw_scores": False, "truncate": True}
    assert call(service.url + "/predict", json.dumps(tei).encode())[1][0] == expected
    request = urllib.request.Request(service.url + "/predict", ONE, {"X-Request-ID": "mine-5"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.headers["X-Request-ID"] == "mine-5"
    assert Client(service.url).classify(["word1 word2 word3"]) == [expected]
    with pytest.raises(ServiceError, match=r"422: parameters\.top_k"):
        Client(service.url).classify("word1", top_k=0)


def test_nothing_that_is_sent_breaks_it(service: DeployedService) -> None:
    """10,000 malformed requests, and some that begin and never go on: no 5xx, the same process, no growing memory."""
    [pid] = service.replica_pids()
    choose = random.Random(0)
    slow = [socket.create_connection(("127.0.0.1", service.port), timeout=30) for _ in range(40)]
    for number, each in enumerate(slow):
        each.sendall((b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 90\r\n\r\n{", b"POST /pre")[number % 2])
    memory = []
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        for each in slow:
            stack.enter_context(each)
        for part in range(4):
            requests = [make_malformed_request(choose) for _ in range(2500)]
            answers = list(pool.map(lambda content: send_bytes(service.port, content), requests))
            statuses = Counter(answer[9:12] for answer in answers)
            assert not [status for status in statuses if status.startswith(b"5")], (part, statuses)
            assert statuses[b"400"] > 100, statuses
            assert statuses[b"422"] > 20, statuses  # so many reached the application
            assert any(b"the body is longer than" in answer for answer in answers)
            assert sum(b'"phrases"' in answer for answer in answers) > 20
            memory.append(resident(pid))
        assert call(service.url + "/predict", ONE)[0] == 200  # while the slow ones still hold their connections
    assert service.replica_pids() == [pid]
    assert memory[-1] < 1.1 * memory[0] + (20 << 20)


def resident(pid: int) -> int:
    """Return a process's memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_swap_fails_no_request_and_a_bad_one_changes_nothing(
    service: DeployedService, saved: Path, tmp_path: Path
) -> None:
    """In place: the same processes before and after."""
    first, second = str(saved / "first"), str(saved / "second")
    before = service.replica_pids()
    with generate_load(service.url + "/predict", ONE, 8) as running:
        service.deploy(user_config={"checkpoint": second})
        wait_until(lambda: service.all_replicas_serve(second))
        with pytest.raises(DeploymentError, match=r"refused, and .*second is served as before"):
            service.deploy(user_config={"checkpoint": str(tmp_path)})
        assert service.all_replicas_serve(second)
        service.deploy(user_config={"checkpoint": first})
        wait_until(lambda: service.all_replicas_serve(first))
    assert not running.failed_responses()
    assert len(running.responses) > 50
    assert service.replica_pids() == before


def test_a_replica_that_starts_while_a_checkpoint_is_refused_serves_the_one_before(
    service: DeployedService, saved: Path, tmp_path: Path
) -> None:
    """It has never seen another one than the refused; and so does the next, where nobody is left who has."""
    second = str(saved / "second")
    service.deploy(user_config={"checkpoint": second})
    for replicas in (1, 2):
        with pytest.raises(DeploymentError, match="refused"):
            service.deploy(user_config={"checkpoint": str(tmp_path)}, num_replicas=replicas)
    wait_until(lambda: len(service.replica_pids()) == 2)
    assert service.all_replicas_serve(second)
    before = service.replica_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(service.replica_pids()) == 2 and not set(before) & set(service.replica_pids()))
    assert service.all_replicas_serve(second)
    assert "refused" in service.info()
    service.delete()
    with pytest.raises(DeploymentError, match="DEPLOY_FAILED"):  # a new service has none before
        service.deploy()
    service.deploy(user_config={"checkpoint": str(saved / "first")}, num_replicas=1)


def test_a_rolling_redeployment_fails_no_request(service: DeployedService) -> None:
    """New processes take over from old ones."""
    service.deploy(num_replicas=2)
    before = service.replica_pids()
    with generate_load(service.url + "/predict", ONE, 8) as running:
        service.deploy(ray_actor_options={"num_cpus": 0.11})
        wait_until(lambda: not set(before) & set(service.replica_pids()))
        time.sleep(1)
    assert not running.failed_responses()


def test_killed_replicas_fail_no_request_while_another_runs(service: DeployedService) -> None:
    """kill -9 under load, seen by a client that never tries again.

    But one a kill at most whose answer was being sent: its head is with the client already, between the web server's
    write of that and of the body, and no proxy can send the request again.
    """
    service.deploy(num_replicas=2)
    kills = 3
    with generate_load(service.url + "/predict", ONE, 8) as running:
        for _ in range(kills):
            kill_replica(service)
    cut_off = [failure for failure in running.failed_responses() if failure[2] == "ClientPayloadError"]
    assert running.failed_responses() == cut_off
    assert len(cut_off) <= kills
    assert len(running.responses) > 50


def test_what_the_dashboard_draws_is_exported(service: DeployedService) -> None:
    """Where Ray exports its metrics: requests, labels, unknown words, confidence and times."""
    call(service.url + "/predict", b'{"inputs": "word1 never-seen"}')
    drawn = set(re.findall(r"ray_\w+", (REPOSITORY / "serving/dashboard.json").read_text()))
    drawn -= {name for name in drawn if "shadow" in name}  # there is no shadow here
    targets = Path(service.head.environment["RAY_TMPDIR"], "prom_metrics_service_discovery.json")

    def exported() -> str:
        found = ""
        for target in json.loads(targets.read_text())[0]["targets"]:
            with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as response:
                found += response.read().decode()
        return found

    def missing() -> set[str]:
        text = exported()
        return {name for name in drawn if f"\n{name}{{" not in text}

    wait_until(lambda: not missing())
    text = exported()
    assert re.search(r'ray_classifier_requests_total{[^}]*status="200"[^}]*} [1-9]', text)
    assert re.search(r'ray_classifier_labels_total{[^}]*label="[abc]"[^}]*} [1-9]', text)
    assert re.search(r"ray_classifier_unknown_tokens_total{[^}]*} [1-9]", text)


def test_our_client_loses_nothing_with_one_replica(service: DeployedService) -> None:
    """It waits for the next one."""
    service.deploy(num_replicas=1)
    client = Client(service.url)
    expected = client.classify("word1")
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_replica, service)
        while not killed.done():
            assert client.classify("word1") == expected
        killed.result()
    assert client.classify("word1") == expected


def test_load_beyond_the_queue_is_shed_with_a_time_to_wait(service: DeployedService) -> None:
    """As 503 with Retry-After; the rest is answered."""
    body = json.dumps({"inputs": ["wörd1 " * 200] * 100}).encode()
    service.deploy(num_replicas=1, max_ongoing_requests=1, max_queued_requests=2)
    try:
        with generate_load(service.url + "/predict", body, 30) as running:
            wait_until(lambda: running.count_statuses()[200] > 5 and running.count_statuses()[503] > 20)
        assert set(running.count_statuses()) == {200, 503}
        assert running.retry_after == {"1": running.count_statuses()[503]}
    finally:
        service.deploy(max_ongoing_requests=64, max_queued_requests=256)


def test_what_no_replica_can_hold_waits_in_haproxy_and_is_turned_away(service: DeployedService) -> None:
    """With the same 503 and Retry-After, and a reason in JSON; the replica is not asked, and answers the rest."""
    service.deploy(num_replicas=1)
    body = json.dumps({"inputs": ["word1 " * 500] * 16, "explain": True}).encode()  # takes some milliseconds
    assert len(body) < 64 << 10  # comes in one piece
    with generate_load(service.url + "/predict", body, MAX_REQUESTS_PER_REPLICA + 200) as running:
        wait_until(
            lambda: running.count_statuses()[200] > MAX_REQUESTS_PER_REPLICA and running.count_statuses()[503] > 200
        )
        status, answer = call(service.url + "/predict", body)
        while status == 200:
            status, answer = call(service.url + "/predict", body)
        assert (status, set(answer)) == (503, {"error"})
        with urllib.request.urlopen(service.metrics_url, timeout=30) as response:
            figures = re.findall(
                r'haproxy_server_max_sessions{proxy="http-classifier.*} (\d+)', response.read().decode()
            )
    assert set(running.count_statuses()) == {200, 503}
    assert running.retry_after == {"1": running.count_statuses()[503]}
    assert max(map(int, figures)) <= MAX_REQUESTS_PER_REPLICA


def test_load_is_shed_whatever_the_replica_is_busy_with(service: DeployedService) -> None:
    """Ray counts the requests that wait, though classifying one does not give way to the others."""
    service.deploy(num_replicas=1, max_ongoing_requests=4, max_queued_requests=8)
    body = json.dumps({"inputs": ["word1 " * 200] * 30}).encode()
    assert len(body) < 64 << 10  # comes in one piece
    try:
        with generate_load(service.url + "/predict", body, 40) as running:
            wait_until(lambda: running.count_statuses()[200] > 100)
        assert set(running.count_statuses()) == {200, 503}
    finally:
        service.deploy(max_ongoing_requests=64, max_queued_requests=256)


def test_replicas_follow_a_load_that_rises_and_falls(service: DeployedService) -> None:
    """More of them while many requests wait, and one again when few do; none fails."""
    service.deploy(autoscaling_config=service.autoscaling_config | {"downscale_delay_s": 3})
    body = json.dumps({"inputs": ["word1 " * 200] * 30}).encode()
    with generate_load(service.url + "/predict", body, 64) as running:
        wait_until(lambda: len(service.replica_pids()) > 1)
        running.connections = 2
        wait_until(lambda: len(service.replica_pids()) == 1)
    assert not running.failed_responses()


def test_from_no_replica_the_first_request_is_answered(service: DeployedService) -> None:
    """It waits for one to start; when nobody asks, it goes again."""
    scaling = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 2, "target_ongoing_requests": 1,
               "upscale_delay_s": 0.5, "downscale_delay_s": 1, "look_back_period_s": 1,
               "metrics_interval_s": 0.5}  # fmt: skip
    service.deploy(autoscaling_config=scaling)
    wait_until(service.has_no_replicas)
    assert call(service.url + "/predict", ONE)[0] == 200
    assert service.replica_pids()


def test_run_is_fast_without_being_told(saved: Path, ray_environment: dict[str, str]) -> None:
    """The Ray that it starts hands requests through HAProxy, whose files go with it."""
    head = RayHead("", "", ray_environment)
    with serving(saved / "first", head) as url:
        assert call(url + "/predict", ONE)[0] == 200
        port = url.rpartition(":")[2]
        [folder] = [path for path in Path("/tmp").glob("serving-*/*/haproxy.cfg") if f":{port}\n" in path.read_text()]
    assert not folder.exists()
