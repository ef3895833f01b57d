"""The hosts that other tests rely on are apart, can be lost, and leave nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from tests.host_network import Host, HostNetwork, wait_for

pytestmark = pytest.mark.root

REACH = "import socket, sys; socket.create_connection((sys.argv[1], 7), timeout=2)"
LISTEN = "import socket; s = socket.create_server(('', 7)); print('ready', flush=True)\nwhile True: s.accept()"


def reaches(host: Host, other: str) -> bool:
    """Tell whether a host reaches port 7 of another."""
    return host.run("python", "-c", REACH, other, check=False).returncode == 0


def in_use(folder: Path) -> bool:
    """Tell whether any process of the machine was started from a folder or has it as its home."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                    return True
            except OSError:
                continue
    return False


def test_hosts_are_apart_can_be_cut_off_and_killed(host_network: type[HostNetwork]) -> None:
    """Own processes, names, homes and /tmp; one shared folder; a cut ends nothing, a kill everything."""
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
        assert listener.stdout.readline() == "ready\n"
        assert reaches(left, "right")
        right.disconnect()
        assert not reaches(left, "right")
        assert listener.poll() is None
        right.reconnect()
        wait_for(lambda: reaches(left, "right"), "the mended host")
        right.kill()
        assert listener.wait(timeout=10) != 0
        listener.stdout.close()
        assert not right.alive
        assert not reaches(left, "right")
    assert not net.folder.exists()
    assert not in_use(net.folder)


def test_hosts_end_with_the_process_that_made_them() -> None:
    """However it ends."""
    script = (
        "import sys, time\nfrom tests.host_network import HostNetwork, find_missing_requirement\n"
        "if find_missing_requirement(): sys.exit(3)\n"
        "net = HostNetwork('one').__enter__()\n"
        "net.hosts[0].run('bash', '-c', 'nohup sleep 1000 >/dev/null 2>&1 &')\n"
        "print(net.folder, flush=True)\ntime.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip() or "/nowhere")
        if folder == Path("/nowhere"):
            pytest.skip("no hosts can be made here")
        assert in_use(folder)
        process.kill()
    wait_for(lambda: not in_use(folder), "the end of the host", timeout=30)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_a_command_that_fails_is_told_with_its_output(host_network: type[HostNetwork]) -> None:
    """By host and exit code; one that hangs is ended."""
    with host_network("only") as net:
        [only] = net.hosts
        with pytest.raises(AssertionError, match="only: 3\nwhy"):
            only.run("bash", "-c", "echo why; exit 3")
        with pytest.raises(AssertionError, match="took over"):
            only.run("sleep", "100", timeout=0.5)
