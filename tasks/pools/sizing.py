"""How many actors each stage gets, from its configuration and what the cluster has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import ConfigError

# Fractions of a GPU are added up in floating point: three thirds must still fit into one.
_TOLERANCE = 1e-6
# What processes that take turns on one GPU lose by it. An estimate until it is measured on one.
_SHARING_LOSS = 0.03


def size_pools(
    pools: Mapping[str, PoolConfig],
    resources: Mapping[str, float],
    num_clips: int | None = None,
    seconds: Mapping[str, float] | None = None,
) -> dict[str, int]:
    """Return the number of actors per stage that make the most clips per hour, between each pool's floor and ceiling.

    `resources` are Ray's (`CPU`, `GPU`, custom ones), `seconds` what a clip takes in each stage: the slowest stage,
    clips per second of all its actors, gets the next actor as long as there is room for it; faster stages than the
    slowest would only wait. Without `seconds` stages grow in turn. A stage never gets more actors than it has batches.
    Stages that share GPUs (`sharing_stages`) take turns: each gets one actor on every GPU there is.
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

    sharing = sharing_stages(pools)

    def may_grow(stage: str) -> bool:
        pool = pools[stage]
        batches = math.inf if num_clips is None else math.ceil(num_clips / pool.batch_size)
        larger = {**sizes, stage: sizes[stage] + 1}
        return sizes[stage] < min(pool.max_actors, batches) and fits(pools, larger, resources)

    while True:
        if growing := [stage for stage in sharing if may_grow(stage)]:
            for stage in growing:
                sizes[stage] += may_grow(stage)
            continue
        if seconds is None:
            growing = [stage for stage in pools if may_grow(stage)]
            for stage in growing:
                # The room may have gone to one before it.
                sizes[stage] += may_grow(stage)
        else:
            slowest = min(pools, key=lambda stage: sizes[stage] / seconds[stage])
            growing = [slowest] if may_grow(slowest) else []
            sizes[slowest] += bool(growing)
        if not growing:
            return sizes


def fits(pools: Mapping[str, PoolConfig], sizes: Mapping[str, int], resources: Mapping[str, float]) -> bool:
    """Tell whether pools of these sizes have room: by the sums, and one actor of each sharing stage on a GPU."""
    sharing = sharing_stages(pools)
    gpu_of_each = sum(pools[stage].num_gpus for stage in sharing)
    if any(sizes[stage] * gpu_of_each > resources.get("GPU", 0.0) + _TOLERANCE for stage in sharing):
        return False
    needed = needed_resources(pools, sizes)
    return all(amount <= resources.get(name, 0.0) + _TOLERANCE for name, amount in needed.items())


def sharing_stages(pools: Mapping[str, PoolConfig]) -> list[str]:
    """Return the stages that take turns on the same GPUs: those that ask for shares, where these fit into one GPU."""
    sharing = [stage for stage, pool in pools.items() if 0 < pool.num_gpus < 1]
    return sharing if sum(pools[stage].num_gpus for stage in sharing) <= 1 + _TOLERANCE else []


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to place the stages that take GPUs: `num_gpus` of each actor, how many of them, and what that makes."""

    num_gpus: float
    actors: Mapping[str, int]
    clips_per_s: float

    def settings(self) -> list[str]:
        """Return it as settings of the configuration."""
        each = {"num_gpus": f"{self.num_gpus:g}"}
        return [
            f"{stage}.pool.{name}={value}"
            for stage, number in self.actors.items()
            for name, value in {**each, "max_actors": str(number)}.items()
        ]


def best_layout(
    gpu_s: Mapping[str, float], num_gpus: int, memory_gib: Mapping[str, float], gpu_memory_gib: float | None
) -> Layout | None:
    """Return the faster of two layouts on GPUs that are alike; None where neither has room.

    Whole GPUs, each of one stage: the slowest stage decides, which on few GPUs leaves much of them idle. Or every stage
    resident on every GPU, each actor with the same exact share 1/n (Ray places no others reliably, nor shares beside
    whole ones): no GPU idles while any of its stages has work, and taking turns costs `_SHARING_LOSS`. `gpu_s` are
    seconds of a whole GPU per clip, by stage; `memory_gib` what an actor of a stage keeps, where that is known.
    """
    layouts = []
    if len(gpu_s) <= num_gpus:
        actors = dict.fromkeys(gpu_s, 1)
        for _ in range(num_gpus - len(gpu_s)):
            actors[min(actors, key=lambda stage: actors[stage] / gpu_s[stage])] += 1
        layouts.append(Layout(1.0, actors, min(actors[stage] / gpu_s[stage] for stage in gpu_s)))
    if gpu_memory_gib is None or sum(memory_gib.get(stage, 0.0) for stage in gpu_s) <= gpu_memory_gib:
        rate = num_gpus / sum(gpu_s.values()) * (1 - _SHARING_LOSS)
        layouts.append(Layout(1 / len(gpu_s), dict.fromkeys(gpu_s, num_gpus), rate))
    # The first of equals: whole GPUs are simpler.
    return max(layouts, key=lambda layout: layout.clips_per_s, default=None)


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
