"""ray_cluster.yaml and ray_cluster.local.yaml are valid for `ray up`, and have the documented properties."""

import re

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.package import REPOSITORY


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())


@pytest.fixture(params=["ray_cluster.yaml", "ray_cluster.local.yaml"])
def any_config(request: pytest.FixtureRequest) -> dict:
    return yaml.safe_load((REPOSITORY / request.param).read_text())


def test_ray_up_accepts_the_file(any_config: dict) -> None:
    """The launcher's own validation passes."""
    validate_config(prepare_config(any_config))


def test_a_misspelt_key_is_rejected(config: dict) -> None:
    """A misspelt key is an error, so the test above can fail."""
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config | {"max_worker": 3}))


def test_the_head_is_small_and_gpu_workers_start_from_zero(config: dict) -> None:
    """No GPU costs anything until a job requests one."""
    types = config["available_node_types"]
    assert "GPU" not in types[config["head_node_type"]]["resources"]
    workers = [node_type for name, node_type in types.items() if name != config["head_node_type"]]
    assert workers
    assert all(worker["min_workers"] == 0 and worker["resources"]["GPU"] >= 1 for worker in workers)


def test_gpu_workers_have_a_driver_and_an_image_that_uses_it(config: dict) -> None:
    """Ray's default image of a node has a driver that is too old for torch."""
    nodes = [node_type["node_config"] for node_type in config["available_node_types"].values()]
    assert all("/base-oss-nvidia-driver-gpu-ubuntu-" in node["ImageId"] for node in nodes)
    assert all(disk["Ebs"]["VolumeSize"] >= 100 for node in nodes for disk in node["BlockDeviceMappings"])
    assert config["docker"]["worker_image"].endswith("-gpu")
    assert config["docker"]["head_image"].endswith("-cpu")


def test_every_node_starts_ray_with_token_authentication(any_config: dict) -> None:
    """Head and workers have the token's file and require it; the dashboard listens on the loopback interface only."""
    assert "~/.ray/auth_token" in any_config["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in any_config["head_start_ray_commands"][-1]
    for commands in (any_config["head_start_ray_commands"], any_config["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)


def test_every_node_has_the_pinned_packages_the_code_and_the_environment_of_serve(any_config: dict) -> None:
    """Nothing large or private is copied."""
    folders = {"cluster", "jobs", "serving", "experiments", "requirements.lock"}
    assert set(any_config["file_mounts"].values()) - {"~/.ray/auth_token"} == folders
    assert any("pip install" in command and "requirements.lock" in command for command in any_config["setup_commands"])
    for commands in (any_config["head_start_ray_commands"], any_config["worker_start_ray_commands"]):
        assert 'eval "$(python -m serving switches)"; ray start' in commands[-1]
        assert "PYTHONPATH=$HOME/finetune-cnn" in commands[-1]


def test_gpu_workers_are_spot_instances(config: dict) -> None:
    """The head is not, because the cluster ends with it."""
    types = config["available_node_types"]
    spot = {name for name, node_type in types.items() if "MarketType: spot" in yaml.safe_dump(node_type)}
    assert spot == {"gpu_worker"}


def test_images_have_the_pinned_ray(config: dict) -> None:
    """The version in requirements.lock."""
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    for key in ("head_image", "worker_image"):
        assert f":{pinned[1]}-py311" in config["docker"][key]
