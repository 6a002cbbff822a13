"""What a report shows of a run: the figures of all of it, read in columns, and its clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.manifest.outlay import actual
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.savings import Savings, savings
from magicvideo_core.manifest.scan import ShardScan, has_status, scan_run
from magicvideo_core.manifest.session import SessionRecord, read_sessions
from magicvideo_core.manifest.tally import COLUMNS, FailureCount, Tally
from magicvideo_core.report.activity import Activity
from magicvideo_core.report.clip_views import MOST_CLIPS, MOST_STOPPED, PENDING, STOPPED, ClipView, read_clips
from magicvideo_core.storage import Storage

_FRAMES = ("width", "height", "num_frames")
_TABLES_AT_ONCE = 64


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
    stages: tuple[StageView, ...]
    activity: Activity
    sessions: tuple[SessionRecord, ...]
    saved: Savings
    actual: dict[str, Any]
    failure_counts: tuple[FailureCount, ...]
    num_artifact_bytes: int
    counts: dict[str, int] = field(default_factory=dict)


def read_run(storage: Storage, most_clips: int = MOST_CLIPS, most_stopped: int = MOST_STOPPED) -> RunView:
    """Read a run, finished or not, its journal included. Raises RunError where there is none.

    Of a run with more than `most_clips`, `clips` are those of the first shards that hold so many, and up to `most_stopped`
    that failed in later ones; all figures are of the whole run in any case.
    """
    record = read_run_json(storage)
    stages = record.config.stages
    sessions = read_sessions(storage)
    tally, activity, shapes = Tally(sessions), Activity(), dict[str, Counter[str]]()
    stopped_in = Counter[int]()
    shards = scan_run(storage, stages, (*COLUMNS, *_FRAMES))
    while tables := _some_tables(shards, stopped_in):
        rows = pa.concat_tables(tables)
        tally.add(rows)
        activity.add(rows)
        _count_shapes(rows, shapes)
    activity.finish(list(tally.spans.values()))
    clips = read_clips(storage, stages, stopped_in, most_clips, most_stopped)
    problems = tally.failures()
    counts = Counter[str]()
    for each in problems:
        counts[each.status] += each.num_clips
    counts["succeeded"] = tally.select(stages[-1], status="succeeded").num_clips
    counts[PENDING] = max(record.num_clips - counts.total(), 0)
    return RunView(
        record=record,
        clips=clips,
        stages=tuple(_stage_view(stage, tally, record.num_clips, shapes.get(stage)) for stage in stages),
        activity=activity,
        sessions=tuple(sessions),
        saved=savings(sessions, tally),
        actual=actual(tally, stages[-1], record.forecast),
        failure_counts=tuple(problems),
        num_artifact_bytes=tally.select().size_bytes,
        counts={status: number for status, number in counts.items() if number},
    )


def _some_tables(shards: Iterator[ShardScan], stopped_in: Counter[int]) -> list[pa.Table]:
    """Take tables of a scan: counting one large table takes no longer than counting a small one.

    Counts the rows of clips that stopped by shard.
    """
    tables: list[pa.Table] = []
    while len(tables) < _TABLES_AT_ONCE and (shard := next(shards, None)) is not None:
        for table in shard.stages.values():
            stopped_in[shard.shard_id] += pc.sum(has_status(table, *STOPPED)).as_py() or 0
            tables.append(table)
    return tables


def _count_shapes(rows: pa.Table, shapes: dict[str, Counter[str]]) -> None:
    """Count frames and sizes by stage; only succeeded rows have them."""
    kinds = rows.group_by(["stage", *_FRAMES], use_threads=False).aggregate([([], "count_all")])
    for kind in kinds.to_pylist():
        if kind["width"] is not None:
            shape = f"{kind['num_frames']} × {kind['width']}×{kind['height']}"
            shapes.setdefault(kind["stage"], Counter())[shape] += kind["count_all"]


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
