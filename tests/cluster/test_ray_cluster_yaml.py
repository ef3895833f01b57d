"""ray_cluster.yaml and ray_cluster.local.yaml are what `ray up` takes, and keep their promises."""

import re

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.package import REPOSITORY


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((REPOSITORY / "ray_cluster.yaml").read_text())


@pytest.fixture(params=["ray_cluster.yaml", "ray_cluster.local.yaml"])
def either(request: pytest.FixtureRequest) -> dict:
    return yaml.safe_load((REPOSITORY / request.param).read_text())


def test_ray_up_accepts_the_file(either: dict) -> None:
    """The launcher's own validation passes."""
    validate_config(prepare_config(either))


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


def test_every_node_starts_ray_with_token_authentication(either: dict) -> None:
    """Head and workers get the token's file, and switch it on; the dashboard is not for others."""
    assert "~/.ray/auth_token" in either["file_mounts"]
    assert "--dashboard-host=127.0.0.1" in either["head_start_ray_commands"][-1]
    for commands in (either["head_start_ray_commands"], either["worker_start_ray_commands"]):
        starts = [command for command in commands if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token" in command for command in starts)


def test_every_node_gets_the_pinned_packages_the_code_and_the_switches_of_serve(either: dict) -> None:
    """What is large or private stays here."""
    floors = {"cluster", "jobs", "serving", "experiments", "requirements.lock"}
    assert set(either["file_mounts"].values()) - {"~/.ray/auth_token"} == floors
    assert any("pip install" in each and "requirements.lock" in each for each in either["setup_commands"])
    for commands in (either["head_start_ray_commands"], either["worker_start_ray_commands"]):
        assert 'eval "$(python -m serving switches)"; ray start' in commands[-1]
        assert "PYTHONPATH=$HOME/finetune-cnn" in commands[-1]


def test_gpu_workers_are_spot_instances(config: dict) -> None:
    """The head is not: with it the cluster would go."""
    spot = {name for name, each in config["available_node_types"].items() if "MarketType: spot" in yaml.safe_dump(each)}
    assert spot == {"gpu_worker"}


def test_images_bring_the_pinned_ray(config: dict) -> None:
    """The image's Ray is the one of requirements.lock."""
    pinned = re.search(r"^ray==(.+)$", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    assert pinned
    for key in ("head_image", "worker_image"):
        assert f":{pinned[1]}-py311" in config["docker"][key]
