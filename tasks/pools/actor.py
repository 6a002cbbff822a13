"""A stage actor: loads one stage once, then turns batches of clips into durable artifacts and terminal rows.

A plain class; `remote.py` wraps it for Ray. Video bytes go between storage and this process only, never through Ray.
"""

import hashlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig
from magicvideo_core.errors import ClipError, MediaError, StorageUnavailableError, UpstreamLostError
from magicvideo_core.ids import canonical_json
from magicvideo_core.manifest.journal import write_record
from magicvideo_core.manifest.layout import artifact_key
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.media import decode_image, decode_video, encode_lossless, encode_mp4, encode_png
from magicvideo_core.redact import redact
from magicvideo_core.stages import gate
from magicvideo_core.stages.base import ARTIFACT_SUFFIXES, Outcome, Stage, StageItem, keyframe_fps
from magicvideo_core.stages.given import given_frames, is_given
from magicvideo_core.stages.registry import create_stage, resolve_device
from magicvideo_core.storage import Storage, StoredObject, read_uri
from tasks.pools.failures import Action, application_action


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


class StageActor:
    """One stage of one run in one process. Not thread-safe: one batch at a time."""

    def __init__(self, job: StageJob, actor_id: str = "") -> None:
        self._job = job
        self._actor_id = actor_id
        self._stage: Stage | None = None
        self.device = "cpu"

    @property
    def gpu_share(self) -> float:
        """How much of a GPU the actor holds: what its pool asks for, or the whole GPU that it found."""
        return self._job.config.stage(self._job.stage).pool.num_gpus or float(self.device.startswith("cuda"))

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
        started_at, started_s = datetime.now(UTC), time.monotonic()
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
        results: list[ManifestRow | Raised] = []
        for work in works:
            own_started_s = time.monotonic()
            try:
                values = self._finish(work, items.get(work.clip.clip_id), outcomes[work.clip.clip_id])
                effort = self._effort(started_at, shared_s, own_started_s)
                row = terminal_row(self._job, work, "succeeded", **values, **asdict(effort))
                with _storage_trouble(f"record clip {work.clip.clip_id}"):
                    write_record(self._job.storage, row)
                results.append(row)
            except Exception as error:
                effort = self._effort(started_at, shared_s, own_started_s)
                lost_stage = error.stage if isinstance(error, UpstreamLostError) else None
                action = application_action(error)
                if action is Action.STOP_POOL:
                    raise
                results.append(Raised(work.clip.clip_id, action, Reason.of(error), effort, lost_stage))
        return results

    def _read_item(self, work: ClipWork) -> StageItem:
        """Fetch and decode what the stage reads: the reference image for i2v and v2v, frames for v2v and vfi."""
        clip, stage = work.clip, self._job.stage
        reference, frames = None, None
        if stage in ("i2v", "v2v"):
            if "t2i" in work.upstream:
                reference = decode_image(_read_upstream(work, "t2i"))
            else:
                reference = given_frames(clip, "t2i", self._job.config)[0]
        if stage in ("v2v", "vfi"):
            before = "i2v" if stage == "v2v" else "v2v"
            if before in work.upstream:
                frames = decode_video(_read_upstream(work, before)).frames_THWC_u8
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
        with _storage_trouble(f"store clip {clip.clip_id}"):
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

    def _effort(self, started_at: datetime, shared_s: float, own_started_s: float) -> Effort:
        duration_s = shared_s + time.monotonic() - own_started_s
        return Effort(started_at, duration_s, duration_s * self.gpu_share, self.device, self._actor_id)

    def _encode(self, frames_THWC_u8: np.ndarray, fps: float) -> bytes:
        if self._job.stage == "t2i":
            return encode_png(frames_THWC_u8[0])
        if self._job.stage == "vfi":
            vfi = self._job.config.vfi
            return encode_mp4(frames_THWC_u8, fps, crf=vfi.crf, preset=vfi.x264_preset)
        return encode_lossless(frames_THWC_u8, fps)


def _read_upstream(work: ClipWork, stage: str) -> bytes:
    """Return what an earlier stage made, checked against its row. Raises UpstreamLostError where it is not that."""
    expected = work.upstream[stage]
    what = f"Clip {work.clip.clip_id}: the {stage} artifact {expected.uri}"
    try:
        with _storage_trouble(f"read {expected.uri}", FileNotFoundError):
            data = read_uri(expected.uri)
    except FileNotFoundError:
        raise UpstreamLostError(f"{what} is gone", stage) from None
    if len(data) != expected.size_bytes:
        raise UpstreamLostError(f"{what} has {len(data)} bytes instead of {expected.size_bytes}", stage)
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise UpstreamLostError(f"{what} has other bytes than its row says (sha256)", stage)
    return data


@contextmanager
def _storage_trouble(what: str, *passed_on: type[OSError]) -> Iterator[None]:
    """Give every OSError of a storage call the class that puts no blame on the clip, credentials that ended included."""
    try:
        yield
    except passed_on:
        raise
    except OSError as error:
        raise StorageUnavailableError(f"Could not {what}: {type(error).__name__}: {error}") from error
