"""The service on a running Ray cluster, over HTTP with Ray's own proxy: `run`, `deploy`, and Ray's `serve deploy`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from benchmarks.ray_head import RayHead, start_ray_head
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from cluster.ray_jobs import create_client
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint
from jobs.model.checkpoint_leases import is_leased
from serving.__main__ import main
from serving.api_keys import KEYS_VARIABLE
from tests.support.running_commands import RunningCommand
from tests.support.services import call, run_service
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with start_ray_head(num_cpus=3) as ray_head:
        yield ray_head


@pytest.fixture(autouse=True)
def without_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def head_without_serve(head: RayHead, without_token: None) -> RayHead:
    """The head, after Serve was stopped if an earlier test started it."""
    client = create_client(head.dashboard_url, "serve")
    if client.get_serve_details()["applications"]:
        client.delete_applications()
        wait_for(lambda: not client.get_serve_details()["applications"], "the end of the service", 60)
    return head


@pytest.fixture(scope="module")
def port() -> int:
    """The port of every service that a test deploys: a running Serve cannot change its port."""
    [number] = find_free_ports(1)
    return number


@pytest.fixture
def deployed(head: RayHead, port: int, run_folder: Path, without_token: None) -> str:
    """The URL of a service that runs with the first checkpoint."""
    assert main(["deploy", str(run_folder), "--address", head.dashboard_url, "--port", str(port)]) == 0
    return f"http://127.0.0.1:{port}"


def run_command(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_run_responds_as_specified_and_ends_on_ctrl_c(head_without_serve: RayHead, run_folder: Path) -> None:
    """Every path has valid and invalid input; scores are those of the checkpoint; Serve is stopped at the end.

    Until then other commands refuse to change the service.
    """
    origin = "https://example.com"
    with run_service(run_folder, head_without_serve.environment, "--allow-origin", origin) as url:
        preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        allowed = urllib3.request("OPTIONS", url + "/predict", headers=preflight, timeout=30)
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, origin)
        expected = Classifier(load_checkpoint(str(run_folder))).predict_logits(["word1 word2", ""])
        body = json.dumps({"inputs": ["word1 word2", ""], "parameters": {"function_to_apply": "none"}}).encode()
        for path in ("/predict", "/"):
            status, response = call(url + path, body)
            assert status == 200
            for rows, scores in zip(response, expected, strict=True):
                assert {row["label"]: pytest.approx(row["score"], abs=1e-5) for row in rows} == dict(
                    zip("abc", map(float, scores), strict=True)
                )
                assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
        single = b'{"inputs": "word1", "parameters": {"top_k": 2}}'
        _, flat = call(url + "/predict", single)
        assert call(url + "/", single) == (200, [flat])
        assert len(flat) == 2
        assert call(url + "/health") == (200, {"status": "ok"})
        status, info = call(url + "/info")
        assert (status, info["labels"], info["model"]["embedding"]) == (200, ["a", "b", "c"], "non-static")
        for path, content, method, expected_status in (
            ("/predict", b"{", None, 400),
            ("/predict", b'{"inputs": 5}', None, 422),
            ("/predict", b'{"inputs": "' + b"x" * (8 << 20) + b'"}', None, 413),
            ("/predict", None, None, 405),
            ("/info", b"{}", None, 405),
            ("/predict", b"{}", "DELETE", 405),
            ("/nothing", None, None, 404),
        ):
            status, response = call(url + path, content, method)
            assert status == expected_status, path
            assert response["error"]
        for command in (["undeploy"], ["rollback"], ["deploy", str(run_folder)]):
            assert main([*command, "--address", head_without_serve.dashboard_url]) == 2
        assert call(url + "/health") == (200, {"status": "ok"})
    with pytest.raises(OSError, match="refused"):
        call(url + "/info")


def test_the_end_of_run_leaves_what_was_deployed_meanwhile(
    head_without_serve: RayHead, run_folder: Path, tmp_path: Path
) -> None:
    """Serve then runs on, although it was started by `run`."""
    template = (REPOSITORY / "serving/service.yaml").read_text()
    other = tmp_path / "other.yaml"
    other.write_text(template.replace("name: classifier", "name: other").replace("route_prefix: /", "route_prefix: /o"))
    with run_service(run_folder, head_without_serve.environment) as url:
        options = ["--template", str(other), "--port", url.rpartition(":")[2]]
        assert main(["deploy", str(run_folder), *options, "--address", head_without_serve.dashboard_url]) == 0
    assert call(url + "/o/health") == (200, {"status": "ok"})
    assert urllib3.request("GET", url + "/health", timeout=30).status == 404
    assert main(["undeploy", "--name", "other", "--address", head_without_serve.dashboard_url]) == 0
    client = create_client(head_without_serve.dashboard_url, "serve")
    wait_for(lambda: not client.get_serve_details()["applications"], "the end of the service", 60)


def test_run_ends_if_the_replicas_do_not_have_its_keys(head_without_serve: RayHead, run_folder: Path) -> None:
    """Replicas read the nodes' environment, not that of this shell; no open service remains."""
    [port] = find_free_ports(1)
    environment = head_without_serve.environment | {KEYS_VARIABLE: "k" * 20}
    process = run_command([sys.executable, "-m", "serving", "run", str(run_folder), "--port", str(port)], environment)
    assert process.returncode == 2, process.stderr
    assert f"http://127.0.0.1:{port}/ requires no API key" in process.stderr
    assert "Traceback" not in process.stderr
    with pytest.raises(OSError, match="refused"):
        call(f"http://127.0.0.1:{port}/info")


def test_serve_deploy_accepts_the_configuration_and_swaps_the_checkpoint(
    run_folder: Path, head: RayHead, deployed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's own `serve deploy` with the output of `config`."""
    assert call(deployed + "/info")[1]["model"]["embedding"] == "non-static"
    capsys.readouterr()
    assert main(["config", str(run_folder / "second"), "--port", deployed.rpartition(":")[2]]) == 0
    path = tmp_path / "service.yaml"
    path.write_text(capsys.readouterr().out)
    serve = str(Path(sys.executable).parent / "serve")
    process = run_command([serve, "deploy", str(path), "--address", head.dashboard_url], head.environment)
    assert process.returncode == 0, process.stderr
    wait_for(lambda: call(deployed + "/info")[1]["model"]["embedding"] == "multichannel", "the other checkpoint", 60)


def test_run_does_not_replace_what_the_cluster_serves(
    run_folder: Path, head: RayHead, deployed: str, tmp_path: Path
) -> None:
    """The same application and a used route prefix are refused.

    Another one is at the address of the running Serve, as a warning says.
    """
    other = tmp_path / "other.yaml"
    template = (REPOSITORY / "serving/service.yaml").read_text()
    other.write_text(template.replace("name: classifier", "name: other").replace("route_prefix: /", "route_prefix: /o"))
    [other_port] = find_free_ports(1)
    run = [sys.executable, "-m", "serving", "run", str(run_folder)]
    same_name = run_command(run, head.environment)
    assert same_name.returncode == 2
    assert "already serves an application 'classifier'" in same_name.stderr
    same_prefix = tmp_path / "same-prefix.yaml"
    same_prefix.write_text(template.replace("name: classifier", "name: other"))
    refused = run_command([*run, "--template", str(same_prefix)], head.environment)
    assert refused.returncode == 2
    assert "error: other: the application 'classifier' of this cluster has the route prefix '/' too" in refused.stderr
    assert "Traceback" not in refused.stderr
    options = ["--template", str(other), "--host", "0.0.0.0", "--port", str(other_port)]
    with RunningCommand([*run, *options], head.environment) as command:
        command.wait_for_line("serving at")
        page = urllib3.request("GET", deployed + "/o", redirect=False, timeout=30)
        assert (page.status, page.headers["location"]) == (307, "o/")
        assert urllib3.request("GET", deployed + "/o", timeout=30).status == 200
        assert call(deployed + "/o/openapi.json")[1]["servers"] == [{"url": "/o"}]
        command.interrupt()
    assert f"serving at {deployed}/o: " in command.output
    assert f"{deployed}/o/openapi.json" in command.output
    assert f"keeps its address, {deployed.removeprefix('http://')}; to change it" in command.output
    assert call(deployed + "/health")[0] == 200


def test_deploy_waits_for_the_service_and_reports_errors(
    run_folder: Path, head: RayHead, port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are keys that only this shell has, a folder without a checkpoint, and a cluster that cannot be reached."""
    options = ["--port", str(port), "--address", head.dashboard_url]
    assert main(["deploy", str(run_folder / "second"), *options]) == 0
    assert f"classifier is running at http://127.0.0.1:{port}" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setenv(KEYS_VARIABLE, "k" * 20)
        assert main(["deploy", str(run_folder / "second"), *options]) == 2
    message = capsys.readouterr().err
    assert "requires no API key: the keys are set in this shell only" in message
    assert f"serve shutdown --address {head.dashboard_url}" in message
    assert main(["deploy", str(run_folder.parent), *options]) == 2
    assert f"{run_folder.parent}: contains neither a checkpoint nor a best.json" in capsys.readouterr().err
    [unused_port] = find_free_ports(1)
    assert main(["deploy", str(run_folder), "--address", f"http://127.0.0.1:{unused_port}"]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_service_has_a_status_and_returns_to_its_previous_checkpoint_until_it_is_removed(
    run_folder: Path, head: RayHead, deployed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a real Serve; the checkpoints have leases until the end. Services of other tests have leases on theirs."""
    shutil.copytree(run_folder, tmp_path / "run", ignore=shutil.ignore_patterns("lease-*"))
    first, second = str(tmp_path / "run" / "first"), str(tmp_path / "run" / "second")
    options = ["--address", head.dashboard_url]
    for path in (first, second):
        assert main(["deploy", path, *options, "--port", deployed.rpartition(":")[2]]) == 0
    assert call(deployed + "/info")[1]["checkpoint"] == second
    assert main(["rollback", *options]) == 0
    assert call(deployed + "/info")[1]["checkpoint"] == first
    capsys.readouterr()
    assert main(["status", *options]) == 0
    output = capsys.readouterr().out
    for line in ("RUNNING", first, second, "1 running"):
        assert line in output
    assert is_leased(first)
    assert is_leased(second)
    assert main(["undeploy", *options]) == 0
    assert not is_leased(first)
    assert not is_leased(second)
    client = create_client(head.dashboard_url, "serve")
    wait_for(lambda: not client.get_serve_details()["applications"], "the end of the service", 60)
    assert main(["status", *options]) == 0
    assert "no service runs here" in capsys.readouterr().out
