"""Two Ray nodes on one machine, as in a local cluster: files of a job, installations and GPUs of the second node."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_head import RayHead, start_ray_head
from cluster.machine import inspect_gpus
from cluster.package import REPOSITORY, build_package
from cluster.ray_jobs import build_runtime_env, create_client
from tests.support.commands import run_command
from tests.support.second_node import join_second_node
from tests.support.slow_installation import PLUGINS, SECONDS_VARIABLE
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.slow]

# Each node unpacks the code of a job when the job starts; a task on the second node waits for that.
READ_FILE = """
import os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
ray.init(log_to_driver=False)
here = ray.get_runtime_context().get_node_id()
[other] = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != here]
exists = ray.remote(num_cpus=0)(os.path.exists)
strategy = NodeAffinitySchedulingStrategy(other, soft=False)
on_other_node = ray.get(exists.options(scheduling_strategy=strategy).remote("rows.csv"))
print("rows.csv exists:", on_other_node, os.path.exists("rows.csv"))
"""

# The GPU of the second node is free at first, then another actor has it.
LIMIT_WORKERS = """
import ray
from cluster import resources
ray.init(log_to_driver=False)
def limit(others):
    return resources.limit_workers(0, 2, 1, 0, 1, others), resources.limit_workers(0, 2, 1, 0)
print("free", resources.used_gpus(), limit(0))
@ray.remote(num_cpus=0, num_gpus=1)
class Other:
    def ready(self):
        pass
other = Other.remote()
ray.get(other.ready.remote())
print("used", resources.used_gpus(), limit(1))
"""


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[RayHead]:
    """A head, and a second node that pretends to have a GPU; each has a folder of its own."""
    with (
        start_ray_head(1) as head,
        join_second_node(head, Path(head.environment["HOME"], "n2"), num_cpus=1, num_gpus=1),
    ):
        yield head


def submit_and_check(head: RayHead, folder: Path) -> tuple[str, str, int]:
    """Return the output of a job with an included file, the output of `check`, and its exit code."""
    (folder / "finetune_cnn.py").write_text(READ_FILE)
    (folder / "rows.csv").write_text("label,text\n")
    options = ("--address", head.dashboard_url)
    job = run_command(
        *("python", "-m", "cluster", "submit", *options, "--working-dir", str(folder)),
        *("--include", "rows.csv", "--", "x"),
        env=head.environment,
        timeout=280,
    )
    checked = run_command("python", "-m", "cluster", "check", *options, env=head.environment, timeout=280)
    return job.stdout + job.stderr, checked.stdout + checked.stderr, checked.returncode


@pytest.mark.timeout(600)
def test_nodes_of_one_machine_with_folders_of_their_own(two_nodes: RayHead, tmp_path: Path) -> None:
    """Jobs have their files on both. `check` reports that torch cannot use the second one's GPU: a warning only."""
    job, checked, code = submit_and_check(two_nodes, tmp_path)
    assert "rows.csv exists: True True" in job, job
    assert "share the temporary folder" not in checked
    [warning] = [line for line in checked.splitlines() if "torch cannot use its GPU" in line]
    assert warning.startswith("warning  ")
    assert inspect_gpus().problem in warning
    assert code == 0


@pytest.mark.root
@pytest.mark.launcher
@pytest.mark.timeout(600)
def test_nodes_of_one_machine_with_a_shared_folder(tmp_path: Path) -> None:
    """The second node replaces the unpacked code of a job that runs; `check` reports that."""
    with start_ray_head(1) as head, join_second_node(head, None, num_cpus=1):
        job, checked, code = submit_and_check(head, tmp_path)
    assert "rows.csv exists: True True" not in job, job
    assert "share the temporary folder" in checked, checked
    assert code == 1


@pytest.mark.timeout(600)
def test_workers_are_limited_by_the_gpus_of_the_nodes(two_nodes: RayHead) -> None:
    """Each node has a CPU for a worker, the second one has the only GPU."""
    result = run_command("python", "-c", LIMIT_WORKERS, env=two_nodes.environment, timeout=280)
    assert "free 0.0 (1, 2)\nused 1.0 (0, 2)" in result.stdout, result.stdout + result.stderr


@pytest.mark.timeout(600)
def test_a_gpu_that_torch_cannot_use_is_not_used(two_nodes: RayHead, toy_csv: Path, tmp_path: Path) -> None:
    """A run uses CPUs with one warning, or fails in one sentence if it requests GPUs."""
    settings = (f"data.train={toy_csv}", f"storage={tmp_path}/runs", "name=g", "model.embedding=rand", "train.epochs=1")
    command = ("python", "-m", "jobs", "train", *settings)
    result = run_command(*command, env=two_nodes.environment, timeout=280)
    assert result.returncode == 0, result.stderr
    [warning] = [line for line in result.stderr.splitlines() if "torch" in line]
    assert "training on CPUs: torch cannot use the GPUs of " in warning
    assert inspect_gpus().problem in warning
    assert "1 worker on cpu" in result.stdout

    result = run_command(*command, "train.use_gpu=true", "name=h", env=two_nodes.environment, timeout=280)
    assert result.returncode == 2
    assert "error: train.use_gpu asks for GPUs: torch cannot use the GPUs of " in result.stderr.splitlines()[-1]
    assert not (tmp_path / "runs" / "h").exists()


@pytest.mark.root
@pytest.mark.launcher
@pytest.mark.timeout(900)
def test_workers_wait_for_an_installation_that_takes_longer_than_their_start(tmp_path: Path) -> None:
    """Ray Train lets workers start for a minute; an installation of 90 s on a new node is no reason to restart."""
    seconds = 90
    with (
        start_ray_head(0, RAY_RUNTIME_ENV_PLUGINS=PLUGINS) as head,
        join_second_node(head, Path(head.environment["HOME"], "n2"), variables={SECONDS_VARIABLE: str(seconds)}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_AUTH_MODE", "disabled")
        files = [(f"experiments/{name}", REPOSITORY / "experiments" / name) for name in ("tickets.yaml", "tickets.csv")]
        environment = build_runtime_env(build_package(files=files).path, ["numpy"])
        del environment["pip"]
        client = create_client(head.dashboard_url)
        start = time.monotonic()
        settings = f"model.embedding=rand train.epochs=1 train.workers=2 storage={tmp_path}"
        job = client.submit_job(
            entrypoint=f"python -m finetune_cnn train experiments/tickets.yaml {settings}",
            runtime_env=environment | {"slow_installation": True},
        )
        wait_for(lambda: client.get_job_status(job).is_terminal(), "the end of the job", timeout=600)
        log = client.get_job_logs(job)
    assert (tmp_path / "tickets" / "best.json").exists(), log
    assert time.monotonic() - start > seconds
    assert "were lost" not in log
