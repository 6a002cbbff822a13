"""What follows a computation and needs no device: a batch is gated, encoded, stored and recorded.

Of several clips in one call, a distant store makes one durable while the next is encoded; a disk is waited for once for the
artifacts of all, and once for their records.
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
from magicvideo_core.manifest.journal import write_record, write_records
from magicvideo_core.manifest.layout import artifact_key
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.stages import gate
from magicvideo_core.stages.base import ARTIFACT_SUFFIXES, Outcome, StageItem
from magicvideo_core.storage import Storage, StoredObject
from tasks.pools.clip_work import ClipWork, Effort, Raised, Reason, StageJob, terminal_row
from tasks.pools.failures import Action, application_action
from tasks.pools.inputs import storage_trouble

logger = logging.getLogger(__name__)

# Of so many clips of one call at most the writes to a distant store are under way at once.
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
        if job.storage.local_folder is not None:
            return self._store_together(job.storage, clips)
        # The last one has nothing to be written beside.
        last = clips.pop() if clips else None
        begun = [clip.encode() or self._begin(clip) for clip in clips]
        results = [] if last is None else [last.encode() or last.write()]
        return [result.result() if isinstance(result, Future) else result for result in begun] + results

    def _begin(self, clip: "_Clip") -> "Future[ManifestRow | Raised]":
        return self._writers.submit(copy_context().run, clip.write)

    def _store_together(self, storage: Storage, clips: Sequence["_Clip"]) -> list[ManifestRow | Raised]:
        """Encode all clips, then make all their artifacts durable, then all their records."""
        results = [clip.encode() for clip in clips]
        encoded = [clip for clip, raised in zip(clips, results, strict=True) if raised is None]
        rows = iter(
            self._written_together(storage, encoded) if len(encoded) > 1 else [clip.write() for clip in encoded]
        )
        return [raised or next(rows) for raised in results]

    def _written_together(self, storage: Storage, clips: Sequence["_Clip"]) -> Sequence[ManifestRow | Raised]:
        started_s = time.monotonic()
        try:
            stored = storage.with_patience(0).write_together([clip.artifact() for clip in clips])
            share_s = (time.monotonic() - started_s) / len(clips)
            rows = [clip.row(each, share_s) for clip, each in zip(clips, stored, strict=True)]
            write_records(storage.with_patience(0), rows)
            return rows
        # Whatever it was, each clip meets it by itself again, or does not: what is there already is written once more.
        except Exception as error:
            logger.info("%d clips could not be stored together (%s): each by itself", len(clips), type(error).__name__)
            return [each.result() for each in [self._begin(clip) for clip in clips]]


class _Clip:
    """One clip on its way from the device to its row."""

    def __init__(
        self, job: StageJob, work: ClipWork, computed: Computed, device: str, gpu_share: float, actor_id: str
    ) -> None:
        self._job, self._work, self._computed = job, work, computed
        self._device, self._gpu_share, self._actor_id = device, gpu_share, actor_id
        self._about = {"clip": work.clip.clip_id, "shard": work.shard_id, "attempt": work.attempt}
        # What was done for this clip alone.
        self._own_s = 0.0
        self._data = b""
        self._values: dict[str, Any] = {}

    def encode(self) -> Raised | None:
        """Gate and encode the outcome; returns what came of it where that is no artifact."""
        started_s = time.monotonic()
        try:
            self._encode()
            self._own_s = time.monotonic() - started_s
        # Boundaries, here and below: whatever went wrong is recorded with its type and message, for this clip alone.
        except Exception as error:
            return self._raised(error, started_s)
        return None

    def write(self) -> ManifestRow | Raised:
        """Make the artifact durable, and after it the record."""
        started_s = time.monotonic()
        try:
            return self._write(started_s)
        except Exception as error:
            return self._raised(error, started_s)

    def artifact(self) -> tuple[str, bytes]:
        """Return key and bytes of what was encoded."""
        digest = hashlib.sha256(self._data).hexdigest()
        key = artifact_key(self._job.stage, self._work.clip.clip_id, digest, ARTIFACT_SUFFIXES[self._job.stage])
        return key, self._data

    def row(self, stored: StoredObject, write_s: float) -> ManifestRow:
        """Return the row of the clip whose artifact is durable, and took so long to become it."""
        effort = self._effort(write_s)
        self._values |= {"artifact_uri": stored.uri, "sha256": stored.sha256, "size_bytes": stored.size_bytes}
        return terminal_row(self._job, self._work, "succeeded", **self._values, **vars(effort))

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

    def _write(self, started_s: float) -> ManifestRow:
        storage, clip_id = self._job.storage, self._work.clip.clip_id
        with storage_trouble(f"store clip {clip_id}"):
            stored = storage.write(*self.artifact())
        row = self.row(stored, time.monotonic() - started_s)
        with storage_trouble(f"record clip {clip_id}"):
            write_record(storage, row)
        return row

    def _raised(self, error: Exception, started_s: float) -> Raised:
        """Return an error as the clip's result; one that ends the pool goes on."""
        lost_stage = error.stage if isinstance(error, UpstreamLostError) else None
        action, name = application_action(error), type(error).__name__
        logger.warning("clip %s: %s", self._work.clip.clip_id, name, exc_info=error, extra={"fields": self._about})
        if action is Action.STOP_POOL:
            raise error
        return Raised(
            self._work.clip.clip_id, action, Reason.of(error), self._effort(time.monotonic() - started_s), lost_stage
        )

    def _effort(self, further_s: float) -> Effort:
        """Return what the clip took so far: all that was done for it, and of that the time that a GPU was kept for it.

        `further_s` is what comes to what has been noted.
        """
        computed = self._computed
        ahead_s = computed.ahead_s.get(self._work.clip.clip_id, 0.0)
        duration_s = ahead_s + computed.held_s + self._own_s + further_s
        return Effort(computed.started_at, duration_s, computed.held_s * self._gpu_share, self._device, self._actor_id)


def _encoded(job: StageJob, frames_THWC_u8: np.ndarray, fps: float) -> bytes:
    if job.stage == "t2i":
        return encode_png(frames_THWC_u8[0])
    if job.stage == "vfi":
        vfi = job.config.vfi
        return encode_mp4(frames_THWC_u8, fps, crf=vfi.crf, preset=vfi.x264_preset)
    return encode_lossless(frames_THWC_u8, fps)
