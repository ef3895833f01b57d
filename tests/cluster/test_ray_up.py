"""`ray up` over ssh onto separate hosts, work on them, the loss of two, `ray down`: with ray_cluster.local.yaml."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.package import REPOSITORY
from tests.conftest import make_toy_rows
from tests.host_network import Host, HostNetwork, kill_on_exit, wait_for

pytestmark = [pytest.mark.root, pytest.mark.launcher, pytest.mark.ray, pytest.mark.slow]

DASHBOARD = "http://127.0.0.1:8265"
UP = {"RAY_UP_enable_autoscaler_v2": "0"}  # as the file says


@pytest.fixture(scope="module")
def net(host_network_ssh: type[HostNetwork]) -> Iterator[HostNetwork]:
    with host_network_ssh("laptop", "head", "one", "two") as made:
        yield made


def prepare(net: HostNetwork) -> Path:
    """Make the hosts what the file asks for, and return the file with their addresses, on the laptop.

    The packages are there already (hosts have no package index); the command that installs them runs all the same.
    """
    laptop, head, *workers = net.hosts
    for host in (head, *workers):
        host.start_sshd()
        (host.home / ".finetune-cnn").symlink_to(sys.prefix)
        (host.home / ".ray/auth_token").unlink()
    shutil.copy(net.key, laptop.home / ".ssh/id_ed25519")
    config = yaml.safe_load((REPOSITORY / "ray_cluster.local.yaml").read_text())
    config["provider"] |= {"head_ip": head.address, "worker_ips": [each.address for each in workers]}
    config["auth"]["ssh_user"] = "root"
    config["min_workers"] = config["max_workers"] = len(workers)
    # On a busy machine nodes would be taken for lost, and started again and again.
    config["head_start_ray_commands"].insert(0, "echo export AUTOSCALER_HEARTBEAT_TIMEOUT_S=200 >> ~/.bashrc")
    return laptop.write("cluster.yaml", yaml.safe_dump(config))


def nodes(head: Host) -> int:
    """Return how many nodes the cluster has that are alive."""
    listed = head.run("ray", "list", "nodes", "--address", DASHBOARD, "--format", "json", check=False).stdout
    return listed.count('"state": "ALIVE"')


def runs(host: Host, name: str) -> bool:
    """Tell whether a process whose command line begins with a path or name like this runs on a host."""
    return host.run("pgrep", "-f", f"^([^ ]*/)?{name}", check=False).returncode == 0


def test_a_cluster_goes_up_works_loses_hosts_and_goes_down(net: HostNetwork) -> None:
    """One host is cut off, one loses its power; the run finishes on the one that is left."""
    laptop, head, *workers = net.hosts
    file = str(prepare(net))
    storage = f"{net.shared}/runs"
    rows = "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(400))
    (net.shared / "rows.csv").write_text("queue,message\n" + rows)
    laptop.run("ray", "up", "--yes", "--no-config-cache", file, env=UP, cwd=REPOSITORY, timeout=500)
    for host in (head, *workers):
        wait_for(lambda host=host: (host.home / ".ray/auth_token").exists(), f"the token on {host.name}", timeout=400)
        assert (host.home / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
    try:
        wait_for(lambda: nodes(head) == 3, "all nodes", timeout=600, interval=5)
    except AssertionError:
        print(head.run("bash", "-c", "tail -n 200 /tmp/ray/session_latest/logs/monitor.*", check=False).stdout)
        raise

    with kill_on_exit(laptop.popen("ray", "dashboard", file, env=UP, stdout=subprocess.DEVNULL)):
        at = ("--address", DASHBOARD)
        reached = "import urllib.request as u; u.urlopen('http://127.0.0.1:8265/')"
        wait_for(lambda: laptop.run("python", "-c", reached, check=False).returncode == 0, "the tunnel", timeout=60)
        told = laptop.run("python", "-m", "cluster", "check", *at, "--storage", storage, cwd=REPOSITORY).stdout
        assert told.count("\nok ") == 4, told

        # A worker takes a whole host, so that two hosts train and one waits, and in the end one trains alone.
        settings = [
            "model.embedding=rand",
            "train.workers=[1, 2]",
            f"train.cpus_per_worker={os.cpu_count()}",
            "train.patience=400",
        ]
        settings += ["train.epochs=400", f"data.train={net.shared}/rows.csv", f"storage={storage}"]
        command = ["submit", *at, "--", "train", "experiments/tickets.yaml", *settings]
        log = net.folder / "log"
        with log.open("w") as stream, kill_on_exit(
            laptop.popen("python", "-m", "cluster", *command, cwd=REPOSITORY, stdout=stream)
        ) as run:  # fmt: skip

            def epoch() -> int:
                assert run.poll() is None, log.read_text()
                return max([int(each) for each in re.findall(r"^epoch +(\d+)", log.read_text(), re.MULTILINE)] + [0])

            for lose in (Host.disconnect, Host.kill):
                before = epoch()
                wait_for(lambda before=before: epoch() > before + 2, "epochs", timeout=400)
                lost = next(host for host in workers if host.alive and runs(host, "ray::RayTrainWorker"))
                lose(lost)
                workers.remove(lost)
                print(f"{lost.name}: {lose.__name__} after epoch {epoch()}")
                wait_for(lambda: log.read_text().count("going on after") >= 2 - len(workers), "a restart", timeout=400)
            assert run.wait(timeout=900) == 0, log.read_text()
    assert "best: epoch" in log.read_text()
    assert (net.shared / "runs/tickets/best.json").exists()
    print(log.read_text())

    laptop.run("ray", "down", "--yes", file, env=UP, timeout=150)
    for host in (head, *workers):  # the launcher stops the head; workers end when they have missed it for a minute
        wait_for(
            lambda host=host: host.run("pgrep", "raylet", check=False).returncode, f"Ray's end on {host.name}", 200
        )
