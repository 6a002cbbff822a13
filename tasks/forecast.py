"""What a run will take, from what a clip costs and where it runs; `manifest.outlay` has what it took, in the same words."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicvideo_core.config import RunConfig
from tasks.costs import Costs
from tasks.pools.sizing import best_layout, size_pools


@dataclass(frozen=True, slots=True)
class Machines:
    """What a forecast counts on: Ray's resources, a price per GPU-hour, a GPU's memory. None: not known."""

    resources: Mapping[str, float]
    price_per_gpu_hour: float | None = None
    gpu_memory_gib: float | None = None


def resources_here() -> dict[str, float]:
    """Return this machine's cores, and its NVIDIA GPUs, counted by their device files: no driver need be loaded."""
    gpus = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdecimal()]
    return {"CPU": float(os.cpu_count() or 1), "GPU": float(len(gpus))}


def forecast(config: RunConfig, num_clips: Mapping[str, int], costs: Costs, machines: Machines) -> dict[str, Any]:
    """Return the forecast of a run as plain JSON values: pools, speed, wall time, GPU-hours, storage and cost.

    `num_clips` are those left in each stage. Wall time is the slowest stage's, or that of all GPUs or cores together
    where stages share them, after the loading and one clip's way to the end. GPU-hours are what clips take (`busy`) and
    what the machines are kept for (`held`), which is what costs. Raises ConfigError where the pools do not fit.
    """
    pools = {stage: config.stage(stage).pool for stage in config.stages}
    seconds = {stage: costs.stages[stage].seconds for stage in config.stages}
    most = max(num_clips.values(), default=0)
    sizes = size_pools(pools, machines.resources, most, seconds)
    gpu_s = {stage: _gpu_s(costs, stage, pools[stage].num_gpus) for stage in config.stages}
    cpu_s = {stage: costs.stages[stage].cpu_s or 0.0 for stage in config.stages}
    num_gpus, num_cpus = machines.resources.get("GPU", 0.0), machines.resources.get("CPU", 0.0)
    # 1. How long each thing that clips wait for is busy in all; the longest is the bottleneck.
    busy_s = {stage: num_clips[stage] * seconds[stage] / sizes[stage] for stage in config.stages}
    if num_gpus:
        busy_s["all GPUs"] = sum(num_clips[stage] * gpu_s[stage] for stage in config.stages) / num_gpus
    if num_cpus:
        busy_s["all CPUs"] = sum(num_clips[stage] * cpu_s[stage] for stage in config.stages) / num_cpus
    bottleneck = max(busy_s, key=lambda name: busy_s[name])
    first_s = max(costs.stages[stage].load_s for stage in config.stages) + sum(seconds.values())
    wall_s = first_s + busy_s[bottleneck] * (1 - 1 / most) if most else 0.0
    # 2. What that comes to.
    busy_gpu_h = sum(num_clips[stage] * gpu_s[stage] for stage in config.stages) / 3600
    held_gpu_h = wall_s * num_gpus / 3600
    sizes_bytes = [costs.stages[stage].size_bytes for stage in config.stages]
    known = None not in sizes_bytes
    price = machines.price_per_gpu_hour
    return {
        "source": costs.source,
        "resources": dict(machines.resources),
        "seconds_per_clip": {stage: round(value, 4) for stage, value in seconds.items()},
        "actors": sizes,
        "bottleneck": bottleneck,
        "clips_per_hour": round(most / busy_s[bottleneck] * 3600, 2) if most else None,
        "wall_s": round(wall_s, 1),
        "busy_gpu_hours": round(busy_gpu_h, 4),
        "held_gpu_hours": round(held_gpu_h, 4),
        "storage_bytes": _storage(num_clips, costs) if known else None,
        "cost": None if price is None else round(held_gpu_h * price, 2),
        "price_per_gpu_hour": price,
        "better": _better(config, costs, machines, most / busy_s[bottleneck] if most else 0.0),
    }


def _gpu_s(costs: Costs, stage: str, num_gpus: float) -> float:
    """Return the seconds of a whole GPU per clip; where none was measured, an actor has its GPU to itself meanwhile."""
    measured = costs.stages[stage].gpu_s
    return costs.stages[stage].seconds * max(num_gpus, 1.0) * bool(num_gpus) if measured is None else measured


def _storage(num_clips: Mapping[str, int], costs: Costs) -> int:
    return round(sum(number * (costs.stages[stage].size_bytes or 0.0) for stage, number in num_clips.items()))


def _better(config: RunConfig, costs: Costs, machines: Machines, clips_per_s: float) -> dict[str, Any] | None:
    """Return settings that make more clips per hour on the same GPUs, None where there are none."""
    shares = {stage: config.stage(stage).pool.num_gpus for stage in config.stages}
    on_gpus = {stage: gpu_s for stage in shares if shares[stage] and (gpu_s := _gpu_s(costs, stage, shares[stage]))}
    num_gpus = int(machines.resources.get("GPU", 0.0))
    if not on_gpus or not num_gpus or clips_per_s <= 0:
        return None
    memory_gib = {stage: costs.stages[stage].gpu_memory_gib for stage in on_gpus}
    layout = best_layout(on_gpus, num_gpus, memory_gib, machines.gpu_memory_gib)
    # A little more is within what nobody can forecast.
    if layout is None or layout.clips_per_s < 1.02 * clips_per_s:
        return None
    return {"clips_per_hour": round(layout.clips_per_s * 3600, 2), "settings": layout.settings()}
