"""The measurements of a run: facts about its clips in a Parquet table of their own, one object per shard and stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.dataset.facts import FACTS_VERSION, THUMBNAIL_BYTES, judge_prompt, measure_frames
from magicvideo_core.errors import MediaError, RunError, UnreadableError, UpstreamLostError
from magicvideo_core.manifest.artifacts import decode_artifact, read_artifact
from magicvideo_core.manifest.layout import measurements_key
from magicvideo_core.manifest.parquet import table_from_parquet, to_parquet, warn_absent
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.scan import has_status, scan_run
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.storage import Storage

logger = logging.getLogger(__name__)

NUMBERS = ("brightness", "contrast", "sharpness", "motion", "largest_change", "flicker")
VERDICTS = (
    *("oracle_background", "oracle_colour", "oracle_shape", "oracle_size", "oracle_texture", "oracle_motion"),
    *("oracle_all", "held_out"),
)
# What an expression or a report may ask for, beside the columns of the manifest.
FACTS = (*NUMBERS, *VERDICTS)
_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("clip_id", pa.string()),
    ("shard_id", pa.int32()),
    ("stage", pa.string()),
    ("sha256", pa.string()),
    ("facts_version", pa.int32()),
    *((name, pa.float64()) for name in NUMBERS),
    *((name, pa.bool_()) for name in VERDICTS),
    ("thumbnails", pa.binary(THUMBNAIL_BYTES)),
    ("error", pa.string()),
]
_METADATA: dict[bytes | str, bytes | str] = {b"magicvideo.facts_version": str(FACTS_VERSION).encode()}
MEASUREMENT_SCHEMA = pa.schema(_COLUMNS, metadata=_METADATA)
# Decoding and numpy work without Python's lock; each clip is held whole.
NUM_THREADS = 2


@dataclass(frozen=True, slots=True)
class MeasureSummary:
    """What `measure_run` did: clips that succeeded in the stage, those measured now, and which could not be, and why."""

    run_uri: str
    stage: str
    num_clips: int
    num_measured: int
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return {name: getattr(self, name) for name in ("run_uri", "stage", "num_clips", "num_measured")} | {
            "problems": list(self.problems)
        }


def measure_run(
    storage: Storage,
    stage: str | None = None,
    *,
    again: bool = False,
    on_clip: Callable[[int, int], None] = lambda done, total: None,
) -> MeasureSummary:
    """Measure every clip that succeeded in a stage (the run's last by default) and is not measured yet.

    A clip whose artifact or whose facts' version has changed is measured anew; with `again` every one. What is measured is
    durable after each shard, so an interrupted call goes on. `on_clip` hears how many clips are done, of how many at most.
    """
    record = read_run_json(storage)
    stage = stage_of(record, stage)
    num_clips = num_measured = 0
    problems: list[str] = []
    for shard_id, rows in succeeded_rows(storage, stage):
        before = num_measured
        found = {} if again else valid_facts(read_measurements(storage, stage, shard_id))
        missing = [row for row in rows if (row.clip_id, row.sha256) not in found]
        for facts in map_concurrently(lambda row: _measure(storage, row), missing, NUM_THREADS):
            found[facts["clip_id"], facts["sha256"]] = facts
            if facts["error"] is not None:
                problems.append(f"clip {facts['clip_id']}: {facts['error']}")
            num_measured += 1
            on_clip(num_clips + num_measured - before, record.num_clips)
        if missing:
            # Only of the artifacts that count now.
            kept = [found[row.clip_id, row.sha256] for row in rows]
            storage.write(measurements_key(stage, shard_id), to_parquet(kept, MEASUREMENT_SCHEMA))
        num_clips += len(rows)
        on_clip(num_clips, record.num_clips)
    return MeasureSummary(storage.uri, stage, num_clips, num_measured, tuple(problems))


def read_measurements(storage: Storage, stage: str, shard_id: int) -> pa.Table:
    """Return the measurements of one shard with the columns of `MEASUREMENT_SCHEMA`; no rows where there are none.

    A torn object counts as none. Rows stand for the artifact whose `sha256` they name.
    """
    key = measurements_key(stage, shard_id)
    try:
        return table_from_parquet(storage.read(key), storage.join(key), MEASUREMENT_SCHEMA)
    except FileNotFoundError:
        pass
    except UnreadableError as error:
        warn_absent("table of measurements", str(error))
    return MEASUREMENT_SCHEMA.empty_table()


def stage_of(record: RunRecord, stage: str | None) -> str:
    """Return `stage`, or the run's last one where it is None. Raises RunError where the run has no such stage."""
    stages = record.config.stages
    if stage is not None and stage not in stages:
        raise RunError(f"Run {record.run_id} has no stage {stage!r}: choose one of {', '.join(stages)}.")
    return stages[-1] if stage is None else stage


def succeeded_rows(storage: Storage, stage: str) -> Iterable[tuple[int, list[ManifestRow]]]:
    """Give each shard's rows of the clips that succeeded in a stage, in their order, shard by shard."""
    for shard in scan_run(storage, (stage,), MANIFEST_SCHEMA.names):
        table = shard.stages.get(stage)
        if table is not None:
            succeeded = table.filter(has_status(table, "succeeded"))
            yield shard.shard_id, [ManifestRow.from_dict(row) for row in succeeded.to_pylist()]


def valid_facts(table: pa.Table) -> dict[tuple[str, str | None], Mapping[str, Any]]:
    """Return the rows that need not be measured again, by clip and artifact; what failed is tried again."""
    return {
        (row["clip_id"], row["sha256"]): row
        for row in table.to_pylist()
        if row["facts_version"] == FACTS_VERSION and row["error"] is None
    }


def _measure(storage: Storage, row: ManifestRow) -> dict[str, Any]:
    known = {
        "clip_id": row.clip_id,
        "shard_id": row.shard_id,
        "stage": row.stage,
        "sha256": row.sha256,
        "facts_version": FACTS_VERSION,
    }
    facts: dict[str, Any] = {}
    error = None
    try:
        frames_THWC_u8 = decode_artifact(row, read_artifact(storage, row.stage, row.artifact_uri, row.sha256))
        facts = {**measure_frames(frames_THWC_u8), **judge_prompt(row.prompt, frames_THWC_u8)}
    except (UpstreamLostError, MediaError) as problem:
        # Of one clip: the others have their facts, and `verify` says more.
        error = str(problem)
        logger.warning("clip %s is not measured: %s", row.clip_id, error)
    return {**dict.fromkeys(MEASUREMENT_SCHEMA.names), **known, **facts, "error": error}
