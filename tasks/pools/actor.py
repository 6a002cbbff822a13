"""A stage actor: loads one stage once, then turns batches of clips into durable artifacts and terminal rows.

A plain class; `remote.py` wraps it for Ray and lets one batch be read and another stored while one computes. Video bytes
go between storage and this process only, never through Ray.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from math import ceil
from types import MappingProxyType

from magicvideo_core.errors import ClipError
from magicvideo_core.logs import log_fields
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.stages.base import Outcome, Stage, StageItem
from magicvideo_core.stages.registry import resolve_device
from tasks.pools.clip_work import ClipWork, Raised, StageJob
from tasks.pools.inputs import Read, read_inputs
from tasks.pools.storing import BatchStore, Computed


class StageActor:
    """One stage of one run in one process. One batch computes at a time; others are read or stored by other threads."""

    def __init__(self, job: StageJob, actor_id: str = "") -> None:
        self._job = job
        self._store = BatchStore(actor_id)
        self._stage: Stage | None = None
        self.device = "cpu"

    @property
    def gpu_share(self) -> float:
        """How many GPUs the actor has while it computes: those who share one take turns on the whole of it."""
        num_gpus = self._job.config.stage(self._job.stage).pool.num_gpus
        return float(ceil(num_gpus)) or float(self.device.startswith("cuda"))

    def work_for(self, job: StageJob) -> None:
        """Go on for another run, with what is loaded."""
        self._job = job

    def load(self) -> None:
        """Build the stage and load its weights; called once, before the first batch."""
        config = self._job.config
        if config.stage(self._job.stage).backend != "fake":
            self.device = resolve_device(config.device)
        self._stage = self._job.create_stage(self._job.stage, config)
        self._stage.load(self.device)

    def close(self) -> None:
        """Let the stage give its device back."""
        if self._stage is not None:
            self._stage.close()
            self._stage = None

    def run(self, works: Sequence[ClipWork]) -> list[ManifestRow | Raised]:
        """Take a batch through the stage; returns one result per clip, in any order, each carrying its clip id.

        A row is returned only after its artifact and, after that, its journal record are durable. Safe to call again
        with the same clips: artifacts are named by their bytes.
        """
        return self.finish([self.compute(works)])

    def read(self, work: ClipWork) -> Read:
        """Fetch and decode what a clip needs; what goes wrong is for `compute` to meet again."""
        started_s = time.monotonic()
        inputs = read_inputs(self._job, work)
        return Read(inputs, time.monotonic() - started_s)

    def compute(self, works: Sequence[ClipWork], ahead: Mapping[str, Future[Read]] = MappingProxyType({})) -> Computed:
        """Take a batch through the model. `ahead` has what is being read already, by clip id; the rest is read here."""
        started_at, started_s = datetime.now(UTC), time.monotonic()
        outcomes: dict[str, Outcome | Exception] = {}
        items: dict[str, StageItem] = {}
        ahead_s: dict[str, float] = {}
        for work in works:
            clip_id = work.clip.clip_id
            try:
                future = ahead.get(clip_id)
                if future is None or future.exception() is not None:
                    inputs = read_inputs(self._job, work)
                else:
                    inputs, ahead_s[clip_id] = future.result().inputs, future.result().seconds
                if isinstance(inputs, Outcome):
                    outcomes[clip_id] = inputs
                else:
                    items[clip_id] = inputs
            # A boundary: whatever went wrong is recorded with its type and message, for this clip alone.
            except Exception as error:
                outcomes[clip_id] = error
        if items:
            with log_fields(clip=",".join(items), shard=works[0].shard_id, attempt=works[0].attempt):
                outcomes.update(self._process(items))
        held_s = (time.monotonic() - started_s) / len(works)
        return Computed(works, items, outcomes, started_at, held_s, ahead_s)

    def finish(self, batches: Iterable[Computed]) -> list[ManifestRow | Raised]:
        """Gate, encode, store and record batches; returns one result per clip, in any order. Needs no device."""
        return self._store.store(self._job, batches, self.device, self.gpu_share)

    def _process(self, items: Mapping[str, StageItem]) -> dict[str, Outcome | Exception]:
        """Run the model over the batch and match its outcomes by clip id, never by position."""
        if self._stage is None:
            raise RuntimeError(f"stage {self._job.stage}: run() before load()")
        try:
            found = {outcome.clip_id: outcome for outcome in self._stage.process(list(items.values()))}
        except ClipError as error:
            # In a larger batch the culprit is unknown: the pool tries each clip alone.
            return dict.fromkeys(items, error if len(items) == 1 else RuntimeError(f"{type(error).__name__}: {error}"))
        except Exception as error:
            return dict.fromkeys(items, error)
        missing = RuntimeError(f"stage {self._job.stage} returned no outcome for the clip")
        return {clip_id: found.get(clip_id, missing) for clip_id in items}
