"""Places that outlive a run: shared GPUs that a process of its own keeps reserved in Ray for the warm actors on them.

Ray ends a reservation with whoever made it, so here that is a small detached actor, and who has it has its GPUs. It is
claimed, heard of and over as a warm actor is (`tenancy.py`), a little later than those, so that they end in peace.
"""

import contextlib
import os
import secrets
import threading
from collections.abc import Mapping
from typing import Any

from magicvideo_core.ids import short_hash
from tasks.pools.tenancy import Tenancy, WarmTerms

# The second part of a name, where warm actors have their stage.
PLACES = "places"
_OUTLIVES_ACTORS_S = 15.0
_ANSWER_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 60.0


class PlacesProcess:
    """The reserved GPUs of one run at a time, in a process of its own. Calls name their `owner`."""

    def __init__(self, owner: str, terms: WarmTerms, bundle: Mapping[str, float]) -> None:
        self._tenancy = Tenancy(owner, terms)
        self._bundle = dict(bundle)
        self._groups: list[Any] = []
        threading.Thread(target=self._end_in_time, name="tenancy", daemon=True).start()

    def reserve(self, owner: str) -> Any:
        """Return one more reservation (Ray's placement group); None where the caller has it no more."""
        from ray.util.placement_group import placement_group

        with self._tenancy.at_work_for(owner) as is_owner:
            if is_owner:
                self._groups.append(placement_group([self._bundle]))
            return self._groups[-1] if is_owner else None

    def claim(self, owner: str, terms: WarmTerms) -> list[Any] | None:
        """Return all reservations for another run; None where that may not have them."""
        return self._groups if self._tenancy.claim(owner, terms) else None

    def hear(self, owner: str) -> None:
        """Note that the run lives."""
        self._tenancy.hear(owner)

    def release(self, owner: str) -> None:
        """Wait for another run."""
        self._tenancy.release(owner)

    def retire(self) -> bool:
        """Give the GPUs back where no run has them; tells whether the process may be killed."""
        is_free = self._tenancy.end_if_free()
        if is_free:
            self._give_back()
        return is_free

    def _give_back(self) -> None:
        from ray.util.placement_group import remove_placement_group

        for group in self._groups:
            with contextlib.suppress(Exception):
                remove_placement_group(group)

    def _end_in_time(self) -> None:
        self._tenancy.wait_until_over()
        self._give_back()
        os._exit(0)


class Places:
    """The shared GPUs of one run: those of a run before, then new ones, which stay where the run's actors are to."""

    def __init__(self, owner: str, keep_warm_s: float, lease_s: float, namespace: str) -> None:
        self._owner, self._keep_warm_s, self._lease_s, self._namespace = owner, keep_warm_s, lease_s, namespace
        self._lock = threading.Lock()
        self._found: list[Any] = []
        self._kept: set[str] = set()
        self._processes: list[Any] = []
        self._own: Any = None

    def claim(self, found: Mapping[str, Any], bundle: Mapping[str, float]) -> set[str]:
        """Take over what fits of the processes found, by name, and nobody has; returns the ids of the reservations."""
        import ray

        terms = self._terms(bundle)
        for name, process in found.items():
            if name.partition(".")[0] != terms.key:
                continue
            # It may have ended meanwhile.
            with contextlib.suppress(Exception):
                groups = ray.get(_ask(process, "claim", self._owner, terms), timeout=_ANSWER_TIMEOUT_S)
                if groups is not None:
                    self._processes.append(process)
                    self._found += groups
        self._kept = {group_id(group) for group in self._found}
        return set(self._kept)

    def reserve(self, bundle: Mapping[str, float]) -> Any:
        """Return a GPU with room for one actor of each sharing stage, as Ray's placement group; does not wait for room."""
        import ray
        from ray.util.placement_group import placement_group

        with self._lock:
            if self._found:
                return self._found.pop(0)
            if not self._keep_warm_s:
                return placement_group([bundle])
            if self._own is None:
                self._own = self._start(bundle)
                self._processes.append(self._own)
            group = ray.get(_ask(self._own, "reserve", self._owner), timeout=_START_TIMEOUT_S)
            self._kept.add(group_id(group))
            return group

    def give_back(self, group: Any) -> None:
        """Let the cluster have a GPU again that no process keeps."""
        from ray.util.placement_group import remove_placement_group

        if group_id(group) not in self._kept:
            remove_placement_group(group)

    def send_heartbeats(self) -> None:
        """Let the processes know that their run lives. Does not wait, never raises."""
        for process in list(self._processes):
            with contextlib.suppress(Exception):
                _ask(process, "hear", self._owner)

    def close(self, *, stays_warm: bool) -> None:
        """Leave what is kept to another run, or give it back. Never raises."""
        import ray

        for process in self._processes if ray.is_initialized() else ():
            with contextlib.suppress(Exception):
                ray.get(_ask(process, "release", self._owner), timeout=_ANSWER_TIMEOUT_S)
                if not stays_warm and ray.get(_ask(process, "retire"), timeout=_ANSWER_TIMEOUT_S):
                    ray.kill(process, no_restart=True)

    def _start(self, bundle: Mapping[str, float]) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        terms = self._terms(bundle)
        # Beside the driver: a node that leaves then takes no other node's reservations with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {
            "name": f"{terms.key}.{PLACES}..{secrets.token_hex(4)}",
            "namespace": self._namespace,
            "lifetime": "detached",
            "num_cpus": 0,
            "scheduling_strategy": here,
            "concurrency_groups": {"io": 4},
        }
        return ray.remote(**options)(PlacesProcess).remote(self._owner, terms, dict(bundle))

    def _terms(self, bundle: Mapping[str, float]) -> WarmTerms:
        key = short_hash([PLACES, dict(bundle)])
        return WarmTerms(key, self._keep_warm_s + _OUTLIVES_ACTORS_S, 0.0, self._lease_s)


def group_id(group: Any) -> str:
    """Return the id of a reservation as it stands in the names of the actors there."""
    return str(group.id.hex())


def _ask(process: Any, method: str, *arguments: Any) -> Any:
    return getattr(process, method).options(concurrency_group="io").remote(*arguments)
