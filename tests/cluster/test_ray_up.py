"""`ray up` with ray_cluster.local.yaml over ssh to separate hosts, a job on them, loss of two, and `ray down`."""

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
from tests.host_network import Host, HostNetwork, kill_on_exit
from tests.support.toy_data import make_toy_rows
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.launcher, pytest.mark.ray, pytest.mark.slow]

DASHBOARD = "http://127.0.0.1:8265"
LAUNCHER_ENVIRONMENT = {"RAY_UP_enable_autoscaler_v2": "0"}  # as in the comment of the file


@pytest.fixture(scope="module")
def net(host_network_ssh: type[HostNetwork]) -> Iterator[HostNetwork]:
    with host_network_ssh("laptop", "head", "one", "two") as network:
        yield network


def prepare(net: HostNetwork) -> Path:
    """Set up the hosts as the file requires, and return a copy of it with their addresses, on the laptop.

    The packages are installed already, because hosts have no package index; the command that installs them still runs.
    """
    laptop, head, *workers = net.hosts
    for host in (head, *workers):
        host.start_sshd()
        (host.home / ".finetune-cnn").symlink_to(sys.prefix)
        (host.home / ".ray/auth_token").unlink()
    shutil.copy(net.key, laptop.home / ".ssh/id_ed25519")
    config = yaml.safe_load((REPOSITORY / "ray_cluster.local.yaml").read_text())
    config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
    config["auth"]["ssh_user"] = "root"
    config["min_workers"] = config["max_workers"] = len(workers)
    # On a busy machine nodes would be considered lost, and restarted repeatedly.
    config["head_start_ray_commands"].insert(0, "echo export AUTOSCALER_HEARTBEAT_TIMEOUT_S=200 >> ~/.bashrc")
    return laptop.write("cluster.yaml", yaml.safe_dump(config))


def count_nodes(head: Host) -> int:
    """Return how many nodes of the cluster are alive."""
    listing = head.run("ray", "list", "nodes", "--address", DASHBOARD, "--format", "json", check=False).stdout
    return listing.count('"state": "ALIVE"')


def is_running(host: Host, name: str) -> bool:
    """Return whether a host runs a process whose command line starts with this name, or a path that ends in it."""
    return host.run("pgrep", "-f", f"^([^ ]*/)?{name}", check=False).returncode == 0


def test_a_cluster_starts_trains_loses_hosts_and_stops(net: HostNetwork) -> None:
    """One host is disconnected, one is killed; the run completes on the remaining host."""
    laptop, head, *workers = net.hosts
    file = str(prepare(net))
    storage = f"{net.shared}/runs"
    rows = "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(400))
    (net.shared / "rows.csv").write_text("queue,message\n" + rows)
    laptop.run("ray", "up", "--yes", "--no-config-cache", file, env=LAUNCHER_ENVIRONMENT, cwd=REPOSITORY, timeout=500)
    for host in (head, *workers):
        wait_for(lambda host=host: (host.home / ".ray/auth_token").exists(), f"the token on {host.name}", timeout=400)
        assert (host.home / ".ray/auth_token").stat().st_mode & 0o777 == 0o600
    try:
        wait_for(lambda: count_nodes(head) == 3, "all nodes", timeout=600, interval=5)
    except AssertionError:
        print(head.run("bash", "-c", "tail -n 200 /tmp/ray/session_latest/logs/monitor.*", check=False).stdout)
        raise

    with kill_on_exit(laptop.popen("ray", "dashboard", file, env=LAUNCHER_ENVIRONMENT, stdout=subprocess.DEVNULL)):
        address = ("--address", DASHBOARD)
        request = "import urllib.request as u; u.urlopen('http://127.0.0.1:8265/')"
        wait_for(lambda: laptop.run("python", "-c", request, check=False).returncode == 0, "the tunnel", timeout=60)
        findings = laptop.run("python", "-m", "cluster", "check", *address, "--storage", storage, cwd=REPOSITORY).stdout
        assert findings.count("\nok ") == 4, findings

        # A worker takes a whole host, so two hosts train and one is spare; in the end one trains alone.
        settings = [
            "model.embedding=rand",
            "train.workers=[1, 2]",
            f"train.cpus_per_worker={os.cpu_count()}",
            "train.patience=400",
        ]
        settings += ["train.epochs=400", f"data.train={net.shared}/rows.csv", f"storage={storage}"]
        command = ["submit", *address, "--", "train", "experiments/tickets.yaml", *settings]
        log = net.folder / "log"
        with log.open("w") as stream, kill_on_exit(
            laptop.popen("python", "-m", "cluster", *command, cwd=REPOSITORY, stdout=stream)
        ) as run:  # fmt: skip

            def epoch() -> int:
                assert run.poll() is None, log.read_text()
                epochs = re.findall(r"^epoch +(\d+)", log.read_text(), re.MULTILINE)
                return max(map(int, epochs), default=0)

            for fail in (Host.disconnect, Host.kill):
                before = epoch()
                wait_for(lambda before=before: epoch() > before + 2, "epochs", timeout=400)
                lost = next(host for host in workers if host.alive and is_running(host, "ray::RayTrainWorker"))
                fail(lost)
                workers.remove(lost)
                print(f"{lost.name}: {fail.__name__} after epoch {epoch()}")
                wait_for(lambda: log.read_text().count("resuming after") >= 2 - len(workers), "a restart", timeout=400)
            assert run.wait(timeout=900) == 0, log.read_text()
    assert "best: epoch" in log.read_text()
    assert (net.shared / "runs/tickets/best.json").exists()
    print(log.read_text())

    laptop.run("ray", "down", "--yes", file, env=LAUNCHER_ENVIRONMENT, timeout=150)
    # The launcher stops the head; workers stop when they have not reached it for a minute.
    for host in (head, *workers):
        wait_for(
            lambda host=host: host.run("pgrep", "raylet", check=False).returncode, f"the end of Ray on {host.name}", 200
        )
