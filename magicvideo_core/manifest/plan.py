"""The plan of a run: which clips each shard holds, written before any work."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from magicvideo_core.manifest.layout import parse_plan_key, plan_key
from magicvideo_core.manifest.schema import PLAN_SCHEMA
from magicvideo_core.prompts import Clip
from magicvideo_core.storage import Storage


def split_shards(clips: Sequence[Clip], size: int) -> list[list[Clip]]:
    """Split clips into shards of `size` in their order; the last one may be shorter."""
    return [list(clips[start : start + size]) for start in range(0, len(clips), size)]


def write_plan(storage: Storage, shards: Sequence[Sequence[Clip]]) -> None:
    """Write one object per shard; shard ids count from 0."""
    for shard_id, clips in enumerate(shards):
        rows = [{"shard_id": shard_id, **clip.to_row()} for clip in clips]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=PLAN_SCHEMA), buffer, compression="zstd")
        storage.write(plan_key(shard_id), buffer.getvalue())


def read_plan(storage: Storage, shard_id: int) -> list[Clip]:
    """Return the clips of a shard in their planned order. Raises FileNotFoundError."""
    table = pq.read_table(pa.BufferReader(storage.read(plan_key(shard_id))), schema=PLAN_SCHEMA)
    return [Clip.from_row(row) for row in table.to_pylist()]


def list_shards(storage: Storage) -> list[int]:
    """Return the ids of the planned shards, sorted."""
    shard_ids = (parse_plan_key(key) for key in storage.list("plan"))
    return sorted(shard_id for shard_id in shard_ids if shard_id is not None)
