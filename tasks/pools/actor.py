"""A stage actor: loads one stage once, then turns batches of clips into durable artifacts and terminal rows.

A plain class; `remote.py` wraps it for Ray and lets one batch be read and another stored while one computes. Video bytes
go between storage and this process only, never through Ray.
"""

import hashlib
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import ceil
from types import MappingProxyType
from typing import Any

import numpy as np

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig
from magicvideo_core.errors import ClipError, MediaError, UpstreamLostError
from magicvideo_core.ids import canonical_json
from magicvideo_core.logs import event, log_fields
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import artifact_key
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.redact import redact
from magicvideo_core.stages import gate
from magicvideo_core.stages.base import ARTIFACT_SUFFIXES, Outcome, Stage, StageItem
from magicvideo_core.stages.registry import create_stage, resolve_device
from magicvideo_core.storage import Storage, StoredObject
from tasks.pools.failures import Action, application_action
from tasks.pools.inputs import Read, read_inputs, storage_trouble

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageJob:
    """What every actor of one pool needs to know; small, picklable, the same for all its clips."""

    stage: str
    config: RunConfig
    storage: Storage
    run_id: str
    recipe_hash: str
    create_stage: Callable[[str, RunConfig], Stage] = create_stage


@dataclass(frozen=True)
class ClipWork:
    """One clip to take through one stage; `upstream` maps earlier stages to what their rows say of their artifacts."""

    clip: Clip
    shard_id: int
    attempt: int
    upstream: Mapping[str, StoredObject] = field(default_factory=dict)


@dataclass(frozen=True)
class Effort:
    """What one try at a clip took: its share of the batch, and its own encoding and storing."""

    started_at: datetime
    duration_s: float
    gpu_s: float
    device: str | None
    actor_id: str | None


@dataclass(frozen=True)
class Reason:
    """Why a clip has no artifact, as its row records it."""

    error_type: str
    error_message: str
    error_traceback: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "Reason":
        """Return type, message and traceback of an error, without credentials."""
        return cls(type(error).__name__, redact(str(error)), redact("".join(traceback.format_exception(error))))


@dataclass(frozen=True)
class Raised:
    """A clip that the code raised on: without a row, and the pool does what `action` says."""

    clip_id: str
    action: Action
    reason: Reason
    effort: Effort
    # The stage that has to make its artifact again, where that is what is wrong.
    lost_stage: str | None = None


@dataclass(frozen=True)
class UpstreamLost:
    """A clip that the pool hands back without a row: the artifact of `stage` that it reads has to be made again."""

    clip_id: str
    stage: str
    reason: Reason


def terminal_row(job: StageJob, work: ClipWork, status: Status, **values: Any) -> ManifestRow:
    """Return the row of a clip in the job's stage: what the clip, the plan and the job say, and `values`."""
    return ManifestRow(
        run_id=job.run_id,
        clip_id=work.clip.clip_id,
        shard_id=work.shard_id,
        stage=job.stage,
        attempt=work.attempt,
        status=status,
        prompt=work.clip.prompt,
        seed=work.clip.seed,
        recipe_hash=job.recipe_hash,
        negative_prompt=work.clip.negative_prompt,
        source_id=work.clip.source_id,
        extra=canonical_json(work.clip.extra),
        **values,
    )


def unfinished_row(
    job: StageJob, work: ClipWork, status: Status, reason: Reason, effort: Effort | None = None
) -> ManifestRow:
    """Return the row of a clip that has no artifact; `status` is failed, quarantined or skipped."""
    took = {"started_at": datetime.now(UTC)} if effort is None else asdict(effort)
    return terminal_row(job, work, status, **took, **asdict(reason))


@dataclass(frozen=True)
class Computed:
    """A batch that has left the device and is to be stored; times are those that count for each of its clips."""

    works: Sequence[ClipWork]
    items: Mapping[str, StageItem]
    outcomes: Mapping[str, Outcome | Exception]
    started_at: datetime
    # On the device, what it had to wait for included; shared by the batch.
    held_s: float
    # Beside the batch before, by clip id.
    ahead_s: Mapping[str, float]

    @property
    def has_worn_out(self) -> bool:
        """Whether a clip has used up what the actor has."""
        errors = (outcome for outcome in self.outcomes.values() if isinstance(outcome, Exception))
        return any(application_action(error) is Action.REPLACE_ACTOR for error in errors)


class StageActor:
    """One stage of one run in one process. One batch computes at a time; others are read or stored by other threads."""

    def __init__(self, job: StageJob, actor_id: str = "") -> None:
        self._job = job
        self._actor_id = actor_id
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
        return self.finish(self.compute(works))

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

    def finish(self, computed: Computed) -> list[ManifestRow | Raised]:
        """Gate, encode, store and record a batch; returns one result per clip. Needs no device."""
        results: list[ManifestRow | Raised] = []
        for work in computed.works:
            clip_id = work.clip.clip_id
            about = {"clip": clip_id, "shard": work.shard_id, "attempt": work.attempt}
            started_s = time.monotonic()
            try:
                values = self._finish(work, computed.items.get(clip_id), computed.outcomes[clip_id])
                effort = self._effort(computed, clip_id, started_s)
                row = terminal_row(self._job, work, "succeeded", **values, **asdict(effort))
                with storage_trouble(f"record clip {clip_id}"):
                    write_record(self._job.storage, row)
                results.append(row)
                event("clip made", **about, duration_s=round(effort.duration_s, 4))
            except Exception as error:
                effort = self._effort(computed, clip_id, started_s)
                lost_stage = error.stage if isinstance(error, UpstreamLostError) else None
                action = application_action(error)
                logger.warning("clip %s: %s", clip_id, type(error).__name__, exc_info=error, extra={"fields": about})
                if action is Action.STOP_POOL:
                    raise
                results.append(Raised(clip_id, action, Reason.of(error), effort, lost_stage))
        return results

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

    def _finish(self, work: ClipWork, item: StageItem | None, outcome: Outcome | Exception) -> dict[str, Any]:
        """Gate, encode and store one outcome; returns what its row says of the artifact."""
        job, clip = self._job, work.clip
        error = outcome if isinstance(outcome, Exception) else outcome.error
        if error is not None:
            raise error
        assert isinstance(outcome, Outcome)
        if outcome.frames_THWC_u8 is None:
            raise MediaError(f"Clip {clip.clip_id}: stage {job.stage} gave neither frames nor an error.")
        frames, stage_config = outcome.frames_THWC_u8, job.config.stage(job.stage)
        given = item.frames_THWC_u8 if item is not None else None
        gate.check(frames, stage_config, num_input_frames=None if given is None else len(given))
        data = self._encode(frames, outcome.fps)
        gate.check_stored(data, frames.shape, stage_config)
        key = artifact_key(job.stage, clip.clip_id, hashlib.sha256(data).hexdigest(), ARTIFACT_SUFFIXES[job.stage])
        with storage_trouble(f"store clip {clip.clip_id}"):
            stored = job.storage.write(key, data)
        return {
            "artifact_uri": stored.uri,
            "sha256": stored.sha256,
            "size_bytes": stored.size_bytes,
            "width": frames.shape[2],
            "height": frames.shape[1],
            "num_frames": frames.shape[0],
            "fps": None if job.stage == "t2i" else float(outcome.fps),
        }

    def _effort(self, computed: Computed, clip_id: str, started_s: float) -> Effort:
        """Return what a clip took so far: all that was done for it, and of that the time that a GPU was kept for it."""
        duration_s = computed.ahead_s.get(clip_id, 0.0) + computed.held_s + time.monotonic() - started_s
        return Effort(computed.started_at, duration_s, computed.held_s * self.gpu_share, self.device, self._actor_id)

    def _encode(self, frames_THWC_u8: np.ndarray, fps: float) -> bytes:
        if self._job.stage == "t2i":
            return encode_png(frames_THWC_u8[0])
        if self._job.stage == "vfi":
            vfi = self._job.config.vfi
            return encode_mp4(frames_THWC_u8, fps, crf=vfi.crf, preset=vfi.x264_preset)
        return encode_lossless(frames_THWC_u8, fps)
