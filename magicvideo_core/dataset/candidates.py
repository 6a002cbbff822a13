"""The clips that an export chooses from: every terminal row of a stage, with its plan, facts and other stages, in columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from magicvideo_core.dataset.expressions import Filter
from magicvideo_core.dataset.facts import THUMBNAIL_BYTES
from magicvideo_core.dataset.measurements import FACTS, MEASUREMENT_SCHEMA, read_measurements, valid_facts
from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest.parquet import warn_absent
from magicvideo_core.manifest.plan import read_plan
from magicvideo_core.manifest.scan import scan_run
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA
from magicvideo_core.storage import Storage

EXTRA = "extra."
# Of another stage's artifact, as `{stage}.{name}`.
PART_COLUMNS = ("artifact_uri", "sha256", "size_bytes")
_LEFT_OUT = {"error_traceback", "error_message"}
_ROW_COLUMNS = [name for name in MANIFEST_SCHEMA.names if name not in _LEFT_OUT]


def candidate_schema(include: Sequence[str]) -> pa.Schema:
    """Return the columns of `read_candidates`: number of the run, row, given media, facts, other stages' artifacts."""
    fields = [pa.field("run", pa.int32()), *(MANIFEST_SCHEMA.field(name) for name in _ROW_COLUMNS)]
    fields += [pa.field("image", pa.string()), pa.field("video", pa.string())]
    fields += [MEASUREMENT_SCHEMA.field(name) for name in FACTS]
    fields.append(pa.field("thumbnails", pa.binary(THUMBNAIL_BYTES)))
    fields += [
        pa.field(f"{stage}.{name}", MANIFEST_SCHEMA.field(name).type) for stage in include for name in PART_COLUMNS
    ]
    return pa.schema(fields)


def read_candidates(
    storages: Sequence[Storage], stages: Sequence[str], include: Sequence[str], *, with_facts: bool
) -> pa.Table:
    """Return the terminal rows of each run in its stage, sorted by clip id and run; one run after the other is read.

    `stages` has the stage of each run. Without an artifact in an included stage its columns are null; so are facts that
    nobody has measured.
    """
    schema = candidate_schema(include)
    tables = [schema.empty_table()]
    for number, (storage, stage) in enumerate(zip(storages, stages, strict=True)):
        # Which stage a skipped clip waits for is not looked at: it has no artifact either way.
        names = tuple(dict.fromkeys((*include, stage)))
        for shard in scan_run(storage, names, _ROW_COLUMNS, keep_stale_skips=True):
            rows = shard.stages.get(stage)
            if rows is None:
                continue
            parts = {name: _by_clip(shard.stages.get(name)) for name in include}
            facts = valid_facts(read_measurements(storage, stage, shard.shard_id)) if with_facts else {}
            given = _given_media(storage, shard.shard_id)
            joined = (_join(number, row, parts, facts, given) for row in rows.to_pylist())
            tables.append(pa.Table.from_pylist(list(joined), schema=schema))
    whole = pa.concat_tables(tables).combine_chunks()
    return whole.sort_by([("clip_id", "ascending"), ("run", "ascending")])


def with_extra_columns(table: pa.Table, filters: Iterable[Filter]) -> pa.Table:
    """Return the table with a column for each `extra.NAME` that a filter names: the prompt file's own columns.

    Numbers, truths or texts as they all are; texts where they differ. A name that no clip has is left out.
    """
    wanted = sorted({name for each in filters for name in each.columns if name.startswith(EXTRA)})
    if not wanted:
        return table
    extras = [json.loads(text or "{}") for text in table["extra"].to_pylist()]
    for name in wanted:
        values = [extra.get(name.removeprefix(EXTRA)) for extra in extras]
        if any(value is not None for value in values):
            table = table.append_column(name, _one_kind(values))
    return table


def _join(
    number: int,
    row: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Mapping[str, Any]]],
    facts: Mapping[tuple[str, str | None], Mapping[str, Any]],
    given: Mapping[str, tuple[str | None, str | None]],
) -> dict[str, Any]:
    joined = {"run": number, **row}
    joined["image"], joined["video"] = given.get(row["clip_id"], (None, None))
    found = facts.get((row["clip_id"], row["sha256"]), {})
    joined |= {name: found.get(name) for name in (*FACTS, "thumbnails")}
    for stage, by_clip in parts.items():
        part = by_clip.get(row["clip_id"], {})
        succeeded = part.get("status") == "succeeded"
        joined |= {f"{stage}.{name}": part[name] if succeeded else None for name in PART_COLUMNS}
    return joined


def _by_clip(rows: pa.Table | None) -> dict[str, Mapping[str, Any]]:
    return {} if rows is None else {row["clip_id"]: row for row in rows.to_pylist()}


def _given_media(storage: Storage, shard_id: int) -> dict[str, tuple[str | None, str | None]]:
    """Return image and video that a shard's prompts bring along, by clip; of clips without any nothing."""
    try:
        clips = read_plan(storage, shard_id).columns.select(["clip_id", "image", "video"])
    except (FileNotFoundError, UnreadableError) as error:
        warn_absent("plan", str(error))
        return {}
    return {row["clip_id"]: (row["image"], row["video"]) for row in clips.to_pylist() if row["image"] or row["video"]}


def _one_kind(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())
