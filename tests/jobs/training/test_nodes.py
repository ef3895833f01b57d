"""Training on clusters of several nodes and on full disks: messages, and how a run continues."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.ray_head import start_ray_head
from cluster.package import REPOSITORY
from jobs.config.experiment import Experiment
from jobs.model.checkpoint import load_checkpoint
from jobs.training.train import TrainingFailed, train
from tests.host_network import HostNetwork, kill_on_exit
from tests.support.running_commands import RunningCommand
from tests.support.second_node import join_second_node
from tests.support.toy_data import make_toy_rows
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SETTINGS = {
    "model.embedding": "rand",
    "model.feature_maps": 8,
    "train.batch_size": 4,
    "train.patience": 1000,
    "train.metric": "loss",
}


def setting_arguments(**settings: object) -> list[str]:
    """Return SETTINGS and more settings as arguments of a command."""
    named = SETTINGS | {key.replace("__", "."): value for key, value in settings.items()}
    return [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in named.items()]


@pytest.mark.root
@pytest.mark.launcher
def test_a_run_across_hosts_survives_the_loss_of_one_and_needs_a_storage_that_all_see(
    host_network: type[HostNetwork],
) -> None:
    """With `workers: [1, 2]` it continues on the remaining host; a storage on one host only is an error."""
    with host_network("head", "one", "two") as net:
        head, one, two = net.hosts
        address = head.start_ray("--num-cpus=0")
        for host in (one, two):
            host.start_ray("--num-cpus=1", head_address=address)
        csv = net.shared / "toy.csv"
        csv.write_text("label,text\n" + "".join(f'{label},"{text}"\n' for label, text in make_toy_rows(120)))
        command = ["python", "-m", "jobs", "train", "--address", address, f"data.train={csv}"]

        local = [*command, *setting_arguments(name="local", storage="/tmp/runs", train__workers=2)]
        refused = head.run(*local, cwd=REPOSITORY, check=False, timeout=200)
        assert refused.returncode == 2, refused.stdout
        assert re.search(r"is not accessible from \w+(, \w+)?; every node must see the storage", refused.stdout)
        assert "Traceback" not in refused.stdout

        storage = net.shared / "runs"
        shared = [*command, *setting_arguments(name="lost", storage=storage, train__workers=[1, 2], train__epochs=100)]
        with kill_on_exit(head.popen(*shared, cwd=REPOSITORY)) as run:
            wait_for(lambda: list(storage.glob("lost/train-*/epoch-0003")), "the third epoch", timeout=200)
            one.kill()
            output, _ = run.communicate(timeout=400)
        assert run.returncode == 0, output
        assert "training with 2 workers" in output
        assert "workers were lost" in output
        assert "resuming after epoch" in output
        assert "training with 1 worker " in output
        assert load_checkpoint(str(storage / "lost")).labels == ["bad", "good"]


READ_BLOCKS = """
import numpy as np, ray
from jobs.datasets.tokenizer import Tokens
from jobs.training.corpora import token_blocks
from jobs.training.corpora.sharing import StoredTokenBlocks
ray.init(address="auto", log_to_driver=False)
token_blocks.BLOCK_TOKENS = 1 << 21
tokens = Tokens(np.ones(50_000_000, np.int32), np.arange(0, 50_000_001, 20))
stored = StoredTokenBlocks(token_blocks.TokenBlocks(tokens))
read = ray.remote(num_cpus=1)(lambda blocks: [sum(int(block.tokens.ids.sum()) for block in blocks) for _ in range(2)])
print(len(stored.sizes), *ray.get(read.remote(stored)))
"""


def test_a_node_needs_no_memory_for_all_blocks_of_the_texts() -> None:
    """Twice it reads 24 blocks with 240 MB from a node whose object store has 80 MB."""
    with (
        start_ray_head(0, "--object-store-memory=400000000") as head,
        join_second_node(head, Path(head.environment["HOME"], "n2"), num_cpus=1, object_store_bytes=80_000_000),
    ):
        command = [sys.executable, "-c", READ_BLOCKS]
        result = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.stdout.split() == ["24", "50000000", "50000000"], result.stderr


def test_on_an_autoscaling_cluster_a_run_waits_for_nodes(toy_csv: Path) -> None:
    """The launcher and KubeRay set the node type of each node; without node types it is an error, see test_train.py."""
    command = [sys.executable, "-m", "jobs", "train", f"data.train={toy_csv}", f"storage={toy_csv.parent / 'runs'}"]
    command += setting_arguments(name="waits", train__workers=2, train__epochs=2)
    with (
        start_ray_head(1, RAY_NODE_TYPE_NAME="head") as head,
        RunningCommand(command, head.environment, timeout=400) as run,
    ):
        run.wait_for_line("waiting for the workers")
        before = run.output
        join_command = ["ray", "start", f"--address={head.address}", "--num-cpus=1", "--node-ip-address=127.0.0.1"]
        subprocess.run(
            [str(Path(sys.executable).parent / join_command[0]), *join_command[1:]],
            env=head.environment | {"RAY_NODE_TYPE_NAME": "worker"}, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        assert run.wait() == 0, run.output
    assert re.search("^waiting for 2 workers of 1 CPU each.* 1 CPUs? on 1 node$", before, re.MULTILINE)
    assert "training with 2 workers" in run.output.removeprefix(before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.root
def test_a_full_disk_ends_the_run_and_keeps_its_checkpoints(
    embedded_ray: None, make_experiment: Callable[..., Experiment], small_disk: Path, messages: list[str]
) -> None:
    """The checkpoints are complete; with more space the same command resumes from the newest."""
    settings = {
        "storage": str(small_disk / "runs"), "name": "full", "vectors.dimensions": 300, "model.feature_maps": 100,
        "train.epochs": 4, "train.patience": 9, "train.metric": "loss", "train.workers": 2,
    }  # fmt: skip
    experiment = make_experiment().replace(settings)
    with pytest.raises(TrainingFailed, match=r"cannot be written: .*No space left on device"):
        train(experiment)
    [run] = (small_disk / "runs" / "full").glob("train-*")
    left = sorted(path.name for path in run.glob("*epoch-*"))
    assert left
    for name in left:
        assert load_checkpoint(str(run / name)).labels == ["bad", "good"]
    assert not (run / "best.json").exists()

    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    train(experiment)
    assert f"resuming after epoch {int(left[-1].removeprefix('epoch-'))}" in messages
    assert load_checkpoint(str(small_disk / "runs" / "full")).labels == ["bad", "good"]
