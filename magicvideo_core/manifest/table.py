"""Manifests: the Parquet table of one (stage, shard, attempt), and the truth read back from all of them."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.layout import MANIFESTS, manifest_key, parse_manifest_key
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.storage import Storage, StoredObject


def write_manifest(
    storage: Storage, stage: str, shard_id: int, attempt: int, rows: Sequence[ManifestRow]
) -> StoredObject | None:
    """Write one attempt's manifest: one row per clip, failed ones included; zero rows are a result too.

    None where another driver took this attempt's number: what it wrote stays.
    """
    table = pa.Table.from_pylist([row.to_dict() for row in rows], schema=MANIFEST_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return storage.create(manifest_key(stage, shard_id, attempt), buffer.getvalue())


def read_manifests(storage: Storage, stage: str | None = None, shard_id: int | None = None) -> list[ManifestRow]:
    """Return the row of the latest attempt per clip and stage, ordered by stage, shard, and place in the manifest."""
    latest: dict[tuple[str, str], ManifestRow] = {}
    for attempt_key in sorted(_manifest_keys(storage, stage, shard_id), key=lambda key: key[1:]):
        # Later attempts come later and replace the row, which keeps its place.
        for row in _read_table(storage, attempt_key[0]):
            latest[row.stage, row.clip_id] = row
    return sorted(latest.values(), key=lambda row: (_stage_order(row.stage), row.shard_id))


def last_attempt(storage: Storage, stage: str, shard_id: int) -> int:
    """Return the number of the latest attempt with a manifest, 0 before the first."""
    return max((attempt for _, _, attempt in _manifest_keys(storage, stage, shard_id)), default=0)


def _manifest_keys(storage: Storage, stage: str | None, shard_id: int | None) -> list[tuple[str, int, int]]:
    """Return (key, shard_id, attempt) of the manifests that match."""
    found = []
    for key in storage.list(MANIFESTS if stage is None else f"{MANIFESTS}/{stage}"):
        parsed = parse_manifest_key(key)
        if parsed is not None and shard_id in (None, parsed[0]):
            found.append((key, *parsed))
    return found


def _read_table(storage: Storage, key: str) -> list[ManifestRow]:
    table = pq.read_table(pa.BufferReader(storage.read(key)))
    return [ManifestRow.from_dict(row) for row in table.to_pylist()]


def _stage_order(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)
