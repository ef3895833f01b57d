"""The commands of serving without Ray: plan, configuration, environment, and what they report."""

import json
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.machine import find_free_ports
from serving.__main__ import main
from serving.deployment import server
from serving.deployment.reachability import format_request, report_service
from serving.deployment.template import TEMPLATE


def call(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Return the JSON object that a command prints."""
    code = main([*words, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert code == (2 if "error" in result else 0)
    return result


def test_the_plan_of_a_service(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has what `config` prints; on a port that is in use the command fails, and so does its plan."""
    before = sorted(run_folder.rglob("*"))
    [port] = find_free_ports(1)
    words = ["run", str(run_folder), "--dry-run", "--port", str(port)]
    plan = call(capsys, *words)
    configuration = call(capsys, "config", str(run_folder), "--port", str(port))
    deployment = configuration["applications"][0]["deployments"][0]
    assert plan["reads"][0]["path"] == deployment["user_config"]["checkpoint"] == str(run_folder / "first")
    assert {name: plan["starts"][name] for name in ("ray", "service", "host", "port", "replicas", "api_keys")} == {
        "ray": "on this machine",
        "service": configuration["applications"][0]["name"],
        **configuration["http_options"],
        "replicas": [deployment["autoscaling_config"][f"{limit}_replicas"] for limit in ("min", "max")],
        "api_keys": 0,
    }
    assert sorted(run_folder.rglob("*")) == before
    with socket.create_server(("127.0.0.1", port)):
        assert f"cannot listen on 127.0.0.1:{port}" in call(capsys, *words)["error"]
        assert call(capsys, *words, "--address", "10.0.0.1:6379")["starts"]["ray"] == "10.0.0.1:6379"


@pytest.mark.parametrize("is_running", [True, False])
def test_ctrl_c_is_the_end_of_a_running_service_and_interrupts_one_that_starts(
    run_folder: Path, is_running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[int, Any] = {}

    @contextmanager
    def start_service(*_: object) -> Iterator[server.RunningService]:
        if not is_running:
            handlers[signal.SIGINT](signal.SIGINT, None)
        yield server.RunningService("http://127.0.0.1:8000", embedded=False)

    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    monkeypatch.setattr(server, "start_service", start_service)
    monkeypatch.setattr(server, "_find_metrics_urls", lambda embedded: [])
    monkeypatch.setattr(server, "print_result_now", lambda: handlers[signal.SIGINT](signal.SIGINT, None))
    assert main(["run", str(run_folder)]) == (0 if is_running else 130)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "x", "--port", "x"], "argument --port: x is not a number between 1 and 65535"),
        (["run", "x", "--port", "0"], "argument --port: 0 is not a number between 1 and 65535"),
        (["switches", "--threads", "few"], "argument --threads: must be 1 or more, not few"),
    ],
)
def test_an_option_that_is_no_number_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err


def test_the_plan_of_a_deployment(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No cluster is contacted, and the checkpoint gets no lease; without an address the command fails."""
    before = sorted(run_folder.rglob("*"))
    words = ["deploy", str(run_folder), "--dry-run"]
    plan = call(capsys, *words, "--address", "http://head:8265", "--port", "8123")
    assert plan["command"] == "deploy"
    assert {name: plan["starts"][name] for name in ("ray", "service", "port")} == {
        "ray": "http://head:8265", "service": "classifier", "port": 8123,
    }  # fmt: skip
    assert plan["reads"][0]["path"] == plan["writes"][0]["path"] == str(run_folder / "first")
    assert sorted(run_folder.rglob("*")) == before
    assert "no cluster address" in call(capsys, *words)["error"]


def test_the_plan_has_every_checkpoint_with_its_size(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is read, and gets a lease, once."""
    first, second = (str(run_folder / name) for name in ("first", "second"))
    template = yaml.safe_load(TEMPLATE.read_text())
    user_config = {
        "candidate": {"checkpoint": second, "weight": 0.5},
        "previous": str(run_folder),
        "models": {"a": second},
    }
    template["applications"][0]["deployments"][0]["user_config"] = user_config
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(template))
    words = ("--template", str(path), "--model", f"b={first}", "--port", str(find_free_ports(1)[0]))
    plan = call(capsys, "run", str(run_folder), "--dry-run", *words)
    sizes = {path: sum(file.stat().st_size for file in Path(path).iterdir()) for path in (first, second)}
    assert [(file["path"], file["use"], file["bytes"]) for file in plan["reads"][:2]] == [
        (first, "checkpoint, previous checkpoint, model b", sizes[first]),
        (second, "candidate, model a", sizes[second]),
    ]
    assert [file["path"] for file in plan["writes"]] == [first, second]


@pytest.mark.parametrize("command", [("run", "--dry-run"), ("run",), ("deploy",), ("config",)])
def test_a_wrong_name_of_a_model_is_an_error_of_the_command(
    command: tuple[str, ...], run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a checkpoint is loaded, Ray starts, or a cluster is contacted."""
    error = call(capsys, *command, str(run_folder), "--model", "a/b=missing")["error"]
    assert error.startswith("user_config: models.a/b")
    assert "pattern" in error


def test_origins_of_options_are_added_to_those_of_the_configuration(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = yaml.safe_load(TEMPLATE.read_text())
    template["applications"][0]["args"]["allowed_origins"] = ["https://a.org"]
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(template))
    words = ["config", str(run_folder), "--template", str(path), "--allow-origin", "https://b.org"]
    arguments = call(capsys, *words)["applications"][0]["args"]
    assert arguments == template["applications"][0]["args"] | {"allowed_origins": ["https://a.org", "https://b.org"]}
    error = call(capsys, *words, "--allow-origin", "b.org/")["error"]
    assert error.startswith("allowed_origins: 'b.org/' is no origin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": {"allowed_origins": "https://a.org"}}, "allowed_origins: a list of origins is required"),
        ({"args": {"allowed_origins": 5}}, "allowed_origins: a list of origins is required"),
        ({"args": ["a"]}, "is not a Serve configuration with a deployment: TypeError('args is no mapping')"),
        (
            {"runtime_env": "a"},
            "is not a Serve configuration with a deployment: TypeError('runtime_env is no mapping')",
        ),
        ({"deployments": ["a"]}, "is not a Serve configuration with a deployment"),
        ({"deployments": [{"user_config": ["a"]}]}, "TypeError('user_config is no mapping')"),
    ],
)
def test_a_malformed_template_is_an_error(
    run_folder: Path, tmp_path: Path, change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    template = yaml.safe_load(TEMPLATE.read_text())
    template["applications"][0] |= change
    path = tmp_path / "service.yaml"
    path.write_text(yaml.safe_dump(template))
    assert message in call(capsys, "config", str(run_folder), "--template", str(path))["error"]


def test_the_environment_of_the_nodes_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="p-", dir="/tmp") as folder:  # short: HAProxy creates sockets in it
        words = ["switches", "--folder", folder]
        environment = call(capsys, *words)
        assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    exports = [line for line in lines if line.startswith("export ")]
    assert len(exports) == len(environment)
    assert all(line.removeprefix("export ").partition("=")[0] in environment for line in exports)


@pytest.mark.parametrize("url", ["http://h:8000", "http://h:8000/a"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_next_command_sends_a_text(
    url: str, slash: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the header of a key if the service requires one."""
    deployment = {"user_config": {"checkpoint": "/runs/x"}}
    report_service({"applications": [{"name": "x", "deployments": [deployment]}]}, url + slash)
    assert capsys.readouterr().out == f'next: curl -d \'{{"inputs": "a text"}}\' {url}/predict\n'
    monkeypatch.setenv("SERVING_API_KEYS", "x" * 16)
    assert format_request("http://h:8000/").startswith('curl -H "Authorization: Bearer $KEY" -d ')
