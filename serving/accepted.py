"""The choice of checkpoints that was accepted last, for replicas that start while the one after it is refused.

Serve gives a new replica the `user_config` as it stands. Where what it names was refused by those that run, a new one
has nothing to go on serving; so what was accepted is kept by Ray, as long as the cluster lives.
"""

from serving.models import Choice

_NAMESPACE = "serving.accepted"


def remember(choice: Choice) -> None:
    """Keep a choice for this deployment; outside of a replica nothing happens."""
    from ray.experimental.internal_kv import _internal_kv_put

    if key := _key():
        _internal_kv_put(key, choice.model_dump_json(), namespace=_NAMESPACE)


def recall() -> Choice | None:
    """Return the choice that any replica of this deployment remembered last."""
    from ray.experimental.internal_kv import _internal_kv_get

    found = (key := _key()) and _internal_kv_get(key, namespace=_NAMESPACE)
    return Choice.model_validate_json(found) if found else None


def _key() -> str | None:
    from ray.serve import get_replica_context
    from ray.serve.exceptions import RayServeException

    try:
        context = get_replica_context()
    except RayServeException:
        return None
    return f"{context.app_name}/{context.deployment}"
