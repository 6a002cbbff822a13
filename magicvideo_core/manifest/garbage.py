"""What of a run nothing needs any more: orphans of interrupted work, and what later attempts replaced; found, then deleted.

    orphans       artifacts that no row names: written, and their driver or actor died before the record
    superseded    artifacts that only rows of replaced attempts name, and manifests all of whose rows were replaced
    stale records journal records that a manifest repeats, or that come from an actor nobody waited for
    unfinished    parts of writes that were interrupted (on a disk; S3 has its own rule for them)

Only what this project writes under names of its own is looked at. Where a manifest cannot be read nobody knows what it
names: nothing of its stage is garbage then.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.errors import RunStoppedError, UnreadableError
from magicvideo_core.local_files import unfinished_files
from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.durable import read_latest
from magicvideo_core.manifest.journal import list_records, read_records
from magicvideo_core.manifest.layout import RecordKey
from magicvideo_core.manifest.run_record import read_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import Session, open_session, read_sessions
from magicvideo_core.manifest.table import list_manifests, read_manifest
from magicvideo_core.storage import Storage, is_local

# A write takes minutes at most.
UNFINISHED_AFTER_S = 3600.0
_ARTIFACT = re.compile(r"artifacts/([^/]+)/[0-9a-f]{16}\.[0-9a-f]{16}\.[a-z0-9]+")
KINDS = ("orphans", "superseded", "stale_records", "unfinished")


@dataclass
class Garbage:
    """What can go: sizes in bytes by key, by kind; `kept_back` says what was not looked at, and why."""

    run_uri: str
    orphans: dict[str, int] = field(default_factory=dict)
    superseded: dict[str, int] = field(default_factory=dict)
    stale_records: dict[str, int] = field(default_factory=dict)
    unfinished: dict[str, int] = field(default_factory=dict)
    kept_back: list[str] = field(default_factory=list)

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Return the sizes by kind and key."""
        return {kind: getattr(self, kind) for kind in KINDS}

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many objects of each kind there are, and their bytes."""
        return {
            kind: {"num_objects": len(sizes), "size_bytes": sum(sizes.values())}
            for kind, sizes in self.by_kind().items()
        }

    def keys(self) -> list[str]:
        """Return all keys: records and manifests before the artifacts that they name, so that no row loses its artifact."""
        every = [key for sizes in self.by_kind().values() for key in sizes]
        return sorted(every, key=lambda key: key.startswith("artifacts/"))


def find_garbage(storage: Storage) -> Garbage:
    """Look through a run; reads only. Raises RunError where there is none.

    While a driver works on it what is in flight looks like an orphan: only who holds the run may delete.
    """
    record = read_run_json(storage)
    found = Garbage(storage.uri)
    # The artifacts first, then the rows: what is written meanwhile is not looked for.
    artifacts = storage.list_sizes("artifacts")
    sizes = {**storage.list_sizes("journal"), **storage.list_sizes("manifests")}
    rows_of, torn_stages = _read_manifests(storage)
    records = list_records(storage)
    latest = read_latest(storage)
    needed = {key for row in latest.values() if (key := artifact_key_of(row)) is not None}
    named = {key for rows in rows_of.values() for row in rows if (key := artifact_key_of(row)) is not None}
    named |= {key for row in read_records(storage, records) if (key := artifact_key_of(row)) is not None}
    for stage in sorted(torn_stages):
        found.kept_back.append(
            f"stage {stage}: a manifest there cannot be read; give the run's `magicvideo generate` again first"
        )
    for key, size in artifacts.items():
        match = _ARTIFACT.fullmatch(key)
        if match is None or match[1] not in record.config.stages:
            found.kept_back.append(f"{key}: not a name that this project gives")
        elif match[1] not in torn_stages and key not in needed:
            (found.superseded if key in named else found.orphans)[key] = size
    replaced, stale = _replaced(rows_of, latest), _stale(records, rows_of)
    found.superseded |= {key.key: sizes.get(key.key, 0) for key in replaced if key.stage not in torn_stages}
    found.stale_records = {key.key: sizes.get(key.key, 0) for key in stale if key.stage not in torn_stages}
    if is_local(storage.uri):
        found.unfinished = dict(unfinished_files(storage.uri, UNFINISHED_AFTER_S))
    return found


def collect_garbage(storage: Storage, on_object: Callable[[int, int], None] = lambda done, total: None) -> Garbage:
    """Take the run as a driver does, look through it, and delete; returns what was deleted.

    Nobody else works on the run meanwhile: raises RunError where somebody does. Interrupted, it has deleted a part.
    """
    lost: list[RunStoppedError] = []
    read_run_json(storage)
    session: Session = open_session(storage, lost.append)
    try:
        garbage = find_garbage(storage)
        keys = garbage.keys()
        for done, _ in enumerate(map_concurrently(_deleter(storage, lost), keys, storage.num_readers), start=1):
            on_object(done, len(keys))
        return garbage
    finally:
        session.close()


def is_worked_on(storage: Storage) -> bool:
    """Say whether a driver may be working on the run: its last session has not ended; one that died looks the same."""
    sessions = read_sessions(storage)
    return bool(sessions) and sessions[-1].ended_at is None


def _deleter(storage: Storage, lost: Sequence[RunStoppedError]) -> Callable[[str], None]:
    def delete(key: str) -> None:
        if lost:
            # Whoever took the run over may be using it.
            raise lost[0]
        storage.delete(key)

    return delete


def _read_manifests(storage: Storage) -> tuple[dict[RecordKey, list[ManifestRow]], set[str]]:
    """Return the rows of every manifest by its key, and the stages of those that cannot be read."""
    keys = list_manifests(storage)

    def read(key: RecordKey) -> list[ManifestRow] | None:
        try:
            return read_manifest(storage, key)
        except (UnreadableError, FileNotFoundError):
            return None

    found = dict(zip(keys, map_concurrently(read, keys, storage.num_readers), strict=True))
    torn = {key.stage for key, rows in found.items() if rows is None}
    return {key: rows for key, rows in found.items() if rows is not None}, torn


def _replaced(
    rows_of: dict[RecordKey, list[ManifestRow]], latest: dict[tuple[str, str], ManifestRow]
) -> Iterable[RecordKey]:
    """Give the manifests of which no row counts any more; never a shard's last one, whose number is the next one's measure."""
    last: dict[tuple[str, int], int] = defaultdict(int)
    # Rows that are in the journal alone may be lost with it: only a manifest replaces a manifest.
    attempts: dict[tuple[str, str], int] = defaultdict(int)
    for key, rows in rows_of.items():
        last[key.shard] = max(last[key.shard], key.attempt)
        for row in rows:
            attempts[row.stage, row.clip_id] = max(attempts[row.stage, row.clip_id], row.attempt)
    for key, rows in rows_of.items():
        if key.attempt < last[key.shard] and all(attempts[row.stage, row.clip_id] > row.attempt for row in rows):
            yield key


def _stale(records: Sequence[RecordKey], rows_of: dict[RecordKey, Any]) -> Iterable[RecordKey]:
    last: dict[tuple[str, int], int] = defaultdict(int)
    for key in rows_of:
        last[key.shard] = max(last[key.shard], key.attempt)
    return (key for key in records if key.attempt <= last[key.shard])
