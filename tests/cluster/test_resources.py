"""What a run asks for is compared with what the cluster has, and what a dead one held is given back."""

import pytest

from cluster import resources

pytestmark = pytest.mark.ray


def test_what_does_not_fit_is_refused_with_what_was_asked_and_what_there_is(embedded_ray: None) -> None:
    """Workers too many or too large, or GPUs that are not there; what fits waits for nothing."""
    assert resources.check_capacity(4, 1, gpus_per_worker=0) is None
    assert resources.check_capacity(2, 2, gpus_per_worker=0) is None
    for asked, message in (
        ((5, 1, False), "asks for 5 workers of 1 CPU each; there are 4 CPUs on 1 node, and this cluster does not grow"),
        ((1, 5, False), "asks for 1 worker of 5 CPUs each; there are 4 CPUs on 1 node"),
        ((3, 2, False), "asks for 3 workers of 2 CPUs each; there are 4 CPUs"),
        ((1, 1, True), "asks for 1 worker of 1 CPU and a GPU each; there are 4 CPUs and 0 GPUs on 1 node"),
    ):
        with pytest.raises(resources.ResourceError, match=message):
            resources.check_capacity(*asked)


def test_placement_groups_that_a_dead_controller_held_are_given_back(embedded_ray: None) -> None:
    """Those of this driver; then all CPUs are free again."""
    import time

    import ray
    from ray.util.placement_group import placement_group

    @ray.remote(num_cpus=0)
    class Controller:
        def hold(self) -> None:
            ray.get(placement_group([{"CPU": 1}] * 4).ready())

    controller = Controller.remote()
    ray.get(controller.hold.remote())
    ray.kill(controller)
    assert ray.available_resources().get("CPU", 0) == 0
    resources.remove_placement_groups()
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < 4:
        assert time.monotonic() < deadline, "they are still held"
        time.sleep(0.2)
    assert resources.describe_free_resources() == "4 of 4 CPUs free on 1 node"
