"""One stage actor as a pool sees it: a Ray actor behind plain blocking calls with time limits."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from magicvideo_core.config import PoolConfig
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import ClipWork, Raised, StageActor, StageJob
from tasks.pools.sizing import actor_options

# Long enough to download weights from a hub and to wait for a node to join, and not for ever.
START_TIMEOUT_S = 1800.0
CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class ActorInfo:
    """Where an actor runs."""

    actor_id: str
    node_id: str
    pid: int


class PoolActor(Protocol):
    """What a pool asks of an actor. Every call may raise one of Ray's errors (`failures.py`)."""

    def load(self) -> ActorInfo:
        """Wait until the process runs and its stage is loaded."""

    def run(self, works: Sequence[ClipWork], timeout_s: float) -> list[ManifestRow | Raised]:
        """Take a batch through the stage."""

    def close(self) -> None:
        """Let the stage give its device back, then end the process. Never raises."""

    def kill(self) -> None:
        """End the process now, whatever it does. Never raises."""


class RayStageActor:
    """A `StageActor` in a Ray worker process; Ray places it, the pool replaces it."""

    def __init__(self, job: StageJob, pool: PoolConfig) -> None:
        import ray

        self._ray: Any = ray
        self._handle = ray.remote(StageProcess).options(**actor_options(pool)).remote(job)

    def load(self) -> ActorInfo:
        info: ActorInfo = self._ray.get(self._handle.load.remote(), timeout=START_TIMEOUT_S)
        return info

    def run(self, works: Sequence[ClipWork], timeout_s: float) -> list[ManifestRow | Raised]:
        results: list[ManifestRow | Raised] = self._ray.get(self._handle.run.remote(list(works)), timeout=timeout_s)
        return results

    def close(self) -> None:
        # Killed processes leave contexts behind on a GPU, so the stage is asked first.
        with contextlib.suppress(Exception):
            self._ray.get(self._handle.close.remote(), timeout=CLOSE_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(self._handle, no_restart=True)


class StageProcess:
    """A `StageActor` in its own process, named so that process lists and Ray's pages say what it is."""

    def __init__(self, job: StageJob) -> None:
        import os

        import ray

        context = ray.get_runtime_context()
        self._info = ActorInfo(context.get_actor_id(), context.get_node_id(), os.getpid())
        self._actor = StageActor(job, self._info.actor_id)

    def load(self) -> ActorInfo:
        self._actor.load()
        return self._info

    def run(self, works: list[ClipWork]) -> list[ManifestRow | Raised]:
        return self._actor.run(works)

    def close(self) -> None:
        self._actor.close()
