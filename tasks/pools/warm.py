"""Warm actors: Ray actors that outlive their run, for a following run of the same recipe in the same cluster.

They are detached, named after what they have loaded and where, and lie in a namespace of their own. Whoever finds one takes it
over by a claim that the actor itself grants (`tenancy.py`), so two runs never share one; a run that lives says so several
times a minute, so the actors of a dead driver are free again after `LEASE_S`, and end themselves after their idle time.
"""

import contextlib
import secrets
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from magicvideo_core.config import PoolConfig
from magicvideo_core.ids import short_hash
from magicvideo_core.logs import event
from magicvideo_core.stages.base import keyframe_fps
from magicvideo_core.stages.registry import weights_digest
from tasks.pools.clip_work import StageJob
from tasks.pools.places import PLACES, Places, group_id
from tasks.pools.remote import PoolActor, RayStageActor, WarmHandle
from tasks.pools.sizing import actor_options
from tasks.pools.tenancy import WarmTerms, code_version

NAMESPACE = "magicvideo-warm"
LEASE_S = 60.0
_HEARTBEATS_PER_LEASE = 6
_ANSWER_TIMEOUT_S = 10.0


def warm_key(job: StageJob) -> str:
    """Return a hash of all that an actor's loaded stage depends on: settings, weights, code, and its place in Ray."""
    config, stage = job.config, job.config.stage(job.stage)
    settings = stage.model_dump(mode="json", exclude={"pool", "gate"})
    options = actor_options(stage.pool)
    place = [options[name] for name in ("num_cpus", "num_gpus", "resources")]
    loaded = [job.stage, settings, keyframe_fps(config), config.device, weights_digest(job.stage, config)]
    return short_hash([*loaded, place, stage.pool.batch_size, code_version()])


@dataclass(frozen=True)
class WarmActor:
    """A warm actor as `magicvideo pools` shows it; `run_id` is that of the run that has it, or None."""

    name: str
    stage: str
    run_id: str | None
    node_id: str
    pid: int
    idle_s: float
    idle_limit_s: float


class WarmActors:
    """The warm actors of a run's cluster, for the pools of the run. Thread-safe."""

    def __init__(self, run_id: str, keep_warm_s: float, lease_s: float = LEASE_S) -> None:
        """With a `keep_warm_s` of 0 actors are taken over, and ended with the run."""
        # A run that is continued is another tenant: the former one's driver may still be dying.
        self._owner = f"{run_id}/{secrets.token_hex(4)}"
        self._keep_warm_s = keep_warm_s
        self._lease_s = lease_s
        self._keys: dict[str, str] = {}
        self.places = Places(self._owner, keep_warm_s, lease_s, NAMESPACE)
        self._lock = threading.Lock()
        # By what they have loaded, and where they share a GPU.
        self._waiting: dict[tuple[str, str], deque[str]] = defaultdict(deque)
        self._ours: list[WarmHandle] = []
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def look_around(
        self, jobs: Mapping[str, StageJob], sizes: Mapping[str, int], bundle: Mapping[str, float] | None = None
    ) -> None:
        """Find what can be taken over, no more than each stage wants, and end the rest that nobody has: it takes room.

        `bundle` is what the stages that share GPUs take of each.
        """
        import ray

        found = _found()
        if not found:
            return
        wanted = {self._key_of(jobs[stage]): size for stage, size in sizes.items()}
        processes = {name: handle for name, handle in found.items() if _is_places(name)}
        places = self.places.claim(processes, bundle) if bundle else set()
        superfluous, in_the_way = [], []
        for name, handle in found.items():
            key, place = name.partition(".")[0], _place_of(name)
            fits = not place or place in places
            if name not in processes and fits and len(self._waiting[key, place]) < wanted.get(key, 0):
                self._waiting[key, place].append(name)
            elif name not in processes:
                superfluous.append(handle)
                in_the_way += [handle] if place in places else []
        _end_idle(superfluous)
        for handle in in_the_way:
            # Even one at work for a dead driver: the place is this run's.
            ray.kill(handle, no_restart=True)
        # After the actors there; those that were claimed stay.
        _end_idle(list(processes.values()))
        self._keep_alive()

    def start(self, job: StageJob, pool: PoolConfig, where: Mapping[str, Any]) -> PoolActor:
        """Return an actor of a stage: a warm one where there is one, or else a new one.

        `where` are Ray's options that choose its place; on a shared GPU only who is there already can be taken over.
        """
        with self._lock:
            is_any_waiting = any(self._waiting.values())
        if not (is_any_waiting or self._keep_warm_s):
            return RayStageActor(job, pool, where)
        place = group_id(where["scheduling_strategy"].placement_group) if where else ""
        terms = WarmTerms(self._key_of(job), self._keep_warm_s, pool.clip_timeout_s * pool.batch_size, self._lease_s)
        while (name := self._next(terms.key, place)) is not None:
            if (taken := self._take_over(name, job, pool, terms)) is not None:
                return taken
        if not self._keep_warm_s:
            return RayStageActor(job, pool, where)
        name = f"{terms.key}.{job.stage}.{place}.{secrets.token_hex(4)}"
        warm = WarmHandle(self._owner, terms, name, NAMESPACE)
        actor = RayStageActor(job, pool, where, warm)
        self._keep_alive(warm)
        return actor

    def close(self, *, in_peace: bool = True) -> None:
        """Say no more that the run lives; where it ended `in_peace`, what is to stay warm stays."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        self.places.close(stays_warm=in_peace and self._keep_warm_s > 0)

    def _key_of(self, job: StageJob) -> str:
        with self._lock:
            if job.stage not in self._keys:
                self._keys[job.stage] = warm_key(job)
            return self._keys[job.stage]

    def _next(self, key: str, place: str) -> str | None:
        with self._lock:
            return self._waiting[key, place].popleft() if self._waiting[key, place] else None

    def _take_over(self, name: str, job: StageJob, pool: PoolConfig, terms: WarmTerms) -> PoolActor | None:
        import ray

        # It may have ended meanwhile, or be busy for a dead driver: then it is not taken.
        with contextlib.suppress(Exception):
            handle = ray.get_actor(name, namespace=NAMESPACE)
            claim = handle.claim.options(concurrency_group="io").remote(self._owner, terms, job, code_version())
            if (info := ray.get(claim, timeout=_ANSWER_TIMEOUT_S)) is not None:
                event("actor taken over", stage=job.stage, actor=info.actor_id)
                warm = WarmHandle(self._owner, terms, name, NAMESPACE, handle, info)
                self._keep_alive(warm)
                return RayStageActor(job, pool, warm=warm)
            if _place_of(name):
                # The place is this run's.
                ray.kill(handle, no_restart=True)
        return None

    def _keep_alive(self, *warm: WarmHandle) -> None:
        with self._lock:
            self._ours += warm
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_heartbeats, name="warm-heartbeats", daemon=True)
                self._thread.start()

    def _send_heartbeats(self) -> None:
        while not self._ending.wait(self._lease_s / _HEARTBEATS_PER_LEASE):
            with self._lock:
                ours = list(self._ours)
            for warm in ours:
                warm.send_heartbeat()
            self.places.send_heartbeats()


def list_warm() -> list[WarmActor]:
    """Return the warm actors of the cluster that this process is connected to; those that do not answer are left out."""
    answers = _ask_all({name: handle for name, handle in _found().items() if not _is_places(name)}, "describe")
    return sorted((WarmActor(name=name, **told) for name, told in answers.items()), key=lambda actor: actor.name)


def end_warm() -> int:
    """End the warm actors that no run has, and give the GPUs back that they share; returns how many actors."""
    found = _found()
    num_ended = _end_idle([handle for name, handle in found.items() if not _is_places(name)])
    _end_idle([handle for name, handle in found.items() if _is_places(name)])
    return num_ended


def _end_idle(handles: list[Any]) -> int:
    """End those of these that no run has; returns how many."""
    import ray

    retired = [number for number, done in _ask_all(dict(enumerate(handles)), "retire").items() if done]
    for number in retired:
        ray.kill(handles[number], no_restart=True)
    return len(retired)


def _is_places(name: str) -> bool:
    return name.split(".")[1] == PLACES


def _place_of(name: str) -> str:
    return name.split(".")[2]


def _found() -> dict[str, Any]:
    """Return the warm actors of the cluster, by name."""
    import ray

    found = {}
    for named in ray.util.list_named_actors(all_namespaces=True):
        if named["namespace"] == NAMESPACE:
            # One that has just ended may still be listed.
            with contextlib.suppress(ValueError):
                found[named["name"]] = ray.get_actor(named["name"], namespace=NAMESPACE)
    return found


def _ask_all(handles: Mapping[Any, Any], method: str) -> dict[Any, Any]:
    """Call a method of many actors at once; returns what those say that answer in time."""
    import ray

    asked = {key: getattr(handle, method).options(concurrency_group="io").remote() for key, handle in handles.items()}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_TIMEOUT_S) if asked else None
    answers = {}
    for key, reference in asked.items():
        with contextlib.suppress(Exception):
            answers[key] = ray.get(reference, timeout=0)
    return answers
