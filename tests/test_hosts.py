"""Separate hosts for tests: isolated, can be disconnected and killed, leave nothing behind."""

import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from tests.host_network import Host, HostNetwork
from tests.support.waiting import wait_for

pytestmark = pytest.mark.root

START_TIMEOUT_S = 120

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 7), timeout=2)"
LISTEN = "import socket; s = socket.create_server(('', 7)); print('ready', flush=True)\nwhile True: s.accept()"


def reaches(host: Host, other: str) -> bool:
    """Return whether a host reaches port 7 of another."""
    return host.run("python", "-c", CONNECT, other, check=False).returncode == 0


def is_in_use(folder: Path) -> bool:
    """Return whether any process of the machine has a folder in its command line or environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    return True
            except OSError:
                continue
    return False


def test_hosts_are_isolated_and_can_be_disconnected_and_killed(host_network: type[HostNetwork]) -> None:
    """Processes, names, homes and /tmp are private, one folder is shared; processes survive a disconnection."""
    with host_network("left", "right") as net:
        left, right = net.hosts
        assert left.run("hostname").stdout.strip() == "left"
        assert left.run("python", "-c", "from pathlib import Path; print(Path.home())").stdout.strip() == str(left.home)
        left.run("touch", "/tmp/mine", str(net.shared / "ours"), "/dev/shm/mine")
        assert right.run("ls", "/tmp", "/dev/shm", str(net.shared)).stdout.count("mine") == 0
        assert right.run("ls", str(net.shared)).stdout == "ours\n"
        assert left.run("stat", "-c", "%a", str(left.home / ".ray/auth_token")).stdout == "600\n"
        listener = right.popen("python", "-c", LISTEN)
        assert listener.stdout
        assert select.select([listener.stdout], [], [], START_TIMEOUT_S)[0]
        assert listener.stdout.readline() == "ready\n"
        assert reaches(left, "right")
        right.disconnect()
        assert not reaches(left, "right")
        assert listener.poll() is None
        right.reconnect()
        wait_for(lambda: reaches(left, "right"), "the host that was reconnected")
        right.kill()
        assert listener.wait(timeout=10) != 0
        listener.stdout.close()
        assert not right.alive
        assert not reaches(left, "right")
    assert not net.folder.exists()
    assert not is_in_use(net.folder)


def test_hosts_end_with_the_process_that_created_them() -> None:
    """The hosts end even if the process is killed."""
    script = (
        "import sys, time\nfrom tests.host_network import HostNetwork, find_missing_requirement\n"
        "if find_missing_requirement(): sys.exit(3)\n"
        "net = HostNetwork('one').__enter__()\n"
        "net.hosts[0].run('bash', '-c', 'nohup sleep 1000 >/dev/null 2>&1 &')\n"
        "print(net.folder, flush=True)\ntime.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert select.select([process.stdout], [], [], START_TIMEOUT_S)[0], "the host did not start"
            folder = Path(process.stdout.readline().strip() or "/nowhere")
            if folder == Path("/nowhere"):
                pytest.skip("no hosts can be created here")
            assert is_in_use(folder)
        finally:
            process.kill()
    wait_for(lambda: not is_in_use(folder), "the end of the host", timeout=30)
    shutil.rmtree(folder)


def test_an_error_of_a_command_contains_host_exit_code_and_output(host_network: type[HostNetwork]) -> None:
    """A command that exceeds its time-out is killed."""
    with host_network("only") as net:
        [only] = net.hosts
        with pytest.raises(AssertionError, match="only: 3\nwhy"):
            only.run("bash", "-c", "echo why; exit 3")
        with pytest.raises(AssertionError, match="took over"):
            only.run("sleep", "100", timeout=0.5)
