"""ray_cluster.yaml is what `ray up` takes, and keeps its promises."""

import re

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.package import REPOSITORY


@pytest.fixture(scope="module")
def config() -> dict:
    return yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())


def test_ray_up_accepts_the_file(config: dict) -> None:
    """The launcher's own validation passes."""
    validate_config(prepare_config(config))


def test_a_misspelt_key_would_be_refused(config: dict) -> None:
    """The validation that the test above relies on does refuse."""
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(config | {"max_worker": 3}))


def test_the_head_is_small_and_gpu_workers_start_from_zero(config: dict) -> None:
    """No GPU is paid for until work asks for one."""
    types = config["available_node_types"]
    assert "GPU" not in types[config["head_node_type"]]["resources"]
    workers = [each for name, each in types.items() if name != config["head_node_type"]]
    assert workers
    assert all(each["min_workers"] == 0 and each["resources"]["GPU"] >= 1 for each in workers)


def test_every_node_starts_ray_with_token_authentication(config: dict) -> None:
    """Head and workers get the token's file, and switch it on."""
    assert "~/.ray/auth_token" in config["file_mounts"]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)


def test_images_bring_the_pinned_ray(config: dict) -> None:
    """The image's Ray is the one of requirements.lock."""
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    for key in ("head_image", "worker_image"):
        assert f":{pinned[1]}-py311" in config["docker"][key]
