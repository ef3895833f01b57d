"""Resources that a run requests, compared with those of the cluster; and release of those of a dead process."""

import time

import pytest
import ray
from ray.util.placement_group import placement_group

from cluster import resources

pytestmark = pytest.mark.ray


def test_workers_that_can_never_fit_are_an_error_with_request_and_capacity(embedded_ray: None) -> None:
    """Too many workers, too large ones, or missing GPUs; workers that fit do not wait."""
    assert resources.check_capacity(4, 1, gpus_per_worker=0) is None
    assert resources.check_capacity(2, 2, gpus_per_worker=0) is None
    for request, message in (
        (
            (5, 1, False),
            "asks for 5 workers of 1 CPU each; there are 4 CPUs on 1 node, and this cluster does not autoscale",
        ),
        ((1, 5, False), "asks for 1 worker of 5 CPUs each; there are 4 CPUs on 1 node"),
        ((3, 2, False), "asks for 3 workers of 2 CPUs each; there are 4 CPUs"),
        ((1, 1, True), "asks for 1 worker of 1 CPU and a GPU each; there are 4 CPUs and 0 GPUs on 1 node"),
    ):
        with pytest.raises(resources.ResourceError, match=message):
            resources.check_capacity(*request)


def test_placement_groups_of_a_dead_controller_are_removed(embedded_ray: None) -> None:
    """The groups of this driver are removed; afterwards all CPUs are free."""

    @ray.remote(num_cpus=0)
    class Controller:
        def reserve(self) -> None:
            ray.get(placement_group([{"CPU": 1}] * 4).ready())

    controller = Controller.remote()
    ray.get(controller.reserve.remote())
    ray.kill(controller)
    assert ray.available_resources().get("CPU", 0) == 0
    resources.remove_placement_groups()
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 4:
        assert time.monotonic() < deadline, "they are still reserved"
        time.sleep(0.2)
    assert resources.describe_free_resources() == "4 of 4 CPUs free on 1 node"
