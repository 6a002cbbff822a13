"""What a report shows of a run: its clips with their stages, and the figures of all of it per stage, read in columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from magicvideo_core.clips import ClipTable
from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest.artifacts import key_in_run
from magicvideo_core.manifest.outlay import actual
from magicvideo_core.manifest.parquet import warn_absent
from magicvideo_core.manifest.plan import list_shards, read_plan
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.savings import Savings, savings
from magicvideo_core.manifest.scan import ShardScan, scan_run
from magicvideo_core.manifest.session import SessionRecord, read_sessions
from magicvideo_core.manifest.tally import COLUMNS, FailureCount, Tally
from magicvideo_core.report.activity import Activity
from magicvideo_core.storage import Storage

PENDING = "pending"
# A page that lists more would be too large to open.
MOST_CLIPS = 20_000
_FRAMES = ("width", "height", "num_frames")
# What the list of clips has of a row.
_LISTED = (
    *("sha256", "artifact_uri", "size_bytes", "duration_s"),
    *("attempt", "error_type", "error_message", "error_traceback"),
)
_TABLES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a clip came to in one stage; `key` is its artifact's in the run, None where it has none there."""

    stage: str
    status: str
    attempt: int
    duration_s: float | None
    size_bytes: int | None
    sha256: str | None
    key: str | None
    error_type: str | None
    error_message: str | None
    error_traceback: str | None


@dataclass(frozen=True, slots=True)
class ClipView:
    """One clip and its terminal rows, in stage order; `status` is the last stage's, or of what stopped it."""

    clip_id: str
    prompt: str
    negative_prompt: str
    seed: int
    source_id: str | None
    status: str
    results: tuple[StageResult, ...]

    def problem(self) -> StageResult | None:
        """Return the result that stopped the clip, None where none did."""
        return next((each for each in self.results if each.status in ("failed", "quarantined")), None)


@dataclass(frozen=True, slots=True)
class StageView:
    """Totals of one stage over the whole run; `total_s` is of what this run computed, without what it took over."""

    name: str
    num_succeeded: int
    num_problems: int
    num_skipped: int
    num_pending: int
    total_s: float
    size_bytes: int
    frames: str


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything that the page needs except the pictures; only `clips` may be the first ones of a larger run."""

    record: RunRecord
    clips: tuple[ClipView, ...]
    # The shards that hold them.
    shard_ids: tuple[int, ...]
    stages: tuple[StageView, ...]
    activity: Activity
    sessions: tuple[SessionRecord, ...]
    saved: Savings
    actual: dict[str, Any]
    failure_counts: tuple[FailureCount, ...]
    num_artifact_bytes: int
    counts: dict[str, int] = field(default_factory=dict)


def read_run(storage: Storage, most_clips: int = MOST_CLIPS) -> RunView:
    """Read a run, finished or not, its journal included. Raises RunError where there is none.

    Of a run with more than `most_clips`, `clips` are those of the first shards that hold so many; all figures are of the
    whole run in any case.
    """
    record = read_run_json(storage)
    stages = record.config.stages
    sessions = read_sessions(storage)
    tally, activity, shapes = Tally(sessions), Activity(), dict[str, Counter[str]]()
    shards = scan_run(storage, stages, (*COLUMNS, *_FRAMES))
    while tables := _some_tables(shards):
        rows = pa.concat_tables(tables)
        tally.add(rows)
        activity.add(rows)
        _count_shapes(rows, shapes)
    activity.finish(list(tally.spans.values()))
    planned = _first_plans(storage, most_clips)
    problems = tally.failures()
    succeeded = tally.select(stages[-1], status="succeeded").num_clips
    stopped = sum(each.num_clips for each in problems)
    counts = Counter({each.status: 0 for each in problems})
    for each in problems:
        counts[each.status] += each.num_clips
    counts["succeeded"], counts[PENDING] = succeeded, max(record.num_clips - succeeded - stopped, 0)
    return RunView(
        record=record,
        clips=_clips(storage, stages, planned),
        shard_ids=tuple(planned),
        stages=tuple(_stage_view(stage, tally, record.num_clips, shapes.get(stage)) for stage in stages),
        activity=activity,
        sessions=tuple(sessions),
        saved=savings(sessions, tally),
        actual=actual(tally, stages[-1], record.forecast),
        failure_counts=tuple(problems),
        num_artifact_bytes=tally.select().size_bytes,
        counts={status: number for status, number in counts.items() if number},
    )


def _some_tables(shards: Any) -> list[pa.Table]:
    """Take tables of a scan: counting one large table takes no longer than counting a small one."""
    tables: list[pa.Table] = []
    while len(tables) < _TABLES_AT_ONCE and (shard := next(shards, None)) is not None:
        tables += shard.stages.values()
    return tables


def _count_shapes(rows: pa.Table, shapes: dict[str, Counter[str]]) -> None:
    """Count frames and sizes by stage; only succeeded rows have them."""
    kinds = rows.group_by(["stage", *_FRAMES], use_threads=False).aggregate([([], "count_all")])
    for kind in kinds.to_pylist():
        if kind["width"] is not None:
            shape = f"{kind['num_frames']} × {kind['width']}×{kind['height']}"
            shapes.setdefault(kind["stage"], Counter())[shape] += kind["count_all"]


def _first_plans(storage: Storage, most_clips: int) -> dict[int, ClipTable]:
    """Return the clips of so many shards that they hold `most_clips`."""
    planned: dict[int, ClipTable] = {}
    num_clips = 0
    for shard_id in list_shards(storage):
        if num_clips >= most_clips:
            break
        try:
            planned[shard_id] = read_plan(storage, shard_id)
            num_clips += len(planned[shard_id])
        except UnreadableError as error:
            warn_absent("plan", str(error))
    return planned


def _clips(storage: Storage, stages: Sequence[str], planned: dict[int, ClipTable]) -> tuple[ClipView, ...]:
    found: dict[int, ShardScan] = {
        shard.shard_id: shard for shard in scan_run(storage, stages, _LISTED, shard_ids=planned.keys())
    }
    clips: list[ClipView] = []
    for shard_id, plan in planned.items():
        results: dict[str, list[StageResult]] = {}
        for rows in found[shard_id].stages.values() if shard_id in found else ():
            for row in rows.to_pylist():
                results.setdefault(row["clip_id"], []).append(_result(row))
        for clip in plan:
            own = tuple(results.get(clip.clip_id, ()))
            status = _status(own, stages)
            values = (clip.clip_id, clip.prompt, clip.negative_prompt, clip.seed, clip.source_id)
            clips.append(ClipView(*values, status, own))
    return tuple(clips)


def _result(row: dict[str, Any]) -> StageResult:
    values = {name: row[name] for name in StageResult.__slots__ if name != "key"}
    return StageResult(**values, key=key_in_run(row["artifact_uri"]) if row["status"] == "succeeded" else None)


def _status(results: Sequence[StageResult], stages: Sequence[str]) -> str:
    for each in results:
        if each.status in ("failed", "quarantined"):
            return each.status
    return "succeeded" if any(r.stage == stages[-1] and r.status == "succeeded" for r in results) else PENDING


def _stage_view(stage: str, tally: Tally, num_clips: int, shapes: Counter[str] | None) -> StageView:
    count = {status: tally.select(stage, status=status).num_clips for status in ("succeeded", "skipped")}
    all_rows = tally.select(stage)
    return StageView(
        name=stage,
        num_succeeded=count["succeeded"],
        num_problems=all_rows.num_clips - count["succeeded"] - count["skipped"],
        num_skipped=count["skipped"],
        num_pending=max(num_clips - all_rows.num_clips, 0),
        total_s=tally.select(stage, is_reused=False).duration_s,
        size_bytes=all_rows.size_bytes,
        frames=shapes.most_common(1)[0][0] if shapes else "",
    )
