"""What resuming and reuse spared a run, and what broke in it by type: read from its sessions and rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import SessionRecord

_FOR_EVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Savings:
    """Seconds of stage time, and of GPUs, that were not spent again.

    `num_continued` sessions found work done by earlier ones and went on from there; starting over each time would have
    cost `resumed_stage_s` more. `num_reused` (clip, stage) pairs were taken over from another run, where they had
    taken `reused_stage_s`.
    """

    num_continued: int = 0
    resumed_stage_s: float = 0.0
    resumed_gpu_s: float = 0.0
    num_reused: int = 0
    reused_stage_s: float = 0.0
    reused_gpu_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


def savings(sessions: Sequence[SessionRecord], rows: Iterable[ManifestRow]) -> Savings:
    """Return what the sessions of a run, in their order, and its rows say; sessions that did nothing saved nothing."""
    rows = list(rows)
    reused = [row for row in rows if row.reused_from is not None]
    begun = sorted(row.started_at for row in rows if row.started_at is not None and _was_computed(row))
    starts = [datetime.fromisoformat(session.started_at) for session in sessions]
    continued = [
        session
        for session, start, end in zip(sessions, starts, [*starts, _FOR_EVER][1:], strict=True)
        if session.found_done.clip_stages and any(start <= at < end for at in begun)
    ]
    return Savings(
        num_continued=len(continued),
        resumed_stage_s=sum(session.found_done.stage_s for session in continued),
        resumed_gpu_s=sum(session.found_done.gpu_s for session in continued),
        num_reused=len(reused),
        reused_stage_s=sum(row.duration_s or 0.0 for row in reused),
        reused_gpu_s=sum(row.gpu_s or 0.0 for row in reused),
    )


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How many clips one type of error stopped in one stage; `status` is failed or quarantined."""

    stage: str
    error_type: str
    status: str
    num_clips: int


def count_failures(rows: Iterable[ManifestRow]) -> list[FailureCount]:
    """Return the failures of a run by stage, type and status; the most frequent of each stage first."""
    counts = Counter(
        (row.stage, row.error_type or "unknown", str(row.status))
        for row in rows
        if row.status in ("failed", "quarantined")
    )
    found = [FailureCount(*key, num_clips) for key, num_clips in counts.items()]
    return sorted(found, key=lambda each: (STAGES.index(each.stage), -each.num_clips, each.error_type, each.status))


def _was_computed(row: ManifestRow) -> bool:
    return row.reused_from is None and row.status != "skipped"
