"""Separate hosts on one machine, each with its own network address, processes, mounts, home and Ray.

A host is a set of Linux namespaces: this needs root, `ip` and `unshare` (with `ssh=True` also sshd and rsync).
The switch that connects the hosts is in a namespace too: the machine's own network is not touched, other networks
may use the same addresses, and nothing outside can reach the hosts. The process that creates the hosts holds a
pipe to each. When it ends, for whatever reason, all hosts and their processes end.

    @pytest.mark.root
    def test_a_run_survives_a_lost_host(host_network):               # the fixture in tests/conftest.py
        with host_network("head", "one", "two") as net:
            head, one, two = net.hosts
            address = head.start_ray("--num-cpus=0")            # token authentication, the same token on all hosts
            one.start_ray("--num-cpus=1", head_address=address)
            two.start_ray("--num-cpus=1", head_address=address)
            run = head.popen("python", "-m", "jobs", "train", "my.yaml", "--address", address,
                             f"storage={net.shared}/runs", cwd=REPOSITORY)
            wait_for(lambda: ..., "the second epoch")
            one.kill()                                          # or one.disconnect(), later one.reconnect()
            output, _ = run.communicate(timeout=200)

`net.shared` is a folder that all hosts see under the same path, like a folder on NFS. /tmp, /dev/shm, /run and the
home are private to each host. Everything else, such as this repository and its Python, is visible to all.
"""

import os
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from cluster.package import REPOSITORY

SUBNET = "10.213.0"  # not routed outside the hosts' switch
RAY_PORT = 6379
OBJECT_STORE_BYTES = 100 << 20
START_ATTEMPTS = 4
COMMAND_TIMEOUT_S = 60  # of `ip` and the like, which take milliseconds

# The first process of a host: it reaps orphans, such as Ray's processes, and ends when its input is closed.
INIT_SCRIPT = "import signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print(flush=True); sys.stdin.read()"

REQUIRED_COMMANDS = ("ip", "unshare", "nsenter", "mount", "hostname")
SSH_COMMANDS = ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync")


def find_missing_requirement(*, ssh: bool = False) -> str | None:
    """Return why hosts cannot be created on this machine, None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in REQUIRED_COMMANDS + (SSH_COMMANDS if ssh else ()) if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, util-linux, openssh-server, rsync)"
    command = ["unshare", "--net", "--pid", "--mount", "--fork", "true"]
    probe = subprocess.run(command, capture_output=True, check=False, timeout=COMMAND_TIMEOUT_S)
    return f"no namespaces: {probe.stderr.decode().strip()}" if probe.returncode else None


def _run(*command: str) -> None:
    """Run a short command; CalledProcessError if it fails, TimeoutExpired if it hangs."""
    subprocess.run(command, check=True, timeout=COMMAND_TIMEOUT_S)


class Namespace:
    """A process that keeps its own namespaces open. pid: its process id outside of them."""

    def __init__(self, *options: str, prepare: str = "true") -> None:
        script = f"set -e; {prepare}; exec {sys.executable} -c {shlex.quote(INIT_SCRIPT)}"
        self._unshare = subprocess.Popen(
            ["unshare", *options, "--fork", "--kill-child", "bash", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._unshare.stdout
        prepared, _, _ = select.select([self._unshare.stdout], [], [], COMMAND_TIMEOUT_S)
        if not prepared or not self._unshare.stdout.readline():
            self.kill()
            reason = "its error message is above" if prepared else f"it took over {COMMAND_TIMEOUT_S} s"
            raise RuntimeError(f"a namespace could not be prepared; {reason}")
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        self.pid = int(children[0])

    @property
    def alive(self) -> bool:
        return self._unshare.poll() is None

    def kill(self) -> None:
        """Kill all processes in the namespaces."""
        if self.alive:
            self._unshare.kill()  # --kill-child: this kills the first process, which ends all others
            self._unshare.wait(timeout=30)
        for stream in (self._unshare.stdin, self._unshare.stdout):
            assert stream
            stream.close()


class Host:
    """One machine of a `HostNetwork`. name: its host name in the network; home: its private home folder."""

    def __init__(self, network: "HostNetwork", name: str, number: int) -> None:
        self.name = name
        self.address = f"{SUBNET}.{number}"
        self.network = network
        self.folder = network.folder / name
        self.home = self.folder / "home"
        self._port = f"port{number}"  # on the switch
        self._make_files()
        self._namespace = Namespace(
            "--net", "--pid", "--mount", "--uts", "--ipc", "--mount-proc", prepare=self._prepare()
        )
        inside = ["nsenter", f"--target={self._namespace.pid}", "--net", "ip"]
        self.network.ip("link", "add", self._port, "type", "veth", "peer", "eth0", "netns", str(self._namespace.pid))
        self.reconnect()
        for words in (
            "link set lo up",
            "link set eth0 up",
            f"addr add {self.address}/24 dev eth0",
        ):
            _run(*inside, *words.split())

    def _make_files(self) -> None:
        for folder in ("home/.ray", "home/.ssh", "tmp"):
            (self.folder / folder).mkdir(parents=True)
        (self.home / ".ssh").chmod(0o700)
        self.write(".ray/auth_token", self.network.token, mode=0o600)
        self.write(".bashrc", f"export PATH={Path(sys.executable).parent}:$PATH\n")
        self.write(".bash_profile", ". ~/.bashrc\n")
        (self.folder / "passwd").write_text(
            f"root:x:0:0:root:{self.home}:/bin/bash\n"
            "sshd:x:33333:65534::/run/sshd:/usr/sbin/nologin\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        )
        hosts = [f"{SUBNET}.{number} {name}" for number, name in enumerate(self.network.names, start=1)]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")

    def _prepare(self) -> str:
        """Return the shell commands that give the host its own mounts and name."""
        commands = [f"mount --bind {self.folder}/{name} /etc/{name}" for name in ("passwd", "hosts")]
        commands += [f"mount -t tmpfs tmpfs {path}" for path in ("/dev/shm", "/run")]
        if REPOSITORY.is_relative_to("/tmp"):  # /tmp is private to a host, the repository is not
            target = self.folder / "tmp" / REPOSITORY.relative_to("/tmp")
            commands += [f"mkdir -p {target}", f"mount --bind {REPOSITORY} {target}"]
        commands += [f"chmod 1777 {self.folder}/tmp", f"mount --rbind {self.folder}/tmp /tmp"]
        return "; ".join([*commands, f"hostname {self.name}", "mkdir /run/sshd"])

    @property
    def environment(self) -> dict[str, str]:
        """Environment of commands on the host: its home, this Python first, token authentication."""
        inherited = {key: value for key, value in os.environ.items() if key.startswith(("LANG", "LC_", "OPENBLAS"))}
        return inherited | {
            "HOME": str(self.home),
            "USER": "root",
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",
        }

    def popen(
        self, *command: str, env: Mapping[str, str | None] | None = None, cwd: Path | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on the host; by default stderr is redirected to stdout.

        Args:
            env: further variables; None removes one.
            cwd: working directory; by default the home.
        """
        environment = {key: value for key, value in (self.environment | dict(env or {})).items() if value is not None}
        enter = ["nsenter", f"--target={self._namespace.pid}", "--all", f"--wd={cwd or self.home}"]
        return subprocess.Popen(
            [*enter, *command],
            env=environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, **options},
        )

    def run(
        self,
        *command: str,
        timeout: float = 120,
        check: bool = True,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; with `check` an exit code other than 0 raises an AssertionError with its output."""
        with self.popen(*command, env=env, cwd=cwd) as process:
            try:
                output, _ = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise AssertionError(f"{command} on {self.name} took over {timeout} s: {error.output}") from error
        assert not check or process.returncode == 0, f"{command} on {self.name}: {process.returncode}\n{output}"
        return subprocess.CompletedProcess(command, process.returncode, output)

    def write(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file in the host's home and return its path."""
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def start_ray(
        self, *options: str, head_address: str | None = None, env: Mapping[str, str | None] | None = None
    ) -> str:
        """Start Ray as a head, or join the one at `head_address`, and return the cluster's address, HOST:PORT.

        The head's dashboard listens on the host's own loopback unless an option says otherwise.
        """
        role = [f"--address={head_address}"] if head_address else ["--head", f"--port={RAY_PORT}"]
        common = [f"--node-ip-address={self.address}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        for attempt in range(START_ATTEMPTS):  # Ray waits 30 s for itself, too short on a busy machine
            last = attempt == START_ATTEMPTS - 1
            started = self.run("ray", "start", *role, *common, *options, env=env, timeout=180, check=last)
            if started.returncode == 0:
                break
            self.run("ray", "stop", "--force", check=False)
        return head_address or f"{self.address}:{RAY_PORT}"

    def start_sshd(self) -> None:
        """Start an ssh server that accepts the network's key."""
        host_key = self.folder / "host_key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
        self.write(".ssh/authorized_keys", self.network.key.with_suffix(".pub").read_text(), mode=0o600)
        config = self.folder / "sshd_config"
        config.write_text(
            f"HostKey {host_key}\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\n"
            "StrictModes no\nPidFile none\nMaxSessions 100\nMaxStartups 100\n"
        )
        self.run("/usr/sbin/sshd", "-f", str(config))

    def disconnect(self) -> None:
        """Disconnect the host from the network; its processes keep running."""
        self.network.ip("link", "set", self._port, "nomaster")

    def reconnect(self) -> None:
        """Connect the host to the network (again)."""
        self.network.ip("link", "set", self._port, "master", "switch", "up")

    def kill(self) -> None:
        """Kill all processes of the host at once, as a power failure does."""
        self._namespace.kill()

    @property
    def alive(self) -> bool:
        return self._namespace.alive


class HostNetwork:
    """Hosts connected by one switch. hosts: in the order of their names; shared: a folder that all of them see."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.token = secrets.token_hex(32)
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp"))  # /tmp is private to each host
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        self.key = self.folder / "key"
        self.hosts: list[Host] = []
        self._switch: Namespace | None = None

    def __enter__(self) -> Self:
        try:
            if shutil.which("ssh-keygen"):
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
            self._switch = Namespace("--net")
            self.ip("link", "add", "switch", "type", "bridge")
            self.ip("link", "set", "switch", "up")
            for number, name in enumerate(self.names, start=1):
                self.hosts.append(Host(self, name, number))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all hosts and remove their files."""
        for namespace in [*self.hosts, self._switch]:
            if namespace is not None:
                with suppress(subprocess.TimeoutExpired):
                    namespace.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ip(self, *words: str) -> None:
        """Run `ip` in the switch's namespace."""
        assert self._switch
        _run("nsenter", f"--target={self._switch.pid}", "--net", "ip", *words)


@contextmanager
def kill_on_exit(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Context manager: kill the process at the end if it still runs."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
