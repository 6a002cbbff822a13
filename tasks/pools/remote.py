"""One stage actor as a pool sees it: a Ray actor behind plain blocking calls with time limits."""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from magicvideo_core.config import PoolConfig
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import ClipWork, Raised, StageActor, StageJob
from tasks.pools.sizing import actor_options

_PING_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 10.0
# Ray's own health checks take up to 20 s to call a node dead that went silent.
_DEATH_NEWS_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ActorInfo:
    """Where an actor runs, on what device, and how much of a GPU it holds (0..1, or whole GPUs)."""

    actor_id: str
    node_id: str
    pid: int
    device: str = "cpu"
    gpu_share: float = 0.0


class PoolActor(Protocol):
    """What a pool asks of an actor. Every call may raise one of Ray's errors (`failures.py`)."""

    def place(self) -> bool:
        """Wait until the process runs somewhere; False where Ray found no room within `placement_timeout_s`."""

    def load(self) -> ActorInfo:
        """Load the stage in the placed process."""

    def ping(self) -> None:
        """Return where the idle actor answers, so that a death between batches is blamed on none."""

    def run(self, works: Sequence[ClipWork], timeout_s: float) -> list[ManifestRow | Raised]:
        """Take a batch through the stage."""

    def was_cut_off(self) -> bool:
        """Tell whether the machine of a broken actor or the network to it failed, and not its process. Never raises."""

    def close(self) -> None:
        """Let the stage give its device back, then end the process. Never raises."""

    def kill(self) -> None:
        """End the process now, whatever it does. Never raises."""


class RayStageActor:
    """A `StageActor` in a Ray worker process; Ray places it, the pool replaces it."""

    def __init__(self, job: StageJob, pool: PoolConfig) -> None:
        import ray

        self._ray: Any = ray
        self._pool = pool
        self._node_id: str | None = None
        self._out_of_reach = False
        self._handle = ray.remote(StageProcess).options(**actor_options(pool)).remote(job)

    def place(self) -> bool:
        placed, _ = self._ray.wait([self._handle.ping.remote()], timeout=self._pool.placement_timeout_s)
        return bool(placed)

    def load(self) -> ActorInfo:
        info: ActorInfo = self._ray.get(self._handle.load.remote(), timeout=self._pool.load_timeout_s)
        self._node_id = info.node_id
        return info

    def ping(self) -> None:
        try:
            self._ray.get(self._handle.ping.remote(), timeout=_PING_TIMEOUT_S)
        except self._ray.exceptions.ActorUnavailableError:
            self._out_of_reach = True
            raise

    def run(self, works: Sequence[ClipWork], timeout_s: float) -> list[ManifestRow | Raised]:
        try:
            results: list[ManifestRow | Raised] = self._ray.get(self._handle.run.remote(list(works)), timeout=timeout_s)
        except self._ray.exceptions.ActorUnavailableError:
            self._out_of_reach = True
            raise
        return results

    def was_cut_off(self) -> bool:
        # Ray's calls start a Ray of their own where there is none any more.
        if not self._ray.is_initialized():
            return False
        with contextlib.suppress(Exception):
            if self._out_of_reach and not self._died_within(_DEATH_NEWS_TIMEOUT_S):
                return True
            alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
            return self._node_id is not None and self._node_id not in alive
        return False

    def _died_within(self, timeout_s: float) -> bool:
        """Wait for Ray to find out what became of an actor out of reach; False where it is not known to be dead."""
        ends_s = time.monotonic() + timeout_s
        while (left_s := ends_s - time.monotonic()) > 0:
            try:
                self._ray.get(self._handle.ping.remote(), timeout=left_s)
                return False
            except self._ray.exceptions.ActorUnavailableError:
                time.sleep(min(left_s, 1.0))
            except self._ray.exceptions.ActorDiedError:
                return True
        return False

    def close(self) -> None:
        if not self._ray.is_initialized():
            return
        # Killed processes leave contexts behind on a GPU, so the stage is asked first.
        with contextlib.suppress(Exception):
            self._ray.get(self._handle.close.remote(), timeout=_CLOSE_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        # With Ray its processes have ended.
        if not self._ray.is_initialized():
            return
        with contextlib.suppress(Exception):
            self._ray.kill(self._handle, no_restart=True)


class StageProcess:
    """A `StageActor` in its own process, named so that process lists and Ray's pages say what it is."""

    def __init__(self, job: StageJob) -> None:
        import ray

        context = ray.get_runtime_context()
        self._actor_id, self._node_id = context.get_actor_id(), context.get_node_id()
        self._actor = StageActor(job, self._actor_id)

    def ping(self) -> None:
        pass

    def load(self) -> ActorInfo:
        self._actor.load()
        return ActorInfo(self._actor_id, self._node_id, os.getpid(), self._actor.device, self._actor.gpu_share)

    def run(self, works: list[ClipWork]) -> list[ManifestRow | Raised]:
        return self._actor.run(works)

    def close(self) -> None:
        self._actor.close()
