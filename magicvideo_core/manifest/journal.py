"""Journal records: the small objects that say, one by one, that a clip finished a stage."""

import json
import logging
from collections.abc import Sequence
from datetime import datetime

from magicvideo_core.ids import canonical_json
from magicvideo_core.manifest.layout import JOURNAL, SESSIONS, journal_key, journal_prefix
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.storage import Storage

logger = logging.getLogger(__name__)


def write_record(storage: Storage, row: ManifestRow) -> None:
    """Write the record of one clip; its artifact must be durable before."""
    values = row.to_dict()
    if row.started_at is not None:
        values["started_at"] = row.started_at.isoformat()
    storage.write(journal_key(row.stage, row.shard_id, row.attempt, row.clip_id), canonical_json(values).encode())


def read_records(storage: Storage, stage: str, shard_id: int) -> list[ManifestRow]:
    """Return the record of the latest attempt per clip, sorted by clip id."""
    return _latest(storage, storage.list(journal_prefix(stage, shard_id)))


def read_all_records(storage: Storage) -> list[ManifestRow]:
    """Return the record of the latest attempt per clip and stage of a whole run, with one listing."""
    return _latest(storage, [key for key in storage.list(JOURNAL) if not key.startswith(f"{SESSIONS}/")])


def _latest(storage: Storage, keys: Sequence[str]) -> list[ManifestRow]:
    latest: dict[tuple[str, str], ManifestRow] = {}
    for key in keys:
        row = _parse(key, storage.read(key))
        if row is not None:
            before = latest.get((row.stage, row.clip_id))
            if before is None or before.attempt < row.attempt:
                latest[row.stage, row.clip_id] = row
    return sorted(latest.values(), key=lambda row: (row.stage, row.clip_id))


def _parse(key: str, data: bytes) -> ManifestRow | None:
    try:
        values = json.loads(data)
        if values["started_at"] is not None:
            values["started_at"] = datetime.fromisoformat(values["started_at"])
        return ManifestRow.from_dict(values)
    except (ValueError, KeyError, TypeError) as error:
        # On a store that tears writes, a torn record is none: its clip is computed again.
        logger.warning("journal record %s is not readable and counts as missing (%s)", key, error)
        return None
