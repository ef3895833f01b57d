"""HAProxy's environment variables, and the command that prints them."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.package import REPOSITORY
from serving.__main__ import main
from serving.deployment.haproxy import MAX_REQUESTS_PER_REPLICA, build_environment


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="h ", dir="/tmp") as parent:
        yield Path(parent, "x")


def test_a_shell_can_evaluate_the_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values may have several lines; only the owner can access the folder."""
    assert main(["switches", "--folder", str(folder)]) == 0
    names = [f"RAY_SERVE_HAPROXY_{name}" for name in ("RETRY_ON", "BALANCE_ALGORITHM", "SOCKET_PATH")]
    script = 'eval "$(cat)"; printf %s ' + " ".join(f'"${name}"' for name in names)
    values = subprocess.run(
        ["sh", "-c", script], input=capsys.readouterr().out, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    expected = build_environment(folder)
    assert values == "".join(expected[name] for name in names)
    assert values.endswith(str(folder / "admin.sock"))
    assert folder.stat().st_mode & 0o77 == 0
    folder.chmod(0o755)
    assert main(["switches", "--folder", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_file_or_a_link_is_refused_as_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link is refused even if its target is a good folder: its owner could change the target."""
    target = folder.with_name("y")
    folder.symlink_to(target)
    for _ in range(2):  # without a target, then with a good folder as target
        assert main(["switches", "--folder", str(folder)]) == 2
        output = capsys.readouterr()
        assert str(folder) in output.err
        assert "symbolic link" in output.err
        assert not output.out
        target.mkdir(mode=0o700, exist_ok=True)
    folder.unlink()
    folder.touch(0o600)
    assert main(["switches", "--folder", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


def test_a_folder_whose_path_is_too_long_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """HAProxy would fail to start."""
    assert main(["switches", "--folder", "/tmp/" + "x" * 30]) == 2
    assert "too long" in capsys.readouterr().err


def test_haproxy_has_the_limits_of_the_service_configuration() -> None:
    """With lower limits HAProxy would reject too early; with higher ones Ray would, which costs the replica time."""
    configuration = yaml.safe_load((REPOSITORY / "serving" / "service.yaml").read_text())
    deployment = configuration["applications"][0]["deployments"][0]
    assert deployment["max_ongoing_requests"] + deployment["max_queued_requests"] == MAX_REQUESTS_PER_REPLICA


def test_replicas_are_not_added_for_load_that_is_already_over() -> None:
    """The delays are not shorter than the period over which the load is averaged."""
    configuration = yaml.safe_load((REPOSITORY / "serving" / "service.yaml").read_text())
    scaling = configuration["applications"][0]["deployments"][0]["autoscaling_config"]
    assert scaling["look_back_period_s"] <= min(scaling["upscale_delay_s"], scaling["downscale_delay_s"])


def test_the_limits_of_haproxy_are_options(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their defaults depend on the machine and on service.yaml."""
    options = ["--requests-per-replica", "77", "--max-connections", "999", "--threads", "5", "--hard-stop-s", "13"]
    assert main(["switches", "--folder", str(folder), *options]) == 0
    output = capsys.readouterr().out
    for line in ("NBTHREAD=5", "MAXCONN=999", "HARD_STOP_AFTER_S=13", "default-server maxconn 77"):
        assert line in output
    with pytest.raises(SystemExit):
        main(["switches", "--threads", "0"])
    defaults = build_environment(folder)
    assert int(defaults["RAY_SERVE_HAPROXY_NBTHREAD"]) >= 2
    assert f"default-server maxconn {MAX_REQUESTS_PER_REPLICA}" in defaults["RAY_SERVE_HAPROXY_RETRY_ON"]


def test_ray_reads_every_variable() -> None:
    """A renamed variable would have no effect."""
    import ray.serve._private.constants as constants

    text = Path(constants.__file__).read_text()
    for name in build_environment(Path("/tmp/x")):
        assert f'"{name}"' in text, name


def test_replicas_listen_on_the_ports_that_the_security_guide_names() -> None:
    """Replicas are reachable at these ports without HAProxy."""
    import ray.serve._private.constants as constants

    first, last = (getattr(constants, f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT") for end in ("MIN", "MAX"))
    page = " ".join((REPOSITORY / "docs" / "guides" / "security.md").read_text().split())
    assert f"on a port of its own from {first} to {last}" in page
