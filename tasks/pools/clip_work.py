"""What a pool and its actors say to each other about clips: the job, one clip's work, and what became of it."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig
from magicvideo_core.ids import canonical_json
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.redact import redact
from magicvideo_core.stages.base import Stage
from magicvideo_core.stages.registry import create_stage
from magicvideo_core.storage import Storage, StoredObject
from tasks.pools.failures import Action


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
class Spent:
    """What computing the clips of one call came to, in seconds of the actor's own: what the call waited before is not counted.

    `has_worn_out` says that the actor has nothing left to compute with: the rest was then not begun and has no result.
    """

    seconds: float
    has_worn_out: bool = False


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
    took = {"started_at": datetime.now(UTC)} if effort is None else vars(effort)
    return terminal_row(job, work, status, **took, **vars(reason))
