"""The clips that a report lists, each with what it came to in every stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from magicvideo_core.clips import ClipTable
from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest.artifacts import key_in_run
from magicvideo_core.manifest.parquet import warn_absent
from magicvideo_core.manifest.plan import list_shards, read_plan
from magicvideo_core.manifest.scan import clip_ids, has_status, scan_run
from magicvideo_core.storage import Storage

PENDING = "pending"
STOPPED = ("failed", "quarantined")
# A page that lists more would be too large to open.
MOST_CLIPS, MOST_STOPPED = 20_000, 5_000
# What the list has of a row.
_COLUMNS = (
    *("sha256", "artifact_uri", "size_bytes", "duration_s"),
    *("attempt", "error_type", "error_message", "error_traceback"),
)


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
    shard_id: int
    seed: int
    source_id: str | None
    status: str
    results: tuple[StageResult, ...]

    def problem(self) -> StageResult | None:
        """Return the result that stopped the clip, None where none did."""
        return next((each for each in self.results if each.status in STOPPED), None)


def read_clips(
    storage: Storage, stages: Sequence[str], stopped_in: Mapping[int, int], most_clips: int, most_stopped: int
) -> tuple[ClipView, ...]:
    """Return the clips of the first shards that hold `most_clips`, then the stopped ones of later shards.

    `stopped_in` counts these by shard; they end with the shard that brings them to `most_stopped`.
    """
    planned: dict[int, ClipTable] = {}
    num_clips = num_stopped = 0
    whole: set[int] = set()
    for shard_id in list_shards(storage):
        if num_clips < most_clips:
            whole.add(shard_id)
        elif num_stopped >= most_stopped:
            break
        elif not stopped_in.get(shard_id):
            continue
        else:
            num_stopped += stopped_in[shard_id]
        try:
            planned[shard_id] = read_plan(storage, shard_id)
            num_clips += len(planned[shard_id]) if shard_id in whole else 0
        except UnreadableError as error:
            warn_absent("plan", str(error))
    results = _results(storage, stages, planned.keys(), whole)
    clips: list[ClipView] = []
    for shard_id, plan in planned.items():
        for clip in plan:
            own = tuple(results.get(clip.clip_id, ()))
            if own or shard_id in whole:
                known = (clip.clip_id, clip.prompt, clip.negative_prompt, shard_id, clip.seed, clip.source_id)
                clips.append(ClipView(*known, _status(own, stages), own))
    return tuple(clips)


def _results(
    storage: Storage, stages: Sequence[str], shard_ids: Collection[int], whole: Collection[int]
) -> dict[str, list[StageResult]]:
    """Return the results by clip id of shards, of those that are not `whole` only the stopped clips'."""
    results: dict[str, list[StageResult]] = {}
    for shard in scan_run(storage, stages, _COLUMNS, shard_ids=shard_ids):
        stopped = {i for rows in shard.stages.values() for i in clip_ids(rows.filter(has_status(rows, *STOPPED)))}
        for rows in shard.stages.values():
            for row in rows.to_pylist():
                if shard.shard_id in whole or row["clip_id"] in stopped:
                    results.setdefault(row["clip_id"], []).append(_result(row))
    return results


def _result(row: dict[str, Any]) -> StageResult:
    values = {name: row[name] for name in StageResult.__slots__ if name != "key"}
    return StageResult(**values, key=key_in_run(row["artifact_uri"]) if row["status"] == "succeeded" else None)


def _status(results: Sequence[StageResult], stages: Sequence[str]) -> str:
    for each in results:
        if each.status in STOPPED:
            return each.status
    return "succeeded" if any(r.stage == stages[-1] and r.status == "succeeded" for r in results) else PENDING
