"""What a run took so far, in the words of its forecast."""

from collections.abc import Mapping
from typing import Any

from magicvideo_core.manifest.tally import Tally


def actual(tally: Tally, last_stage: str, expected: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a run took so far, in the words of its forecast; wall time is that of its sessions while they computed.

    What was `held` of GPUs, and its cost, only beside a forecast, which says how many there were and what they cost.
    """
    held_gpu_h = cost = None
    wall_s, done = tally.wall_s(), tally.select(last_stage, status="succeeded", is_reused=False).num_clips
    if expected is not None:
        held_gpu_h = round(wall_s * expected["resources"].get("GPU", 0.0) / 3600, 4)
        price = expected["price_per_gpu_hour"]
        cost = None if price is None else round(held_gpu_h * price, 2)
    return {
        "clips_per_hour": round(done / wall_s * 3600, 2) if wall_s and done else None,
        "wall_s": round(wall_s, 1),
        "busy_gpu_hours": round(tally.select(is_reused=False).gpu_s / 3600, 4),
        "held_gpu_hours": held_gpu_h,
        "cost": cost,
        "storage_bytes": tally.select().size_bytes,
    }
