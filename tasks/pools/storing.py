"""What follows a computation and needs no device: a batch is gated, encoded, stored and recorded.

While one clip's artifact and record are made durable, the next one is encoded: a disk and a store are waited for.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from magicvideo_core.errors import MediaError, UpstreamLostError
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import artifact_key
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.stages import gate
from magicvideo_core.stages.base import ARTIFACT_SUFFIXES, Outcome, StageItem
from tasks.pools.clip_work import ClipWork, Effort, Raised, Reason, StageJob, terminal_row
from tasks.pools.failures import Action, application_action
from tasks.pools.inputs import storage_trouble

logger = logging.getLogger(__name__)

# Of so many clips of one call at most the writes are under way at once; on a disk one thread mostly does.
_NUM_WRITERS = 8


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


class BatchStore:
    """Stores what one actor has computed."""

    def __init__(self, actor_id: str) -> None:
        self._actor_id = actor_id
        self._writers = ThreadPoolExecutor(_NUM_WRITERS, thread_name_prefix="writer")

    def store(
        self, job: StageJob, batches: Iterable[Computed], device: str, gpu_share: float
    ) -> list[ManifestRow | Raised]:
        """Return one result per clip, in their order; a row is durable, and its artifact was before it.

        `device` and `gpu_share` are those that the batches were computed on.
        """
        clips = [
            _Clip(job, work, computed, device, gpu_share, self._actor_id)
            for computed in batches
            for work in computed.works
        ]
        # The last one has nothing to be written beside.
        last = clips.pop() if clips else None
        begun = [self._begin(clip) for clip in clips]
        results = [] if last is None else [last.encode() or last.write()]
        return [result.result() if isinstance(result, Future) else result for result in begun] + results

    def _begin(self, clip: "_Clip") -> "Raised | Future[ManifestRow | Raised]":
        return clip.encode() or self._writers.submit(copy_context().run, clip.write)


class _Clip:
    """One clip on its way from the device to its row."""

    def __init__(
        self, job: StageJob, work: ClipWork, computed: Computed, device: str, gpu_share: float, actor_id: str
    ) -> None:
        self._job, self._work, self._computed = job, work, computed
        self._device, self._gpu_share, self._actor_id = device, gpu_share, actor_id
        self._about = {"clip": work.clip.clip_id, "shard": work.shard_id, "attempt": work.attempt}
        self._started_s = time.monotonic()
        self._data = b""
        self._values: dict[str, Any] = {}

    def encode(self) -> Raised | None:
        """Gate and encode the outcome; returns what came of it where that is no artifact."""
        self._started_s = time.monotonic()
        try:
            self._encode()
        # Boundaries, here and below: whatever went wrong is recorded with its type and message, for this clip alone.
        except Exception as error:
            return self._raised(error)
        return None

    def write(self) -> ManifestRow | Raised:
        """Make the artifact durable, and after it the record."""
        try:
            return self._write()
        except Exception as error:
            return self._raised(error)

    def _encode(self) -> None:
        job, clip_id = self._job, self._work.clip.clip_id
        outcome, item = self._computed.outcomes[clip_id], self._computed.items.get(clip_id)
        error = outcome if isinstance(outcome, Exception) else outcome.error
        if error is not None:
            raise error
        assert isinstance(outcome, Outcome)
        if outcome.frames_THWC_u8 is None:
            raise MediaError(f"Clip {clip_id}: stage {job.stage} gave neither frames nor an error.")
        frames, stage_config = outcome.frames_THWC_u8, job.config.stage(job.stage)
        given = item.frames_THWC_u8 if item is not None else None
        gate.check(frames, stage_config, num_input_frames=None if given is None else len(given))
        self._data = _encoded(job, frames, outcome.fps)
        gate.check_stored(self._data, frames.shape, stage_config)
        self._values = {
            "width": frames.shape[2],
            "height": frames.shape[1],
            "num_frames": frames.shape[0],
            "fps": None if job.stage == "t2i" else float(outcome.fps),
        }

    def _write(self) -> ManifestRow:
        job, clip_id = self._job, self._work.clip.clip_id
        key = artifact_key(job.stage, clip_id, hashlib.sha256(self._data).hexdigest(), ARTIFACT_SUFFIXES[job.stage])
        with storage_trouble(f"store clip {clip_id}"):
            stored = job.storage.write(key, self._data)
        effort = self._effort()
        self._values |= {"artifact_uri": stored.uri, "sha256": stored.sha256, "size_bytes": stored.size_bytes}
        row = terminal_row(job, self._work, "succeeded", **self._values, **vars(effort))
        with storage_trouble(f"record clip {clip_id}"):
            write_record(job.storage, row)
        return row

    def _raised(self, error: Exception) -> Raised:
        """Return an error as the clip's result; one that ends the pool goes on."""
        lost_stage = error.stage if isinstance(error, UpstreamLostError) else None
        action, name = application_action(error), type(error).__name__
        logger.warning("clip %s: %s", self._work.clip.clip_id, name, exc_info=error, extra={"fields": self._about})
        if action is Action.STOP_POOL:
            raise error
        return Raised(self._work.clip.clip_id, action, Reason.of(error), self._effort(), lost_stage)

    def _effort(self) -> Effort:
        """Return what the clip took so far: all that was done for it, and of that the time that a GPU was kept for it."""
        computed = self._computed
        ahead_s = computed.ahead_s.get(self._work.clip.clip_id, 0.0)
        duration_s = ahead_s + computed.held_s + time.monotonic() - self._started_s
        return Effort(computed.started_at, duration_s, computed.held_s * self._gpu_share, self._device, self._actor_id)


def _encoded(job: StageJob, frames_THWC_u8: np.ndarray, fps: float) -> bytes:
    if job.stage == "t2i":
        return encode_png(frames_THWC_u8[0])
    if job.stage == "vfi":
        vfi = job.config.vfi
        return encode_mp4(frames_THWC_u8, fps, crf=vfi.crf, preset=vfi.x264_preset)
    return encode_lossless(frames_THWC_u8, fps)
