"""Deployments, rollbacks, removal and status of services, on a Serve that is simulated."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from jobs.model.checkpoint_leases import is_leased
from serving.__main__ import main
from serving.deployment import applications, lifecycle, server, verification
from serving.deployment.configurations import DeploymentError
from serving.deployment.template import TEMPLATE
from serving.deployment.verification import verify_checkpoint
from tests.support.asgi import configure, make_replica, serve_replica

ADDRESS = "http://10.0.0.1:8265"

Interruption = Callable[[Callable[[], None]], None]


class SimulatedServe:
    """The dashboard's Serve client: applications run as soon as they are deployed.

    imperative: names of the applications that a process started; Serve has no configuration of them. node: address of
    the machine that Serve runs on, None if it does not run. before_change: called before each change.
    """

    def __init__(self) -> None:
        self.configurations: dict[str, Mapping[str, Any]] = {}
        self.imperative: set[str] = set()
        self.http_options: Mapping[str, Any] = {}  # the last that were sent
        self.node: str | None = None
        self.before_change: Callable[[], None] = lambda: None

    def _do_request(self, method: str, path: str) -> SimpleNamespace:
        assert (method, path) == ("GET", "/api/version")
        return SimpleNamespace(json=lambda: {"session_name": "session_1"})

    def deploy_applications(self, config: Mapping[str, Any]) -> None:
        self.before_change()
        self.http_options = config["http_options"]
        remaining = {name: self.configurations[name] for name in self.imperative}
        self.configurations = remaining | {application["name"]: application for application in config["applications"]}

    def delete_applications(self) -> None:
        self.before_change()
        self.configurations = {}

    def get_serve_details(self) -> dict[str, Any]:
        return {
            "http_options": {"host": "127.0.0.1", "port": 8000},
            "controller_info": {"node_ip": self.node} if self.node else {},
            "proxies": {},
            "applications": {
                name: {
                    "status": "RUNNING", "message": "", "route_prefix": configuration["route_prefix"],
                    "last_deployed_time_s": 1.7e9, "source": "imperative" if name in self.imperative else "declarative",
                    "deployed_app_config": None if name in self.imperative else configuration,
                    "deployments": {
                        "Classifier": {"deployment_config": configuration["deployments"][0],
                                       "replicas": [{"state": "RUNNING"}, {"state": "STARTING"}]},
                    },
                }
                for name, configuration in self.configurations.items()
            },
        }  # fmt: skip

    def user_config(self) -> Mapping[str, Any]:
        return self.configurations["classifier"]["deployments"][0]["user_config"]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> SimulatedServe:
    simulated = SimulatedServe()
    monkeypatch.setattr(applications, "create_client", lambda url, kind: simulated)
    for module in (server, lifecycle):
        monkeypatch.setattr(module, "fetch_info", lambda url: None)
    return simulated


@pytest.fixture
def paths(run_folder: Path) -> Iterator[tuple[str, str]]:
    """The two checkpoints, without leases at the end."""
    yield str(run_folder / "first"), str(run_folder / "second")
    for lease in run_folder.glob("*/lease-*"):
        lease.unlink()


def run_command(*arguments: str, address: str = ADDRESS) -> int:
    return main([*arguments, "--address", address])


@pytest.mark.parametrize("error", [RuntimeError("status code 503"), ConnectionError("status code 503")])
@pytest.mark.parametrize(
    ("command", "request_name"),
    [
        ("status", "_do_request"), ("status", "get_serve_details"), ("undeploy", "get_serve_details"),
        ("undeploy", "delete_applications"), ("rollback", "get_serve_details"), ("rollback", "deploy_applications"),
        ("deploy", "get_serve_details"), ("deploy", "deploy_applications"),
    ],
)  # fmt: skip
def test_the_error_of_a_dashboard_is_reported(
    serve: SimulatedServe, paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str, request_name: str, error: Exception,
) -> None:  # fmt: skip
    """It names the dashboard, without a traceback."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    for path in paths:
        assert run_command("deploy", path) == 0
    monkeypatch.setattr(serve, request_name, Mock(side_effect=error))
    assert run_command(command, *(paths[:1] if command == "deploy" else ())) == 2
    assert f"error: {ADDRESS}: status code 503" in capsys.readouterr().err


def test_the_checkpoints_of_a_service_have_leases_until_it_no_longer_names_them(
    serve: SimulatedServe, paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment keeps the replaced checkpoint, a rollback returns to it, and the removal releases both."""
    first, second = paths
    assert run_command("deploy", first) == 0
    assert serve.user_config() == {"checkpoint": first}
    assert (is_leased(first), is_leased(second)) == (True, False)
    assert run_command("deploy", second) == 0
    assert serve.user_config() == {"checkpoint": second, "previous": first}
    assert is_leased(first)
    assert run_command("deploy", second) == 0  # again: the previous one stays
    assert serve.user_config() == {"checkpoint": second, "previous": first}
    assert run_command("rollback") == 0
    assert serve.user_config() == {"checkpoint": first, "previous": second}
    assert run_command("rollback") == 0
    assert serve.user_config() == {"checkpoint": second, "previous": first}
    assert run_command("undeploy") == 0
    assert serve.configurations == {}
    assert not is_leased(first)
    assert not is_leased(second)


def test_further_models_are_deployed_and_have_leases(
    serve: SimulatedServe, paths: tuple[str, str], run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A best.json is replaced by the checkpoint that it names at that time; status lists them."""
    first, second = paths
    models = {"a": first, "b-2": second}
    assert run_command("deploy", first, "--model", f"a={run_folder}", "--model", f"b-2={second}") == 0
    assert serve.user_config() == {"checkpoint": first, "models": models}
    assert (is_leased(first), is_leased(second)) == (True, True)
    capsys.readouterr()
    assert run_command("status") == 0
    assert f"a ({first}), b-2 ({second})" in capsys.readouterr().out
    assert run_command("deploy", first, "--model", f"a={tmp_path}") == 2
    with pytest.raises(SystemExit):
        run_command("deploy", first, "--model", "a")
    assert "a is not NAME=CHECKPOINT" in capsys.readouterr().err
    assert run_command("undeploy") == 0
    assert not is_leased(second)


def test_a_checkpoint_that_is_no_longer_the_previous_one_is_released(
    serve: SimulatedServe,
    paths: tuple[str, str],
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    messages: list[str],
) -> None:
    """As soon as the service is seen to use the new one. One that is served while another is configured stays."""
    first, second = paths
    assert run_command("deploy", first) == 0
    serve.configurations["classifier"]["deployments"][0]["user_config"]["previous"] = second
    applications.ServeCluster(ADDRESS).write_leases("classifier", [second])
    monkeypatch.setattr(server, "resolve_reachable_url", lambda url, machine: url)
    monkeypatch.setattr(applications, "resolve_reachable_url", lambda url, machine: url)
    monkeypatch.setattr(server, "verify_checkpoint", lambda url, checkpoint, report_at_once: None)
    third = run_folder / "third"
    third.mkdir()
    for path in Path(first).iterdir():
        if not path.name.startswith("lease"):
            (third / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(server, "fetch_info", lambda url: None)
    assert run_command("deploy", str(third)) == 0
    assert is_leased(second)
    assert f"cannot see from here whether these are still served, so their leases stay: {second}" in messages
    serve.configurations["classifier"]["deployments"][0]["user_config"] = {"checkpoint": first, "previous": second}
    monkeypatch.setattr(server, "fetch_info", lambda url: {"checkpoint": first})
    assert run_command("deploy", str(third)) == 0
    assert serve.user_config() == {"checkpoint": str(third), "previous": first}
    assert (is_leased(first), is_leased(second), is_leased(str(third))) == (True, False, True)


def test_a_folder_without_a_checkpoint_gets_no_lease(serve: SimulatedServe, tmp_path: Path) -> None:
    """A configuration may name one; the replicas refuse it."""
    cluster = applications.ServeCluster(ADDRESS)
    cluster.write_leases("classifier", [str(tmp_path / "none"), str(tmp_path)])
    cluster.remove_leases("classifier", [str(tmp_path / "none"), str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_lease_is_removed_although_a_best_json_names_another_checkpoint_by_then(
    serve: SimulatedServe, paths: tuple[str, str], run_folder: Path, tmp_path: Path
) -> None:
    """The paths of a service are those of the checkpoints at its deployment, also that of a candidate."""
    first, second = paths
    best = tmp_path / "best.json"
    best.write_text(json.dumps({"checkpoint": second}))
    template = yaml.safe_load(TEMPLATE.read_text())
    template["applications"][0]["deployments"][0]["user_config"]["candidate"] = {
        "checkpoint": str(best), "weight": 0.1}  # fmt: skip
    (tmp_path / "service.yaml").write_text(yaml.safe_dump(template))
    assert run_command("deploy", first, "--template", str(tmp_path / "service.yaml")) == 0
    assert serve.user_config()["candidate"] == {"checkpoint": second, "weight": 0.1}
    assert is_leased(second)
    best.write_text(json.dumps({"checkpoint": first}))
    assert run_command("undeploy") == 0
    assert not is_leased(first)
    assert not is_leased(second)


@pytest.fixture
def other(serve: SimulatedServe) -> Mapping[str, Any]:
    """The configuration of another application of the cluster."""
    deployments = [{"name": "Other", "user_config": {}}]
    configuration = {"name": "other", "route_prefix": "/other", "import_path": "other:app", "deployments": deployments}
    serve.configurations["other"] = configuration
    return configuration


def test_an_address_that_a_running_serve_does_not_take_over_is_a_warning(
    serve: SimulatedServe, paths: tuple[str, str], messages: list[str]
) -> None:
    """Nobody would notice otherwise that a service is open to other machines, or closed to them."""
    assert run_command("deploy", paths[0]) == 0
    assert not any("keeps its address" in message for message in messages)
    assert run_command("deploy", paths[0], "--host", "0.0.0.0") == 0
    assert any("keeps its address, 127.0.0.1:8000" in message for message in messages)


def test_deployment_rollback_and_removal_leave_other_applications(
    serve: SimulatedServe, other: Mapping[str, Any], paths: tuple[str, str]
) -> None:
    for path in paths:
        assert run_command("deploy", path, "--port", "8001") == 0
        assert serve.configurations["other"] == other
        assert serve.http_options["port"] == 8001
    assert run_command("rollback") == 0
    assert serve.user_config()["checkpoint"] == paths[0]
    assert serve.configurations["other"] == other
    assert run_command("undeploy") == 0
    assert serve.configurations == {"other": other}


@pytest.fixture
def interruption(serve: SimulatedServe, monkeypatch: pytest.MonkeyPatch) -> Interruption:
    """Let the dashboard close the connection of the next change, and call a function before it is repeated."""

    def interrupt(action: Callable[[], None]) -> None:
        def fail() -> None:
            serve.before_change = lambda: None
            raise ConnectionError("closed")

        serve.before_change = fail
        monkeypatch.setattr(time, "sleep", lambda _: action())

    return interrupt


def test_an_application_that_is_deployed_while_a_change_is_sent_stays(
    serve: SimulatedServe, other: Mapping[str, Any], paths: tuple[str, str],
    interruption: Interruption,
) -> None:  # fmt: skip
    """A repeated change is one of the state at that time; so one that was removed does not return."""
    third = {**other, "name": "third", "route_prefix": "/third"}
    for arguments in (["deploy", paths[0]], ["deploy", paths[1]], ["rollback"], ["undeploy"]):
        serve.configurations.pop("third", None)
        serve.configurations["other"] = other

        def change() -> None:
            serve.configurations["third"] = third
            del serve.configurations["other"]

        interruption(change)
        assert run_command(*arguments) == 0
        expected = {"third"} if arguments == ["undeploy"] else {"classifier", "third"}
        assert set(serve.configurations) == expected, arguments
    assert not is_leased(paths[0])


@pytest.mark.parametrize("command", ["first deploy", "deploy", "rollback"])
def test_a_service_that_another_command_deploys_meanwhile_is_not_replaced(
    serve: SimulatedServe, paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:  # fmt: skip
    """The last one would win silently. Its checkpoints keep their leases, and the command can be repeated."""
    first, second = paths
    for path in () if command == "first deploy" else (second, first):
        assert run_command("deploy", path) == 0
    arguments = ("rollback",) if command == "rollback" else ("deploy", first)
    write_leases = applications.ServeCluster.write_leases

    def deploy_meanwhile(cluster: applications.ServeCluster, name: str, checkpoints: set[str]) -> None:
        monkeypatch.setattr(applications.ServeCluster, "write_leases", write_leases)
        write_leases(cluster, name, checkpoints)
        assert run_command("deploy", second, "--model", f"b={second}") == 0

    monkeypatch.setattr(applications.ServeCluster, "write_leases", deploy_meanwhile)
    capsys.readouterr()
    assert run_command(*arguments) == 2
    message = f"classifier: another command has deployed {second} since this one started; repeat this one to replace it"
    assert message in capsys.readouterr().err
    assert serve.user_config()["checkpoint"] == second
    assert serve.user_config()["models"] == {"b": second}
    assert (is_leased(first), is_leased(second)) == (command != "first deploy", True)
    assert run_command(*arguments) == 0
    assert serve.user_config()["checkpoint"] == first


def test_an_application_of_somebody_else_with_the_same_name_is_replaced(
    serve: SimulatedServe, paths: tuple[str, str]
) -> None:
    serve.configurations["classifier"] = {"name": "classifier", "route_prefix": "/", "deployments": [{"name": "Other"}]}
    assert run_command("deploy", paths[0]) == 0
    assert serve.user_config()["checkpoint"] == paths[0]


def test_a_deployment_whose_response_was_lost_is_repeated(
    serve: SimulatedServe, paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve has its configuration already, which is no other command's."""
    deploy_applications = serve.deploy_applications

    def lose_response(config: Mapping[str, Any]) -> None:
        deploy_applications(config)
        monkeypatch.setattr(serve, "deploy_applications", deploy_applications)
        raise ConnectionError("closed")

    monkeypatch.setattr(time, "sleep", lambda _: None)
    for path in paths:
        monkeypatch.setattr(serve, "deploy_applications", lose_response)
        assert run_command("deploy", path) == 0
        assert serve.user_config()["checkpoint"] == path


def test_an_application_is_not_ended_with_serve_if_it_is_deployed_meanwhile(
    serve: SimulatedServe, paths: tuple[str, str], interruption: Interruption
) -> None:
    assert run_command("deploy", paths[0]) == 0
    third = {"name": "third", "route_prefix": "/third", "import_path": "x:y", "deployments": [{"name": "X"}]}
    interruption(lambda: serve.configurations.update(third=third))
    assert run_command("undeploy") == 0
    assert set(serve.configurations) == {"third"}


def test_the_leases_are_written_before_the_configuration_is_sent(serve: SimulatedServe, paths: tuple[str, str]) -> None:
    leased: list[tuple[bool, bool]] = []
    serve.before_change = lambda: leased.append((is_leased(paths[0]), is_leased(paths[1])))
    for path in paths:
        assert run_command("deploy", path) == 0
    assert leased == [(True, False), (True, True)]


@pytest.mark.parametrize("imperative", [False, True])
def test_a_used_route_prefix_is_an_error(
    serve: SimulatedServe, other: Mapping[str, Any], paths: tuple[str, str], capsys: pytest.CaptureFixture[str],
    imperative: bool,
) -> None:  # fmt: skip
    """No lease is left, and the other application stays."""
    serve.configurations["other"] = {**other, "route_prefix": "/"}
    serve.imperative = {"other"} if imperative else set()
    assert run_command("deploy", paths[0]) == 2
    assert "'other' of this cluster has the route prefix '/' too" in capsys.readouterr().err
    assert list(serve.configurations) == ["other"]
    assert not is_leased(paths[0])


def test_a_prefix_that_is_used_meanwhile_leaves_the_leases_of_the_running_service(
    serve: SimulatedServe, other: Mapping[str, Any], paths: tuple[str, str], tmp_path: Path
) -> None:
    assert run_command("deploy", paths[0]) == 0
    template = TEMPLATE.read_text().replace("route_prefix: /", "route_prefix: /other")
    (tmp_path / "service.yaml").write_text(template)
    assert run_command("deploy", paths[1], "--template", str(tmp_path / "service.yaml")) == 2
    assert (is_leased(paths[0]), is_leased(paths[1])) == (True, False)


@pytest.mark.parametrize(
    ("node", "machine"),
    [(None, "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("192.0.2.1", None)],  # the last is reserved for documents
)
def test_a_forwarded_dashboard_is_not_one_of_this_machine(
    serve: SimulatedServe, paths: tuple[str, str], monkeypatch: pytest.MonkeyPatch, messages: list[str],
    node: str | None, machine: str | None,
) -> None:  # fmt: skip
    """The service of this machine on the same port is another one: it is not asked for checkpoint or key."""
    address, serve.node = "http://127.0.0.1:8265", node
    cluster = applications.ServeCluster(address)
    assert cluster.find_machine() == machine
    assert applications.ServeCluster(ADDRESS).find_machine() == "10.0.0.1"
    urls: list[str] = []

    def fetch_info(url: str) -> None:
        urls.append(url)

    for module in (server, lifecycle, verification):
        monkeypatch.setattr(module, "fetch_info", fetch_info)
    monkeypatch.setattr(server, "require_no_orphaned_proxy", lambda port: None)
    for path in paths:
        assert run_command("deploy", path, address=address) == 0
    for command in ("rollback", "status", "undeploy"):
        assert run_command(command, address=address) == 0
    assert bool(urls) == (machine is not None)
    assert any("cannot check from here whether the checkpoint is served" in message for message in messages)


@pytest.mark.parametrize("alone", [False, True])
def test_the_service_of_a_running_process_is_not_changed(
    serve: SimulatedServe, other: Mapping[str, Any], paths: tuple[str, str], capsys: pytest.CaptureFixture[str],
    alone: bool,
) -> None:  # fmt: skip
    """`finetune-cnn serve --address` started it; Ray would keep it, or stop all of Serve if it is the only one."""
    assert run_command("deploy", paths[0]) == 0
    serve.imperative = {"classifier"}
    if alone:
        del serve.configurations["other"]
    before = dict(serve.configurations)
    for command in (["undeploy"], ["rollback"], ["deploy", paths[1]]):
        capsys.readouterr()
        assert run_command(*command) == 2, command
        assert "classifier: was not started by `finetune-cnn deploy`; end it with Ctrl-C" in capsys.readouterr().err
    assert serve.configurations == before
    assert (is_leased(paths[0]), is_leased(paths[1])) == (True, False)


def test_status_shows_services_and_checkpoints(
    serve: SimulatedServe, paths: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("status") == 0
    assert "no service runs here" in capsys.readouterr().out
    for path in paths:
        assert run_command("deploy", path) == 0
    capsys.readouterr()
    assert run_command("status") == 0
    output = capsys.readouterr().out
    for field, value in (("service", "classifier"), ("status", "RUNNING"), ("replicas", "1 running, 1 starting"),
                         ("checkpoint", paths[1]), ("previous", paths[0])):  # fmt: skip
        assert any(line.split(maxsplit=1) == [field, value] for line in output.splitlines()), output


def test_a_service_that_does_not_exist_or_has_no_history_is_an_error(
    serve: SimulatedServe, paths: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("undeploy") == 2
    assert "no service is called 'classifier'; it runs no service" in capsys.readouterr().err
    assert run_command("deploy", paths[0]) == 0
    assert run_command("rollback") == 2
    assert f"has served no other checkpoint than {paths[0]}" in capsys.readouterr().err
    assert run_command("rollback", "--name", "nothing") == 2
    assert "it runs classifier; use --name" in capsys.readouterr().err


def test_a_refused_checkpoint_is_reported_at_once(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the same configuration is deployed again, which the replicas try again by themselves."""
    replica = make_replica({"checkpoint": str(run_folder / "first")})
    bad = str(run_folder / "none")
    configure(replica, {"checkpoint": bad})
    with serve_replica(replica) as url:
        start = time.monotonic()
        with pytest.raises(DeploymentError, match=f"none.*is refused and {run_folder / 'first'} is still served"):
            verify_checkpoint(url, {"checkpoint": bad})
        assert time.monotonic() - start < verification.CHECKPOINT_SWAP_TIMEOUT_S / 4
        monkeypatch.setattr(verification, "CHECKPOINT_SWAP_TIMEOUT_S", 1)
        start = time.monotonic()
        for checkpoint, at_once in ((bad, False), (str(run_folder / "second"), True)):  # the refusal is of another one
            with pytest.raises(DeploymentError):
                verify_checkpoint(url, {"checkpoint": checkpoint}, report_at_once=at_once)
        assert time.monotonic() - start > 2


def test_a_refused_candidate_is_reported_as_such(run_folder: Path) -> None:
    """By a new replica and by one that served another checkpoint; both serve the checkpoint without it."""
    first, second, bad = (str(run_folder / name) for name in ("first", "second", "none"))
    user_config = {"checkpoint": first, "candidate": {"checkpoint": bad, "weight": 0.5}}
    for started_with in (user_config, {"checkpoint": second}):
        replica = make_replica(started_with)
        configure(replica, user_config)
        assert replica.refused_checkpoint == bad
        message = f"none: .*the candidate is refused and {first} is still served"
        with serve_replica(replica) as url, pytest.raises(DeploymentError, match=message):
            verify_checkpoint(url, user_config)


def test_one_response_that_is_missing_does_not_end_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service is asked again; one that does not respond at all cannot be verified, and is asked once."""
    responses: list[dict[str, str] | None] = [{"checkpoint": "new"}, None]
    requests: list[str] = []

    def fetch_info(url: str) -> dict[str, str] | None:
        requests.append(url)
        return responses.pop(0) if responses else {"checkpoint": "new"}

    monkeypatch.setattr(verification, "fetch_info", fetch_info)
    verify_checkpoint("http://service", {"checkpoint": "new"})
    assert len(requests) == 2 + verification.INFO_REQUESTS
    responses, requests = [None], []
    verify_checkpoint("http://service", {"checkpoint": "new"})
    assert len(requests) == 1
