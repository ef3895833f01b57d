"""The service on real Ray Serve, over real HTTP: run here, and deployed by `serve deploy`."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.deployed_service import wait_until
from benchmarks.ray_head import RayHead, find_free_ports
from cluster.package import REPOSITORY
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import load_checkpoint
from serving.__main__ import main
from serving.web import api_keys as keys
from tests.support.http import call, serving

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_run_answers_as_the_contract_says_and_stops_on_ctrl_c(saved: Path, head: RayHead) -> None:
    """Every path, good input and bad, with the scores of the checkpoint."""
    with serving(saved, head) as url:
        expected = Classifier(load_checkpoint(str(saved))).predict_logits(["word1 word2", ""])
        asked = json.dumps({"inputs": ["word1 word2", ""], "parameters": {"function_to_apply": "none"}}).encode()
        for path in ("/predict", "/"):
            status, found = call(url + path, asked)
            assert status == 200
            for rows, scores in zip(found, expected, strict=True):
                assert {row["label"]: pytest.approx(row["score"], abs=1e-5) for row in rows} == dict(
                    zip("abc", map(float, scores), strict=True)
                )
                assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
        one = b'{"inputs": "word1", "parameters": {"top_k": 2}}'
        _, flat = call(url + "/predict", one)
        assert call(url + "/", one) == (200, [flat])
        assert len(flat) == 2
        assert call(url + "/health") == (200, {"status": "ok"})
        status, info = call(url + "/info")
        assert (status, info["labels"], info["model"]["embedding"]) == (200, ["a", "b", "c"], "non-static")
        for path, body, method, expected_status in (
            ("/predict", b"{", None, 400),
            ("/predict", b'{"inputs": 5}', None, 422),
            ("/predict", b'{"inputs": "' + b"x" * (8 << 20) + b'"}', None, 413),
            ("/predict", None, None, 405),
            ("/info", b"{}", None, 405),
            ("/predict", b"{}", "DELETE", 405),
            ("/nothing", None, None, 404),
        ):
            status, found = call(url + path, body, method)
            assert status == expected_status, path
            assert found["error"]


def test_run_ends_where_its_keys_do_not_reach_the_replicas(saved: Path, head: RayHead) -> None:
    """They read the nodes' environment, not this shell's; nothing is left open."""
    [port] = find_free_ports(1)
    command = [sys.executable, "-m", "serving", "run", str(saved), "--port", str(port)]
    environment = head.environment | {keys.KEYS_VARIABLE: "k" * 20}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert f"http://127.0.0.1:{port}/ asks for no key" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(OSError, match="refused"):
        call(f"http://127.0.0.1:{port}/info")


def test_serve_deploy_takes_the_configuration_and_swaps_the_checkpoint(
    saved: Path, head: RayHead, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's own `serve deploy` with the file that `config` prints; a changed user_config needs no new replica."""
    [port] = find_free_ports(1)
    assert main(["config", str(saved), "--port", str(port)]) == 0
    configuration = yaml.safe_load(capsys.readouterr().out)
    url = f"http://127.0.0.1:{port}"

    def deploy() -> None:
        path = tmp_path / "service.yaml"
        path.write_text(yaml.safe_dump(configuration))
        serve = str(Path(sys.executable).parent / "serve")
        command = [serve, "deploy", str(path), "--address", head.dashboard_url]
        done = subprocess.run(command, env=head.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def embedding() -> str | None:
        try:
            return call(url + "/info")[1]["model"]["embedding"]
        except (OSError, KeyError, ValueError):
            return None

    deploy()
    wait_until(lambda: embedding() == "non-static")
    configuration["applications"][0]["deployments"][0]["user_config"]["checkpoint"] = str(saved / "second")
    deploy()
    wait_until(lambda: embedding() == "static")


def test_run_leaves_alone_what_the_cluster_serves_already(saved: Path, head: RayHead) -> None:
    """Another port is refused by name of the right one; the same application is not replaced."""

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "serving", "run", str(saved), *arguments]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2, done.stdout
        return done.stderr

    assert "serves an application 'classifier' already" in run()
    other = saved / "other.yaml"
    other.write_text((REPOSITORY / "serving/service.yaml").read_text().replace("name: classifier", "name: other"))
    [port] = find_free_ports(1)
    assert "Serve runs on this cluster already, on port" in run("--template", str(other), "--port", str(port))


def test_deploy_hands_the_service_over_and_names_what_is_wrong(
    saved: Path, head: RayHead, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits until the service runs; a checkpoint that is none is refused before anything is sent."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    at = ["--address", head.dashboard_url]
    assert main(["deploy", str(saved / "second"), *at]) == 0
    assert "classifier is running at http://127.0.0.1:" in capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setenv(keys.KEYS_VARIABLE, "k" * 20)
        assert main(["deploy", str(saved / "second"), *at]) == 2
    told = capsys.readouterr().err
    assert "asks for no key and answers whoever reaches it: the keys are set in this shell" in told
    assert f"serve shutdown --address {head.dashboard_url}" in told
    assert main(["deploy", str(saved.parent), *at]) == 2
    assert "holds neither a checkpoint" in capsys.readouterr().err
    [port] = find_free_ports(1)
    assert main(["deploy", str(saved), "--address", f"http://127.0.0.1:{port}"]) == 2
    assert "error:" in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Ray is started."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["run", str(saved), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
