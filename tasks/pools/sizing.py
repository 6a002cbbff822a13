"""How many actors each stage gets, from its configuration and what the cluster has."""

import math
from collections.abc import Mapping
from typing import Any

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import ConfigError

# Fractions of a GPU are added up in floating point: three thirds must still fit into one.
_TOLERANCE = 1e-6


def size_pools(
    pools: Mapping[str, PoolConfig], resources: Mapping[str, float], num_clips: int | None = None
) -> dict[str, int]:
    """Return the number of actors per stage: every stage's floor first, then one each in turn up to its ceiling.

    `resources` are Ray's (`CPU`, `GPU`, custom ones). A stage never gets more actors than it has batches.
    Raises ConfigError naming the resource when not even the floors fit.
    """
    sizes = {stage: pool.min_actors for stage, pool in pools.items()}
    for name, needed in needed_resources(pools, sizes).items():
        if needed > resources.get(name, 0.0) + _TOLERANCE:
            keys = ", ".join(f"{stage}.pool.{_key(name)}={_demand(pool)[name]:g}" for stage, pool in pools.items())
            raise ConfigError(
                f"The pools need {needed:g} {name} at least and the cluster has {resources.get(name, 0.0):g}: "
                f"lower {keys} or min_actors, or use a larger cluster."
            )
    growing = True
    while growing:
        growing = False
        for stage, pool in pools.items():
            batches = math.inf if num_clips is None else math.ceil(num_clips / pool.batch_size)
            larger = {**sizes, stage: sizes[stage] + 1}
            fits = all(
                needed <= resources.get(name, 0.0) + _TOLERANCE
                for name, needed in needed_resources(pools, larger).items()
            )
            if sizes[stage] < min(pool.max_actors, batches) and fits:
                sizes, growing = larger, True
    return sizes


def needed_resources(pools: Mapping[str, PoolConfig], sizes: Mapping[str, int]) -> dict[str, float]:
    """Return what pools of these sizes take from the cluster, by Ray's resource name; only what is not zero."""
    needed: dict[str, float] = {}
    for stage, pool in pools.items():
        for name, amount in _demand(pool).items():
            needed[name] = needed.get(name, 0.0) + amount * sizes[stage]
    return {name: amount for name, amount in needed.items() if amount > 0}


def actor_options(pool: PoolConfig) -> dict[str, Any]:
    """Return Ray's options for one actor of a pool. Ray itself never restarts or retries: the pool bounds both."""
    return {
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus,
        "resources": dict(pool.resources),
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_concurrency": 1,
    }


def _demand(pool: PoolConfig) -> dict[str, float]:
    demand: dict[str, float] = {"CPU": pool.num_cpus, "GPU": pool.num_gpus}
    for name, amount in pool.resources.items():
        demand[name] = demand.get(name, 0.0) + amount
    return demand


def _key(resource: str) -> str:
    return {"CPU": "num_cpus", "GPU": "num_gpus"}.get(resource, f"resources.{resource}")
