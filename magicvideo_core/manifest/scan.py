"""Reads what is durable of a whole run in columns, shard by shard: what counts is as in `durable`, without an object a row."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest.durable import reads
from magicvideo_core.manifest.journal import list_records, read_records
from magicvideo_core.manifest.layout import RecordKey
from magicvideo_core.manifest.parquet import table_from_parquet, warn_absent
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA
from magicvideo_core.manifest.table import list_manifests
from magicvideo_core.storage import Storage

# Without these nobody can say which row counts.
_ALWAYS = ("clip_id", "stage", "attempt", "status")


@dataclass(frozen=True)
class ShardScan:
    """The rows that count of one shard, one per clip, by stage; `stages` holds none for a stage without any."""

    shard_id: int
    stages: Mapping[str, pa.Table]


def scan_run(
    storage: Storage,
    stages: Sequence[str],
    columns: Sequence[str] = (),
    *,
    keep_stale_skips: bool = False,
    shard_ids: Collection[int] | None = None,
) -> Iterator[ShardScan]:
    """Give the terminal rows of a run, or of some of its shards, in order of the shards, with `columns` beside `_ALWAYS`.

    As `durable.read_rows` has them, or, with `keep_stale_skips`, as `durable.read_latest` has those of `stages`. A few
    shards are held at a time, read several at once.
    """
    schema = pa.schema([MANIFEST_SCHEMA.field(name) for name in dict.fromkeys((*_ALWAYS, *columns))])
    # The journal first: a manifest takes its place before it is cleared, so nothing is missed between the two.
    records: dict[int, list[RecordKey]] = defaultdict(list)
    for key in list_records(storage):
        records[key.shard_id].append(key)
    manifests: dict[int, list[RecordKey]] = defaultdict(list)
    for key in list_manifests(storage):
        manifests[key.shard_id].append(key)

    def read(shard_id: int) -> ShardScan:
        found = {}
        for stage in stages:
            table = _read_stage(
                storage,
                schema,
                [key for key in manifests[shard_id] if key.stage == stage],
                [key for key in records[shard_id] if key.stage == stage],
            )
            if table is not None:
                found[stage] = table
        return ShardScan(shard_id, found if keep_stale_skips else without_stale_skips(found, stages))

    wanted = sorted(
        shard_id for shard_id in records.keys() | manifests.keys() if shard_ids is None or shard_id in shard_ids
    )
    # Both are dicts of lists that threads only read from here on.
    for shard_id in wanted:
        records[shard_id], manifests[shard_id]
    return map_concurrently(read, wanted, storage.num_readers)


def clip_ids(rows: pa.Table) -> list[str]:
    """Return the clip ids of rows in their order."""
    return cast(list[str], rows["clip_id"].to_pylist())


def has_status(rows: pa.Table, *statuses: str) -> Any:
    """Return for each row, as Arrow booleans, whether it has one of these statuses."""
    if len(statuses) == 1:
        return pc.equal(rows["status"], pa.scalar(statuses[0]))
    return pc.is_in(rows["status"], value_set=pa.array(statuses, pa.string()))


def _read_stage(
    storage: Storage, schema: pa.Schema, keys: Sequence[RecordKey], record_keys: Sequence[RecordKey]
) -> pa.Table | None:
    """Return the latest row per clip of one shard in one stage, None where there is none."""
    tables: list[pa.Table] = []
    last_read = last_torn = 0
    for key in sorted(keys, key=lambda key: key.attempt):
        try:
            tables.append(table_from_parquet(storage.read(key.key), storage.join(key.key), schema))
        except FileNotFoundError:
            # Torn, and replaced since it was listed.
            continue
        except UnreadableError as error:
            warn_absent("manifest", str(error))
            last_torn = key.attempt
            continue
        last_read, last_torn = key.attempt, 0
    merged = _latest(tables)
    # From here on as in `durable`: records above the last manifest count, and failures below a torn one do not.
    rows = read_records(storage, [key for key in record_keys if key.attempt > last_read])
    parts = [merged] if merged is not None else []
    if rows:
        parts.append(pa.Table.from_pylist([row.to_dict() for row in rows], schema=schema))
    if last_torn:
        parts = [
            table.filter(
                pc.or_(has_status(table, "succeeded"), pc.greater_equal(table["attempt"], pa.scalar(last_torn)))
            )
            for table in parts
        ]
    return _latest(parts)


def _latest(tables: Sequence[pa.Table]) -> pa.Table | None:
    """Return one table in which a clip's row of a later table takes the place of an earlier one's."""
    tables = [table for table in tables if table.num_rows]
    if len(tables) < 2:
        return tables[0] if tables else None
    whole = pa.concat_tables(tables)
    places = {clip_id: place for place, clip_id in enumerate(clip_ids(whole))}
    return whole.take(sorted(places.values()))


def without_stale_skips(tables: Mapping[str, pa.Table], stages: Sequence[str]) -> dict[str, pa.Table]:
    """Drop rows that say `skipped` though nothing that their stage reads stands in the way, stage after stage."""
    kept: dict[str, pa.Table] = {}
    # By stage: the clips that it did not make.
    broken: dict[str, Any] = {}
    for stage in stages:
        if (table := tables.get(stage)) is None:
            continue
        is_skipped = has_status(table, "skipped")
        if pc.any(is_skipped).as_py():
            before = [broken[name] for name in reads(stage, stages) if name in broken]
            reasons = pa.chunked_array([chunk for each in before for chunk in each.chunks], pa.string())
            keep: Any = pc.or_(pc.invert(is_skipped), pc.is_in(table["clip_id"], value_set=reasons))
            # Filtering copies, and seldom is there anything to drop.
            if not pc.all(keep).as_py():
                table = table.filter(keep)
        if table.num_rows:
            kept[stage] = table
            broken[stage] = table["clip_id"].filter(pc.invert(has_status(table, "succeeded")))
    return kept
