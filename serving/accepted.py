"""The choice of checkpoints that was accepted last, for replicas that start while the one after it is refused.

Serve gives a new replica the `user_config` as it stands. Where what it names was refused by those that run, a new one
has nothing to go on serving; so what was accepted is kept by Ray, for as long as the deployment is not deleted.
"""

import logging

from serving.web.served_models import UserConfig

_NAMESPACE = "serving.accepted"

logger = logging.getLogger("ray.serve")


def save_last_good_config(choice: UserConfig) -> None:
    """Keep a choice for this deployment; outside of a replica nothing happens. It waits for Ray."""
    from ray.experimental.internal_kv import _internal_kv_put

    try:
        if key := _key():
            _internal_kv_put(key, choice.model_dump_json(), namespace=_NAMESPACE)
    except Exception:  # the checkpoint is served all the same
        logger.exception("which checkpoint was accepted cannot be kept")


def load_last_good_config() -> UserConfig | None:
    """Return the choice that any replica of this deployment remembered last. It waits for Ray."""
    from ray.experimental.internal_kv import _internal_kv_get

    try:
        found = (key := _key()) and _internal_kv_get(key, namespace=_NAMESPACE)
        return UserConfig.model_validate_json(found) if found else None
    except Exception:  # the refusal is what counts
        logger.exception("which checkpoint was accepted before cannot be read")
        return None


def _key() -> str | None:
    """Return a name that no other deployment has, one of the same name after this one's deletion neither."""
    import ray
    from ray.serve import context, get_replica_context
    from ray.serve.exceptions import RayServeException
    from ray.serve.generated.serve_pb2 import DeploymentRoute

    try:
        own = get_replica_context()
    except RayServeException:
        return None
    controller = context._get_global_client()._controller
    told = ray.get(controller.get_deployment_info.remote(own.deployment, own.app_name), timeout=10)
    since = DeploymentRoute.FromString(told).deployment_info.start_time_ms
    return f"{own.app_name}/{own.deployment}/{since}"
