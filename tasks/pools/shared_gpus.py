"""GPUs that stages share: one actor of each stage on every such GPU, where its exact share of it is reserved.

Ray would fill one GPU with actors of the same stage before it begins another, and such actors have nobody to take turns
with but each other. So each GPU is one bundle (a placement group of Ray's) that has room for one actor of each stage.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from magicvideo_core.config import PoolConfig
from tasks.pools.sizing import needed_resources, sharing_stages


class SharedGpus:
    """The shared GPUs of a run, by number. Thread-safe; Ray finds them when their first actor starts."""

    def __init__(
        self,
        pools: Mapping[str, PoolConfig],
        reserve: Callable[[Mapping[str, float]], Any],
        give_back: Callable[[Any], object],
    ) -> None:
        """`reserve` gives a placement group of Ray's with one bundle of these resources, `give_back` ends one."""
        self._stages = sharing_stages(pools)
        # Ray counts in ten-thousandths: three thirds are 0.9999 of a GPU.
        needed = needed_resources(pools, {stage: int(stage in self._stages) for stage in pools})
        self.bundle = {name: round(amount, 4) for name, amount in needed.items()}
        self._reserve, self._give_back = reserve, give_back
        self._lock = threading.Lock()
        self._groups: dict[int, Any] = {}

    def where(self, stage: str, number: int) -> dict[str, Any]:
        """Return Ray's options for the actor of a stage on the GPU with this number; none where it shares none."""
        if stage not in self._stages:
            return {}
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        with self._lock:
            if number not in self._groups:
                self._groups[number] = self._reserve(self.bundle)
            strategy = PlacementGroupSchedulingStrategy(self._groups[number], placement_group_bundle_index=0)
        return {"scheduling_strategy": strategy}

    def give_back(self) -> None:
        """Let the cluster have the GPUs again, when no actor is left. Never raises."""
        import ray

        with self._lock:
            groups, self._groups = list(self._groups.values()), {}
        for group in groups if ray.is_initialized() else ():
            with contextlib.suppress(Exception):
                self._give_back(group)
