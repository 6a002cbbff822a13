"""A stage actor: loads one stage once, then turns batches of clips into durable artifacts and terminal rows.

A plain class; `remote.py` wraps it for Ray. Video bytes go between storage and this process only, never through Ray.
"""

import hashlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from magicvideo_core.config import RunConfig
from magicvideo_core.errors import ClipError, MediaError
from magicvideo_core.ids import canonical_json
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import artifact_key
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.media import decode_image, decode_video, encode_lossless, encode_mp4, encode_png
from magicvideo_core.prompts import Clip
from magicvideo_core.redact import redact
from magicvideo_core.stages import gate
from magicvideo_core.stages.base import ARTIFACT_SUFFIXES, Outcome, Stage, StageItem, keyframe_fps
from magicvideo_core.stages.given import given_frames, is_given
from magicvideo_core.stages.registry import create_stage, resolve_device
from magicvideo_core.storage import Storage, read_uri


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
    """One clip to take through one stage; `upstream` maps earlier stages to the URIs of their artifacts."""

    clip: Clip
    shard_id: int
    attempt: int
    upstream: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Raised:
    """A clip without a terminal row: the code raised, and the pool decides whether to try again."""

    clip_id: str
    reason: "Reason"


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


def unfinished_row(job: StageJob, work: ClipWork, status: Status, reason: Reason, **values: Any) -> ManifestRow:
    """Return the row of a clip that has no artifact; `status` is failed, quarantined or skipped."""
    return terminal_row(job, work, status, **{"started_at": datetime.now(UTC), **asdict(reason), **values})


class StageActor:
    """One stage of one run in one process. Not thread-safe: one batch at a time."""

    def __init__(self, job: StageJob, actor_id: str = "") -> None:
        self._job = job
        self._actor_id = actor_id
        self._stage: Stage | None = None
        self._device = "cpu"

    def load(self) -> None:
        """Build the stage and load its weights; called once, before the first batch."""
        config = self._job.config
        if config.stage(self._job.stage).backend != "fake":
            self._device = resolve_device(config.device)
        self._stage = self._job.create_stage(self._job.stage, config)
        self._stage.load(self._device)

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
        started_at, started_s = datetime.now(UTC), time.monotonic()
        results: list[ManifestRow | Raised] = []
        outcomes: dict[str, Outcome | Exception] = {}
        items: dict[str, StageItem] = {}
        for work in works:
            try:
                if is_given(work.clip, self._job.stage):
                    frames = given_frames(work.clip, self._job.stage, self._job.config)
                    outcomes[work.clip.clip_id] = Outcome(work.clip.clip_id, frames, keyframe_fps(self._job.config))
                else:
                    items[work.clip.clip_id] = self._read_item(work)
            # A boundary: whatever went wrong is recorded with its type and message, for this clip alone.
            except Exception as error:
                outcomes[work.clip.clip_id] = error
        if items:
            outcomes.update(self._process(items))
        shared_s = (time.monotonic() - started_s) / len(works)
        for work in works:
            own_started_s = time.monotonic()
            try:
                outcome = outcomes[work.clip.clip_id]
                if isinstance(outcome, Exception):
                    raise outcome
                row = self._finish(work, items.get(work.clip.clip_id), outcome, started_at, shared_s, own_started_s)
            except ClipError as error:
                row = unfinished_row(
                    self._job, work, "failed", Reason.of(error), **self._effort(started_at, shared_s, own_started_s)
                )
            except Exception as error:
                results.append(Raised(work.clip.clip_id, Reason.of(error)))
                continue
            write_record(self._job.storage, row)
            results.append(row)
        return results

    def _read_item(self, work: ClipWork) -> StageItem:
        """Fetch and decode what the stage reads: the reference image for i2v and v2v, frames for v2v and vfi."""
        clip, stage = work.clip, self._job.stage
        reference, frames = None, None
        if stage in ("i2v", "v2v"):
            if "t2i" in work.upstream:
                reference = decode_image(read_uri(work.upstream["t2i"]))
            else:
                reference = given_frames(clip, "t2i", self._job.config)[0]
        if stage in ("v2v", "vfi"):
            before = "i2v" if stage == "v2v" else "v2v"
            if before in work.upstream:
                frames = decode_video(read_uri(work.upstream[before])).frames_THWC_u8
            else:
                frames = given_frames(clip, before, self._job.config)
        return StageItem(clip=clip, reference_image_HWC_u8=reference, frames_THWC_u8=frames)

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

    def _finish(
        self,
        work: ClipWork,
        item: StageItem | None,
        outcome: Outcome,
        started_at: datetime,
        shared_s: float,
        own_started_s: float,
    ) -> ManifestRow:
        """Gate, encode and store one outcome; returns its row, not yet in the journal."""
        job, clip = self._job, work.clip
        if outcome.error is not None:
            raise outcome.error
        if outcome.frames_THWC_u8 is None:
            raise MediaError(f"Clip {clip.clip_id}: stage {job.stage} gave neither frames nor an error.")
        frames = outcome.frames_THWC_u8
        given = item.frames_THWC_u8 if item is not None else None
        gate.check(frames, job.config.stage(job.stage), num_input_frames=None if given is None else len(given))
        data = self._encode(frames, outcome.fps)
        key = artifact_key(job.stage, clip.clip_id, hashlib.sha256(data).hexdigest(), ARTIFACT_SUFFIXES[job.stage])
        stored = job.storage.write(key, data)
        return terminal_row(
            job,
            work,
            "succeeded",
            artifact_uri=stored.uri,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            width=frames.shape[2],
            height=frames.shape[1],
            num_frames=frames.shape[0],
            fps=None if job.stage == "t2i" else float(outcome.fps),
            **self._effort(started_at, shared_s, own_started_s),
        )

    def _effort(self, started_at: datetime, shared_s: float, own_started_s: float) -> dict[str, Any]:
        """Return what a clip took: its share of the batch, and its own encoding and storing."""
        duration_s = shared_s + time.monotonic() - own_started_s
        share = self._job.config.stage(self._job.stage).pool.num_gpus or float(self._device.startswith("cuda"))
        return {
            "started_at": started_at,
            "duration_s": duration_s,
            "gpu_s": duration_s * share,
            "device": self._device,
            "actor_id": self._actor_id,
        }

    def _encode(self, frames_THWC_u8: np.ndarray, fps: float) -> bytes:
        if self._job.stage == "t2i":
            return encode_png(frames_THWC_u8[0])
        if self._job.stage == "vfi":
            vfi = self._job.config.vfi
            return encode_mp4(frames_THWC_u8, fps, crf=vfi.crf, preset=vfi.x264_preset)
        return encode_lossless(frames_THWC_u8, fps)
