"""The fast configuration, as a shell takes it."""

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
    with tempfile.TemporaryDirectory(prefix="h ", dir="/tmp") as made:
        yield Path(made, "x")


def test_a_shell_takes_what_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values of several lines too; the folder is its owner's alone."""
    assert main(["switches", "--folder", str(folder)]) == 0
    names = [f"RAY_SERVE_HAPROXY_{name}" for name in ("RETRY_ON", "BALANCE_ALGORITHM", "SOCKET_PATH")]
    script = 'eval "$(cat)"; printf %s ' + " ".join(f'"${name}"' for name in names)
    told = subprocess.run(
        ["sh", "-c", script], input=capsys.readouterr().out, capture_output=True, text=True, check=True
    ).stdout
    wanted = build_environment(folder)
    assert told == "".join(wanted[name] for name in names)
    assert told.endswith(str(folder / "admin.sock"))
    assert folder.stat().st_mode & 0o77 == 0
    folder.chmod(0o755)
    assert main(["switches", "--folder", str(folder)]) == 2
    assert "others may enter it" in capsys.readouterr().err


def test_what_is_no_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file, and a link whatever it leads to: who made it may turn it elsewhere."""
    target = folder.with_name("y")
    folder.symlink_to(target)
    for _ in range(2):  # to nothing, then to a folder that would do
        assert main(["switches", "--folder", str(folder)]) == 2
        told = capsys.readouterr()
        assert f"{folder}: is a symbolic link" in told.err
        assert not told.out
        target.mkdir(mode=0o700, exist_ok=True)
    folder.unlink()
    folder.touch(0o600)
    assert main(["switches", "--folder", str(folder)]) == 2
    assert f"{folder}: is no folder" in capsys.readouterr().err


def test_a_folder_whose_sockets_have_no_room_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Before HAProxy fails to start."""
    assert main(["switches", "--folder", "/tmp/" + "x" * 30]) == 2
    assert "too long a path" in capsys.readouterr().err


def test_haproxy_gives_a_replica_what_it_may_hold() -> None:
    """Less would be turned away too early, more by Ray, which takes the replica longer."""
    configuration = yaml.safe_load((REPOSITORY / "serving" / "service.yaml").read_text())
    deployment = configuration["applications"][0]["deployments"][0]
    assert deployment["max_ongoing_requests"] + deployment["max_queued_requests"] == MAX_REQUESTS_PER_REPLICA


def test_ray_knows_every_switch() -> None:
    """A renamed one would silently do nothing."""
    import ray.serve._private.constants as constants

    text = Path(constants.__file__).read_text()
    for name in build_environment(Path("/tmp/x")):
        assert f'"{name}"' in text, name


def test_replicas_listen_on_the_ports_that_the_security_page_names() -> None:
    """They answer there past HAProxy."""
    import ray.serve._private.constants as constants

    first, last = (getattr(constants, f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT") for end in ("MIN", "MAX"))
    page = " ".join((REPOSITORY / "SECURITY.md").read_text().split())
    assert f"on a port of its own from {first} to {last}" in page
