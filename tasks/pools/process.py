"""What runs in the worker process of a stage actor: a `StageActor` whose calls come through Ray, in several threads."""

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from magicvideo_core.logs import RunLog, event, log_fields, log_json_to_stderr
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import StageActor
from tasks.pools.clip_work import ClipWork, Raised, Spent, StageJob
from tasks.pools.inputs import ReadAhead
from tasks.pools.storing import Computed
from tasks.pools.tenancy import Tenancy, WarmTerms, code_version

# The threads of an actor: one that computes and, beside it, those that read ahead, store the batch before, and answer.
# None is Ray's main thread: what runs there keeps all others from starting.
THREADS = {"device": 1, "io": 4}
# Clips of which so many, and more than a batch, go in one call take a few milliseconds each. Computing such with no device
# but the cores, and storing them on a local disk, is Python in both threads: at once they take a third longer for it.
_QUICK_CLIPS = 16


@dataclass(frozen=True)
class ActorInfo:
    """Where an actor runs, on what device, and how many GPUs it has while it computes.

    `turns_at` names the GPU that it shares with others, and takes turns with them on; None where it shares none. It has
    taken `load_s` to load, and `num_clips` since.
    """

    actor_id: str
    node_id: str
    pid: int
    device: str = "cpu"
    gpu_share: float = 0.0
    turns_at: str | None = None
    load_s: float = 0.0
    num_clips: int = 0


class StageProcess:
    """A `StageActor` in its own process, named so that process lists and Ray's pages say what it is.

    `load`, `compute` and `close` run in one thread, one after the other, all else beside it. A warm one, with `terms`,
    outlives its run, and works for whoever has it: calls name their `owner`, those of others come to nothing.
    """

    def __init__(self, job: StageJob, owner: str = "", terms: WarmTerms | None = None) -> None:
        import ray

        context = ray.get_runtime_context()
        self._actor_id, self._node_id = context.get_actor_id(), context.get_node_id()
        self._gpu_ids = ray.get_gpu_ids()
        self._num_gpus = job.config.stage(job.stage).pool.num_gpus
        self._actor = StageActor(job, self._actor_id)
        self._log: RunLog | None = None
        self._fields = self._log_for(job)
        event("actor started", **self._fields, pid=os.getpid())
        self._ahead = ReadAhead(self._actor.read)
        self._batch_size = job.config.stage(job.stage).pool.batch_size
        self._stored: dict[int, Future[list[ManifestRow | Raised]]] = {}
        self._num_clips = 0
        # Encoders take as many cores as there are: one batch after the other. Each begins as soon as it has been
        # computed, not when the driver asks for it.
        self._storer = ThreadPoolExecutor(1, thread_name_prefix="storer")
        self._needs_only_cores = not self._num_gpus and job.storage.local_folder is not None
        self._quick_turn = threading.Lock()
        self._info: ActorInfo | None = None
        self._first_owner, self._tenancy = owner, Tenancy(owner, terms)
        if terms is not None:
            # What this process has imported is what it finds now.
            self._code = code_version()
            threading.Thread(target=self._end_in_time, name="tenancy", daemon=True).start()

    def ping(self) -> None:
        pass

    def load(self) -> ActorInfo:
        started_s = time.monotonic()
        with log_fields(**self._fields), self._tenancy.at_work_for(self._first_owner):
            self._actor.load()
            event("stage loaded", device=self._actor.device)
        shares = 0 < self._num_gpus < 1
        turns_at = f"{self._node_id}:{','.join(map(str, self._gpu_ids))}" if shares else None
        device, gpu_share, load_s = self._actor.device, self._actor.gpu_share, time.monotonic() - started_s
        self._info = ActorInfo(self._actor_id, self._node_id, os.getpid(), device, gpu_share, turns_at, load_s)
        return self._info

    def read_ahead(self, work: ClipWork, owner: str = "") -> None:
        with self._tenancy.at_work_for(owner) as is_owner:
            if is_owner:
                self._ahead.read(work)

    def compute(self, number: int, works: list[ClipWork], owner: str = "") -> Spent | None:
        """Compute clips, batch by batch, and begin to store them; returns None where the actor is not the caller's any more."""
        with log_fields(**self._fields), self._tenancy.at_work_for(owner) as is_owner:
            if not is_owner:
                return None
            self._num_clips += len(works)
            ahead, computed = self._ahead.take(works), []
            with self._turn(len(works)):
                for start in range(0, len(works), self._batch_size):
                    computed.append(self._actor.compute(works[start : start + self._batch_size], ahead))
                    if computed[-1].has_worn_out:
                        break
            self._stored[number] = self._storer.submit(self._store, computed, owner)
            return Spent(sum(each.held_s * len(each.works) for each in computed), computed[-1].has_worn_out)

    def collect(self, number: int, owner: str = "") -> list[ManifestRow | Raised] | None:
        """Return the results of what was computed once it is stored; None where the actor is not the caller's any more."""
        with self._tenancy.at_work_for(owner) as is_owner:
            return self._stored.pop(number).result() if is_owner else None

    def _store(self, batches: Sequence[Computed], owner: str) -> list[ManifestRow | Raised]:
        num_clips = sum(len(computed.works) for computed in batches)
        with log_fields(**self._fields), self._tenancy.at_work_for(owner), self._turn(num_clips):
            return self._actor.finish(batches)

    def _turn(self, num_clips: int) -> contextlib.AbstractContextManager[object]:
        """Keep computing and storing so many clips apart where that is quicker than both at once."""
        is_quick = num_clips >= _QUICK_CLIPS and num_clips > self._batch_size
        return self._quick_turn if is_quick and self._needs_only_cores else contextlib.nullcontext()

    def close(self) -> None:
        self._actor.close()

    def _log_for(self, job: StageJob) -> dict[str, str]:
        """Log for the run of a job from here on; returns what its records say of this actor."""
        if self._log is not None:
            self._log.close()
        self._log = None
        if job.storage.local_folder is None:
            # Ray keeps what its processes write.
            log_json_to_stderr()
        else:
            self._log = RunLog(job.run_id)
            self._log.open(job.storage, f"{job.stage}-{self._actor_id}")
        return {"run": job.run_id, "stage": job.stage, "actor": self._actor_id}

    # Of a warm actor

    def claim(self, owner: str, terms: WarmTerms, job: StageJob, code: str) -> ActorInfo | None:
        """Work for another run from here on; None where that may not be: what is loaded differs, or a run has it."""
        if self._info is None or code != self._code or not self._tenancy.claim(owner, terms):
            return None
        self._ahead, self._stored = ReadAhead(self._actor.read), {}
        self._batch_size = job.config.stage(job.stage).pool.batch_size
        self._actor.work_for(job)
        self._fields = self._log_for(job)
        event("actor taken over", **self._fields, pid=os.getpid())
        return replace(self._info, num_clips=self._num_clips)

    def hear(self, owner: str) -> None:
        """Note that the run lives."""
        self._tenancy.hear(owner)

    def release(self, owner: str) -> None:
        """Wait for another run."""
        self._tenancy.release(owner)

    def retire(self) -> bool:
        """Give the device back where no run has the actor; tells whether it may be killed."""
        if not self._tenancy.end_if_free():
            return False
        self._actor.close()
        return True

    def describe(self) -> dict[str, Any]:
        """Return what `warm.WarmActor` says, but for the name."""
        return {
            "stage": self._fields["stage"],
            "run_id": None if self._tenancy.is_free() else self._fields["run"],
            "node_id": self._node_id,
            "pid": os.getpid(),
            "idle_s": self._tenancy.idle_s(),
            "idle_limit_s": self._tenancy.idle_limit_s(),
        }

    def _end_in_time(self) -> None:
        self._tenancy.wait_until_over()
        event("actor ends", **self._fields, idle_s=round(self._tenancy.idle_s()))
        with contextlib.suppress(Exception):
            self._actor.close()
        # Ray's own way of ending an actor needs its main thread, which may hang.
        os._exit(0)
