"""What runs in the worker process of a stage actor: a `StageActor` whose calls come through Ray, in several threads."""

import os
import threading
from dataclasses import dataclass

from magicvideo_core.logs import RunLog, event, log_fields, log_json_to_stderr
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import ClipWork, Computed, Raised, StageActor, StageJob
from tasks.pools.inputs import ReadAhead

# The threads of an actor: one that computes and, beside it, those that read ahead, store the batch before, and answer.
# None is Ray's main thread: what runs there keeps all others from starting.
THREADS = {"device": 1, "io": 4}


@dataclass(frozen=True)
class ActorInfo:
    """Where an actor runs, on what device, and how many GPUs it has while it computes.

    `turns_at` names the GPU that it shares with others, and takes turns with them on; None where it shares none.
    """

    actor_id: str
    node_id: str
    pid: int
    device: str = "cpu"
    gpu_share: float = 0.0
    turns_at: str | None = None


class StageProcess:
    """A `StageActor` in its own process, named so that process lists and Ray's pages say what it is.

    `load`, `compute` and `close` run in one thread, one after the other, all else beside it.
    """

    def __init__(self, job: StageJob) -> None:
        import ray

        context = ray.get_runtime_context()
        self._actor_id, self._node_id = context.get_actor_id(), context.get_node_id()
        self._gpu_ids = ray.get_gpu_ids()
        self._num_gpus = job.config.stage(job.stage).pool.num_gpus
        self._actor = StageActor(job, self._actor_id)
        self._fields = {"run": job.run_id, "stage": job.stage, "actor": self._actor_id}
        if job.storage.local_folder is None:
            # Ray keeps what its processes write.
            log_json_to_stderr()
        else:
            RunLog(job.run_id).open(job.storage, f"{job.stage}-{self._actor_id}")
        event("actor started", **self._fields, pid=os.getpid())
        self._ahead = ReadAhead(self._actor.read)
        self._computed: dict[int, Computed] = {}
        # Encoders take as many cores as there are: one batch after the other.
        self._storing = threading.Lock()

    def ping(self) -> None:
        pass

    def load(self) -> ActorInfo:
        with log_fields(**self._fields):
            self._actor.load()
            event("stage loaded", device=self._actor.device)
        shares = 0 < self._num_gpus < 1
        turns_at = f"{self._node_id}:{','.join(map(str, self._gpu_ids))}" if shares else None
        return ActorInfo(
            self._actor_id, self._node_id, os.getpid(), self._actor.device, self._actor.gpu_share, turns_at
        )

    def read_ahead(self, work: ClipWork) -> None:
        self._ahead.read(work)

    def compute(self, number: int, works: list[ClipWork]) -> None:
        with log_fields(**self._fields):
            self._computed[number] = self._actor.compute(works, self._ahead.take(works))

    def collect(self, number: int) -> list[ManifestRow | Raised]:
        with self._storing, log_fields(**self._fields):
            return self._actor.finish(self._computed.pop(number))

    def close(self) -> None:
        self._actor.close()
