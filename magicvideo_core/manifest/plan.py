"""The plan of a run: which clips each shard holds, written before any work."""

from collections.abc import Collection, Iterable, Sequence

import pyarrow as pa

from magicvideo_core.clips import CLIP_SCHEMA, Clip, ClipTable
from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest.layout import parse_plan_key, plan_key
from magicvideo_core.manifest.parquet import table_from_parquet, table_to_parquet, warn_absent
from magicvideo_core.manifest.schema import PLAN_SCHEMA
from magicvideo_core.storage import Storage


def write_plan(storage: Storage, shards: Sequence[Iterable[Clip]], shard_ids: Collection[int] | None = None) -> None:
    """Write one object per shard, of all of them or of `shard_ids`; shard ids count from 0."""

    def write(shard_id: int) -> None:
        clips = ClipTable.of(shards[shard_id]).columns
        ids = pa.array([shard_id] * clips.num_rows, PLAN_SCHEMA.field("shard_id").type)
        table = clips.add_column(0, PLAN_SCHEMA.field("shard_id"), ids).cast(PLAN_SCHEMA)
        storage.write(plan_key(shard_id), table_to_parquet(table))

    wanted = range(len(shards)) if shard_ids is None else sorted(shard_ids)
    for _ in map_concurrently(write, wanted, storage.num_readers):
        pass


def read_plan(storage: Storage, shard_id: int) -> ClipTable:
    """Return the clips of a shard in their planned order. Raises FileNotFoundError or UnreadableError."""
    key = plan_key(shard_id)
    table = table_from_parquet(storage.read(key), storage.join(key), CLIP_SCHEMA)
    try:
        # Of a column that is not there, or was damaged to nulls, no clip can be made.
        table.validate(full=True)
        if any(table[name].null_count for name in ("clip_id", "prompt", "negative_prompt", "seed", "extra")):
            raise ValueError("a clip lacks its id, prompt, seed or further columns")
    except (pa.ArrowException, ValueError) as error:
        raise UnreadableError(f"{storage.join(key)}: {error}") from None
    return ClipTable(table)


def list_shards(storage: Storage) -> list[int]:
    """Return the ids of the planned shards, sorted."""
    shard_ids = (parse_plan_key(key) for key in storage.list("plan"))
    return sorted(shard_id for shard_id in shard_ids if shard_id is not None)


def read_shards(storage: Storage) -> dict[int, ClipTable]:
    """Return the clips of every shard whose plan can be read; torn plans count as absent."""

    def read(shard_id: int) -> ClipTable | None:
        try:
            return read_plan(storage, shard_id)
        except UnreadableError as error:
            warn_absent("plan", str(error))
            return None

    shard_ids = list_shards(storage)
    found = zip(shard_ids, map_concurrently(read, shard_ids, storage.num_readers), strict=True)
    return {shard_id: clips for shard_id, clips in found if clips is not None}
