"""A second Ray node on this machine, which joins the head of `benchmarks.ray_head`."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.ray_head import RayHead, find_free_ports
from tests.support.waiting import wait_for


@contextmanager
def join_second_node(
    head: RayHead,
    temporary_folder: Path | None,
    num_cpus: int = 2,
    variables: Mapping[str, str] | None = None,
    num_gpus: int = 0,
    object_store_bytes: int | None = None,
) -> Iterator[None]:
    """Context manager: a second node has joined the head; its processes are killed at the end, or with the head.

    Args:
        temporary_folder: of the node; None shares that of the head. A short path, because Ray creates sockets in it.
        variables: further environment variables of the node.
        num_gpus: number of GPUs that the node pretends to have.
        object_store_bytes: size of its object store, at least 75 MiB; by default Ray's.
    """
    options = ["--block", "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}"]
    if object_store_bytes:
        options.append(f"--object-store-memory={object_store_bytes}")
    if temporary_folder:
        options.append(f"--temp-dir={temporary_folder}")
    command = [str(Path(sys.executable).parent / "ray"), "start", f"--address={head.address}", *options,
               f"--dashboard-agent-listen-port={find_free_ports(1)[0]}"]  # fmt: skip
    log = Path(head.environment["HOME"], "second-node.log")
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            command, env=head.environment | dict(variables or {}), stdout=stream, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_for(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, "the second node")
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            process.kill()
