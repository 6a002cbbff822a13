"""What waits warm in a Ray cluster between runs, for people: to look at, and to end."""

from tasks.environment import set_environment
from tasks.pools.warm import WarmActor, end_warm, list_warm
from tasks.ray_cluster import connect_to_ray


def warm_actors() -> list[WarmActor]:
    """Return the actors that runs with `--keep-warm` have in the cluster at RAY_ADDRESS. Raises ConfigError."""
    _connect()
    return list_warm()


def end_warm_actors() -> int:
    """End those of them that no run has; returns how many. Raises ConfigError."""
    _connect()
    return end_warm()


def _connect() -> None:
    set_environment()
    connect_to_ray(0, outlives_process=True)
