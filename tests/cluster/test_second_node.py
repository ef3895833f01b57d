"""Two Ray nodes on one machine, as in a local cluster: files of a job, and installations on the second node."""

import time
from pathlib import Path

import pytest

from benchmarks.ray_head import start_ray_head
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


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "folder",
    [pytest.param(None, id="shared folder", marks=[pytest.mark.root, pytest.mark.launcher]),
     pytest.param("n2", id="folders of their own")],
)  # fmt: skip
def test_nodes_of_one_machine_need_folders_of_their_own(folder: str | None, tmp_path: Path) -> None:
    """In a shared folder the second node replaces the unpacked code of a job that runs; `check` reports that."""
    (tmp_path / "finetune_cnn.py").write_text(READ_FILE)
    (tmp_path / "rows.csv").write_text("label,text\n")
    with (
        start_ray_head(1) as head,
        join_second_node(head, Path(head.environment["HOME"], folder) if folder else None, num_cpus=1),
    ):
        options = ("--address", head.dashboard_url)
        result = run_command(
            *("python", "-m", "cluster", "submit", *options, "--working-dir", str(tmp_path)),
            *("--include", "rows.csv", "--", "x"),
            env=head.environment,
            timeout=280,
        )
        checked = run_command("python", "-m", "cluster", "check", *options, env=head.environment, timeout=280)
    assert ("rows.csv exists: True True" in result.stdout) == (folder is not None), result.stdout + result.stderr
    assert ("share the temporary folder" in checked.stdout) == (folder is None), checked.stdout + checked.stderr
    assert checked.returncode == int(folder is None)


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
