"""The plan of a run: which clips each shard holds, written before any work."""

from collections.abc import Collection, Sequence

from magicvideo_core.errors import UnreadableError
from magicvideo_core.manifest.layout import parse_plan_key, plan_key
from magicvideo_core.manifest.parquet import first_line, from_parquet, to_parquet, warn_absent
from magicvideo_core.manifest.schema import PLAN_SCHEMA
from magicvideo_core.prompts import Clip
from magicvideo_core.storage import Storage


def split_shards(clips: Sequence[Clip], size: int) -> list[list[Clip]]:
    """Split clips into shards of `size` in their order; the last one may be shorter."""
    return [list(clips[start : start + size]) for start in range(0, len(clips), size)]


def write_plan(storage: Storage, shards: Sequence[Sequence[Clip]], shard_ids: Collection[int] | None = None) -> None:
    """Write one object per shard, of all of them or of `shard_ids`; shard ids count from 0."""
    for shard_id in range(len(shards)) if shard_ids is None else sorted(shard_ids):
        rows = [{"shard_id": shard_id, **clip.to_row()} for clip in shards[shard_id]]
        storage.write(plan_key(shard_id), to_parquet(rows, PLAN_SCHEMA))


def read_plan(storage: Storage, shard_id: int) -> list[Clip]:
    """Return the clips of a shard in their planned order. Raises FileNotFoundError or UnreadableError."""
    key = plan_key(shard_id)
    try:
        return [Clip.from_row(row) for row in from_parquet(storage.read(key), storage.join(key), PLAN_SCHEMA)]
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableError(f"{storage.join(key)}: {first_line(error)}") from None


def list_shards(storage: Storage) -> list[int]:
    """Return the ids of the planned shards, sorted."""
    shard_ids = (parse_plan_key(key) for key in storage.list("plan"))
    return sorted(shard_id for shard_id in shard_ids if shard_id is not None)


def read_shards(storage: Storage) -> dict[int, list[Clip]]:
    """Return the clips of every shard whose plan can be read; torn plans count as absent."""
    shards = {}
    for shard_id in list_shards(storage):
        try:
            shards[shard_id] = read_plan(storage, shard_id)
        except UnreadableError as error:
            warn_absent("plan", str(error))
    return shards
