"""Prediction on a cluster of four separate hosts, one of which is lost."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.package import REPOSITORY
from jobs.inference.file_prediction import predict_file
from jobs.model.checkpoint import save_checkpoint
from tests.host_network import Host, HostNetwork
from tests.support.checkpoints import checkpoint_of
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.root, pytest.mark.ray, pytest.mark.slow]

NUM_ROWS = 20_000
SCRIPT = """
import sys
from jobs.__main__ import main
from jobs.inference import sharded_prediction
sharded_prediction.PART_BYTES = 1000
sys.exit(main(sys.argv[1:]))
"""


def is_working(host: Host) -> bool:
    """Return whether an actor of the pipeline is on a host."""
    return host.run("pgrep", "-f", "^ray::MapWorker", check=False).returncode == 0


@pytest.mark.timeout(600)
def test_no_row_is_lost_with_a_host(host_network: type[HostNetwork]) -> None:
    """Every host has an actor. The parts of the killed one are written by others, each once, as on one machine."""
    with host_network("head", "one", "two", "three") as net:
        head = net.hosts[0]
        # Each host unpacks the code that is sent to it, without compiled kernels. The head compiles them for all.
        kernels = {"NUMBA_CACHE_DIR": f"{net.shared}/kernels"}
        address = head.start_ray("--num-cpus=1", env=kernels)
        checkpoint, source, out = (f"{net.shared}/{name}" for name in ("checkpoint", "in.csv", "out"))
        save_checkpoint(Path(checkpoint), checkpoint_of("non-static"))
        rows = [f"word{number % 90} word2,{number}\n" for number in range(NUM_ROWS)]
        Path(source).write_text("text,id\n" + "".join(rows))
        Path(f"{net.shared}/few.csv").write_text("text,id\nword1 word2,0\n")
        predict = ["python", "-c", SCRIPT, "predict", checkpoint, "--table-dtype", "float32", "--out"]
        environment = {"RAY_ADDRESS": address}
        head.run(*predict, f"{net.shared}/few/", f"{net.shared}/few.csv", env=environment, cwd=REPOSITORY, timeout=200)
        for host in net.hosts[1:]:
            host.start_ray("--num-cpus=1", head_address=address, env=kernels)
        with head.popen(*predict, f"{out}/", source, env=environment, cwd=REPOSITORY) as process:
            try:
                wait_for(lambda: all(map(is_working, net.hosts)), "an actor on each host", timeout=200)
                wait_for(lambda: any(Path(out).glob("part-*")), "a part", timeout=60)
                net.hosts[-1].kill()
                assert process.poll() is None
                output, _ = process.communicate(timeout=300)
            finally:
                process.kill()
        assert process.returncode == 0, output
        assert f"{NUM_ROWS:,} rows in" in output
        predict_file(checkpoint, source, f"{net.shared}/single.parquet", None)
        parts = sorted(Path(out).glob("part-*"))
        assert len(parts) > 200
        assert pq.read_table(parts).equals(pq.read_table(f"{net.shared}/single.parquet"))
        assert not [*Path(out).glob(".part-*")]
