"""What a report shows of a run, read from its plan and manifests: clips with their stages, and totals per stage."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from magicvideo_core.clips import ClipTable
from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.outlay import actual
from magicvideo_core.manifest.parquet import warn_absent
from magicvideo_core.manifest.plan import list_shards, read_plan
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.savings import Savings, savings
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import read_sessions
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.manifest.tally import FailureCount, tally_run
from magicvideo_core.storage import Storage

PENDING = "pending"
# A page of more would be too large to open, and reading them for it would take more memory than the run.
MOST_CLIPS = 20_000


@dataclass(frozen=True, slots=True)
class ClipView:
    """One clip and its latest row per stage, in stage order; `status` is the last stage's, or of what stopped it."""

    clip_id: str
    prompt: str
    seed: int
    status: str
    rows: tuple[ManifestRow, ...]

    @property
    def duration_s(self) -> float:
        return sum(row.duration_s or 0.0 for row in self.rows)

    def artifact_key(self, stage: str) -> str | None:
        """The key of the clip's artifact in a stage, None where there is none."""
        for row in self.rows:
            if row.stage == stage and row.status == "succeeded":
                return artifact_key_of(row)
        return None


@dataclass(frozen=True, slots=True)
class StageView:
    """Totals of one stage; `bars` are (start, length, status) of its clips as fractions of the run's span.

    `total_s` and the bars are of what this run computed, without what it took over from another.
    """

    name: str
    counts: dict[str, int]
    num_pending: int
    median_s: float
    longest_s: float
    total_s: float
    size_bytes: int
    frames: str
    bars: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything that the page needs except the pictures."""

    record: RunRecord
    clips: tuple[ClipView, ...]
    stages: tuple[StageView, ...]
    problems: tuple[ManifestRow, ...]
    started_at: datetime | None
    span_s: float
    num_artifact_bytes: int
    saved: Savings
    actual: dict[str, Any]
    failure_counts: tuple[FailureCount, ...]
    counts: dict[str, int] = field(default_factory=dict)


def read_run(storage: Storage, most_clips: int = MOST_CLIPS) -> RunView:
    """Read a run, finished or not; of a larger one the first shards that hold `most_clips`. Raises RunError where none is.

    What was saved, what it took and the counts of failures are of the whole run in any case.
    """
    record = read_run_json(storage)
    stages = record.config.stages
    shards, rows = _read_first_shards(storage, stages, most_clips)
    by_clip: dict[str, list[ManifestRow]] = {}
    for row in rows:
        by_clip.setdefault(row.clip_id, []).append(row)
    clips = []
    for shard in shards:
        for clip in shard:
            clip_rows = tuple(by_clip.get(clip.clip_id, ()))
            status = _clip_status(clip_rows, stages)
            clips.append(ClipView(clip.clip_id, clip.prompt, clip.seed, status, clip_rows))
    sessions = read_sessions(storage)
    tally = tally_run(storage, stages, sessions)
    # What was taken over keeps the times of the run that made it.
    timed = [(row.started_at, row) for row in rows if row.started_at is not None and row.reused_from is None]
    started = [started_at for started_at, _ in timed]
    ended = [started_at + timedelta(seconds=row.duration_s or 0.0) for started_at, row in timed]
    start = min(started, default=None)
    span_s = (max(ended) - start).total_seconds() if start is not None else 0.0
    return RunView(
        record=record,
        clips=tuple(clips),
        stages=tuple(_stage_view(stage, rows, len(clips), start, span_s) for stage in record.config.stages),
        problems=tuple(row for row in rows if row.status in ("failed", "quarantined")),
        started_at=start,
        span_s=span_s,
        num_artifact_bytes=sum(row.size_bytes or 0 for row in rows),
        saved=savings(sessions, tally),
        actual=actual(tally, record.config.stages[-1], record.forecast),
        failure_counts=tuple(tally.failures()),
        counts=dict(Counter(clip.status for clip in clips)),
    )


def _read_first_shards(
    storage: Storage, stages: Sequence[str], most_clips: int
) -> tuple[list[ClipTable], list[ManifestRow]]:
    """Return the clips and rows of so many shards that they hold `most_clips`, in the order of stages and shards."""
    clips: list[ClipTable] = []
    shard_ids = []
    for shard_id in list_shards(storage):
        if sum(map(len, clips)) >= most_clips:
            break
        try:
            clips.append(read_plan(storage, shard_id))
            shard_ids.append(shard_id)
        except UnreadableError as error:
            warn_absent("plan", str(error))
    return clips, [row for stage in stages for i in shard_ids for row in read_manifests(storage, stage, i)]


def _clip_status(rows: tuple[ManifestRow, ...], stages: tuple[str, ...]) -> str:
    for row in rows:
        if row.status in ("failed", "quarantined"):
            return row.status
    done = {row.stage for row in rows if row.status == "succeeded"}
    return "succeeded" if stages and stages[-1] in done else PENDING


def _stage_view(
    stage: str, all_rows: list[ManifestRow], num_clips: int, start: datetime | None, span_s: float
) -> StageView:
    rows = [row for row in all_rows if row.stage == stage]
    durations = [row.duration_s for row in rows if row.duration_s is not None and row.status == "succeeded"]
    shapes = Counter(
        f"{row.num_frames} x {row.width}x{row.height}" for row in rows if row.status == "succeeded" and row.width
    )
    bars = []
    for row in rows:
        if row.started_at is not None and row.reused_from is None and start is not None and span_s > 0:
            offset = (row.started_at - start).total_seconds() / span_s
            bars.append((offset, (row.duration_s or 0.0) / span_s, row.status))
    return StageView(
        name=stage,
        counts=dict(Counter(row.status for row in rows)),
        num_pending=max(num_clips - len(rows), 0),
        median_s=statistics.median(durations) if durations else 0.0,
        longest_s=max(durations, default=0.0),
        total_s=sum(row.duration_s or 0.0 for row in rows if row.reused_from is None),
        size_bytes=sum(row.size_bytes or 0 for row in rows),
        frames=shapes.most_common(1)[0][0] if shapes else "",
        bars=tuple(bars),
    )
