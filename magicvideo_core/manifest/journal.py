"""Journal records: the small objects that say, one by one, that a clip finished a stage."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import partial

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.ids import canonical_json
from magicvideo_core.manifest.layout import JOURNAL, RecordKey, journal_key, journal_prefix, parse_journal_key
from magicvideo_core.manifest.parquet import first_line, warn_absent
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.storage import Storage


def write_record(storage: Storage, row: ManifestRow) -> None:
    """Write the record of one clip; its artifact must be durable before."""
    storage.write(*_object(row))


def write_records(storage: Storage, rows: Sequence[ManifestRow]) -> None:
    """Write the records of several clips together; their artifacts must be durable before."""
    storage.write_together([_object(row) for row in rows])


def list_records(storage: Storage, stage: str | None = None, shard_id: int | None = None) -> list[RecordKey]:
    """Return the keys of the records of a whole run, or of one stage's shard where both are given, by attempt."""
    prefix = JOURNAL if stage is None or shard_id is None else journal_prefix(stage, shard_id)
    keys = [parsed for parsed in map(parse_journal_key, storage.list(prefix)) if parsed is not None]
    return sorted(keys, key=lambda key: (key.stage, key.shard_id, key.attempt, key.clip_id))


def read_records(storage: Storage, keys: Iterable[RecordKey]) -> list[ManifestRow]:
    """Return the record of the latest attempt per clip and stage, sorted by stage and clip id; torn ones are none."""
    latest: dict[tuple[str, str], ManifestRow] = {}
    ordered = [key.key for key in sorted(keys, key=lambda key: key.attempt)]
    for row in map_concurrently(partial(_read, storage), ordered, storage.num_readers):
        if row is not None:
            latest[row.stage, row.clip_id] = row
    return [latest[name] for name in sorted(latest)]


def _object(row: ManifestRow) -> tuple[str, bytes]:
    """Key and bytes of a record."""
    values = row.to_dict()
    if row.started_at is not None:
        values["started_at"] = row.started_at.isoformat()
    return journal_key(row.stage, row.shard_id, row.attempt, row.clip_id), canonical_json(values).encode()


def _read(storage: Storage, key: str) -> ManifestRow | None:
    try:
        values = json.loads(storage.read(key))
        if values["started_at"] is not None:
            values["started_at"] = datetime.fromisoformat(values["started_at"])
        return ManifestRow.from_dict(values)
    except FileNotFoundError:
        # Cleared since it was listed: its manifest is there.
        return None
    except (ValueError, KeyError, TypeError) as error:
        # On a store that tears writes, a torn record is none: its clip is computed again.
        warn_absent("journal record", f"{storage.join(key)}: {first_line(error)}")
        return None
