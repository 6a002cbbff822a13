"""One stage actor as a pool sees it: a Ray actor behind plain blocking calls with time limits."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from magicvideo_core.config import PoolConfig
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.clip_work import ClipWork, Raised, Spent, StageJob
from tasks.pools.process import THREADS, ActorInfo, StageProcess
from tasks.pools.sizing import actor_options
from tasks.pools.tenancy import WarmTerms

_PING_TIMEOUT_S = 30.0
_CLOSE_TIMEOUT_S = 10.0
# Ray's own health checks take up to 20 s to call a node dead that went silent.
_DEATH_NEWS_TIMEOUT_S = 30.0


class PoolActor(Protocol):
    """What a pool asks of an actor. Every call may raise one of Ray's errors (`failures.py`)."""

    def place(self) -> bool:
        """Wait until the process runs somewhere; False where Ray found no room within `placement_timeout_s`."""

    def load(self) -> ActorInfo:
        """Load the stage in the placed process."""

    def ping(self) -> None:
        """Return where the idle actor answers, so that a death between batches is blamed on none."""

    def read_ahead(self, work: ClipWork) -> None:
        """Let it read the inputs of a clip that may be its next. Does not wait, never raises."""

    def compute(self, number: int, works: Sequence[ClipWork], timeout_s: float) -> Spent:
        """Take clips through the model, batch by batch; `number` is any that no other call to this actor has."""

    def collect(self, number: int, timeout_s: float) -> list[ManifestRow | Raised]:
        """Wait until a computed batch is stored, and return what became of its clips."""

    def was_cut_off(self) -> bool:
        """Tell whether the machine of a broken actor or the network to it failed, and not its process. Never raises."""

    def close(self) -> None:
        """Let the stage give its device back, then end the process. Never raises."""

    def leave(self) -> None:
        """Do as `close`, but let a process that may outlive the run wait for another one. Never raises."""

    def kill(self) -> None:
        """End the process now, whatever it does. Never raises."""


@dataclass
class WarmHandle:
    """A warm actor and the run that has it; `handle` is Ray's, once it is there, `info` that of one taken over."""

    owner: str
    terms: WarmTerms
    name: str
    namespace: str
    handle: Any = None
    info: ActorInfo | None = None

    def options(self) -> dict[str, Any]:
        """Return Ray's options for an actor that outlives the driver that starts it."""
        return {"name": self.name, "namespace": self.namespace, "lifetime": "detached"}

    def send_heartbeat(self) -> None:
        """Let the actor know that its run lives. Does not wait, never raises."""
        with contextlib.suppress(Exception):
            self.handle.hear.options(concurrency_group="io").remote(self.owner)


class RayStageActor:
    """A `StageActor` in a Ray worker process; Ray places it, the pool replaces it."""

    def __init__(
        self,
        job: StageJob,
        pool: PoolConfig,
        where: Mapping[str, Any] | None = None,
        warm: WarmHandle | None = None,
    ) -> None:
        """`where` are Ray's options that choose a place for it. A `warm` one outlives the run, or did another."""
        import ray

        self._ray: Any = ray
        self._warm = warm
        self._owner = warm.owner if warm is not None else ""
        self._is_anothers = False
        self._pool = pool
        self._node_id: str | None = None
        self._out_of_reach = False
        # Making one takes as long as calling it.
        self._methods: dict[str, Any] = {}
        options = {**actor_options(pool), **(where or {}), "concurrency_groups": THREADS}
        if warm is None:
            self._handle = ray.remote(**options)(StageProcess).remote(job)
        elif warm.handle is None:
            process = ray.remote(**options, **warm.options())(StageProcess)
            self._handle = warm.handle = process.remote(job, warm.owner, warm.terms)
        else:
            self._handle = warm.handle

    def place(self) -> bool:
        if self._warm is not None and self._warm.info is not None:
            return True
        placed, _ = self._ray.wait([self._call("ping")], timeout=self._pool.placement_timeout_s)
        return bool(placed)

    def load(self) -> ActorInfo:
        taken_over = self._warm.info if self._warm is not None else None
        info: ActorInfo = taken_over or self._ray.get(self._call("load"), timeout=self._pool.load_timeout_s)
        self._node_id = info.node_id
        return info

    def ping(self) -> None:
        self._get(self._call("ping"), _PING_TIMEOUT_S)

    def read_ahead(self, work: ClipWork) -> None:
        with contextlib.suppress(Exception):
            self._call("read_ahead", work, self._owner)

    def compute(self, number: int, works: Sequence[ClipWork], timeout_s: float) -> Spent:
        spent: Spent | None = self._get(self._call("compute", number, list(works), self._owner), timeout_s)
        if spent is None:
            raise self._lost_to_another()
        return spent

    def collect(self, number: int, timeout_s: float) -> list[ManifestRow | Raised]:
        results: list[ManifestRow | Raised] | None = self._get(self._call("collect", number, self._owner), timeout_s)
        if results is None:
            raise self._lost_to_another()
        return results

    def _call(self, method: str, *arguments: Any) -> Any:
        if method not in self._methods:
            group = "device" if method in ("load", "compute", "close") else "io"
            self._methods[method] = getattr(self._handle, method).options(concurrency_group=group)
        return self._methods[method].remote(*arguments)

    def _get(self, reference: Any, timeout_s: float) -> Any:
        try:
            return self._ray.get(reference, timeout=timeout_s)
        except self._ray.exceptions.ActorUnavailableError:
            self._out_of_reach = True
            raise

    def _lost_to_another(self) -> Exception:
        """Note that another run took the actor, after this one had been silent for too long; returns the error of it."""
        self._is_anothers = True
        error: Exception = self._ray.exceptions.RayActorError(error_msg="Another run has taken the actor over.")
        return error

    def was_cut_off(self) -> bool:
        if self._is_anothers:
            return True
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
                self._ray.get(self._call("ping"), timeout=left_s)
                return False
            except self._ray.exceptions.ActorUnavailableError:
                time.sleep(min(left_s, 1.0))
            except self._ray.exceptions.ActorDiedError:
                return True
        return False

    def close(self) -> None:
        if not self._ray.is_initialized() or self._is_anothers:
            return
        # Killed processes leave contexts behind on a GPU, so the stage is asked first.
        with contextlib.suppress(Exception):
            self._ray.get(self._call("close"), timeout=_CLOSE_TIMEOUT_S)
        self.kill()

    def leave(self) -> None:
        if self._warm is not None and self._warm.terms.idle_s and self._ray.is_initialized():
            with contextlib.suppress(Exception):
                self._ray.get(self._call("release", self._owner), timeout=_CLOSE_TIMEOUT_S)
                return
        self.close()

    def kill(self) -> None:
        # With Ray its processes have ended.
        if not self._ray.is_initialized() or self._is_anothers:
            return
        with contextlib.suppress(Exception):
            self._ray.kill(self._handle, no_restart=True)
