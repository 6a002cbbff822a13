"""Manifests: the Parquet table of one (stage, shard, attempt), and the truth read back from all of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.errors import UnreadableError
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.layout import (
    MANIFESTS,
    RecordKey,
    manifest_key,
    manifest_name_prefix,
    parse_manifest_key,
)
from magicvideo_core.manifest.parquet import first_line, from_parquet, to_parquet, warn_absent
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.storage import Storage, StoredObject


@dataclass
class Manifests:
    """What the manifests of a run, or of a part of it, say; torn ones say nothing.

    `latest` is the row of the latest attempt per (stage, clip); `last_read` and `last_torn` are the latest attempts
    per (stage, shard) that could be read, and that could not and no later one replaces.
    """

    latest: dict[tuple[str, str], ManifestRow] = field(default_factory=dict)
    last_read: dict[tuple[str, int], int] = field(default_factory=dict)
    last_torn: dict[tuple[str, int], int] = field(default_factory=dict)
    torn: list[RecordKey] = field(default_factory=list)


def write_manifest(
    storage: Storage, stage: str, shard_id: int, attempt: int, rows: Sequence[ManifestRow]
) -> StoredObject | None:
    """Write one attempt's manifest: one row per clip, failed ones included; zero rows are a result too.

    None where another driver took this attempt's number: what it wrote stays.
    """
    data = to_parquet([row.to_dict() for row in rows], MANIFEST_SCHEMA)
    return storage.create(manifest_key(stage, shard_id, attempt), data)


def list_manifests(storage: Storage, stage: str | None = None, shard_id: int | None = None) -> list[RecordKey]:
    """Return the keys of the manifests of a run, of a stage, or of a stage's shard, later attempts later."""
    name_prefix = "" if stage is None or shard_id is None else manifest_name_prefix(shard_id)
    listed = storage.list(MANIFESTS if stage is None else f"{MANIFESTS}/{stage}", name_prefix=name_prefix)
    found = [key for key in map(parse_manifest_key, listed) if key is not None and shard_id in (None, key.shard_id)]
    return sorted(found, key=lambda key: (_stage_order(key.stage), key.shard_id, key.attempt))


def load_manifests(storage: Storage, keys: Iterable[RecordKey]) -> Manifests:
    """Read manifests, given by their keys in any order; one that is gone or torn is absent."""
    found = Manifests()

    def read(key: RecordKey) -> list[ManifestRow] | FileNotFoundError | UnreadableError:
        try:
            return read_manifest(storage, key)
        except (FileNotFoundError, UnreadableError) as error:
            return error

    ordered = sorted(keys, key=lambda key: key.attempt)
    for key, rows in zip(ordered, map_concurrently(read, ordered, storage.num_readers), strict=True):
        if isinstance(rows, FileNotFoundError):
            # Torn, and replaced since it was listed.
            continue
        if isinstance(rows, UnreadableError):
            warn_absent("manifest", str(rows))
            found.torn.append(key)
            found.last_torn[key.shard] = key.attempt
            continue
        found.last_read[key.shard] = key.attempt
        found.last_torn.pop(key.shard, None)
        # Later attempts come later and replace the row, which keeps its place.
        found.latest.update(((row.stage, row.clip_id), row) for row in rows)
    return found


def read_manifest(storage: Storage, key: RecordKey) -> list[ManifestRow]:
    """Return the rows of one manifest in their order. Raises UnreadableError or FileNotFoundError."""
    uri = storage.join(key.key)
    try:
        return [ManifestRow.from_dict(row) for row in from_parquet(storage.read(key.key), uri)]
    except TypeError as error:
        raise UnreadableError(f"{uri}: {first_line(error)}") from None


def read_manifests(storage: Storage, stage: str | None = None, shard_id: int | None = None) -> list[ManifestRow]:
    """Return the row of the latest attempt per clip and stage, ordered by stage, shard, and place in the manifest."""
    latest = load_manifests(storage, list_manifests(storage, stage, shard_id)).latest
    return sorted(latest.values(), key=lambda row: (_stage_order(row.stage), row.shard_id))


def last_attempt(storage: Storage, stage: str, shard_id: int) -> int:
    """Return the number of the latest attempt with a manifest, 0 before the first."""
    return max((key.attempt for key in list_manifests(storage, stage, shard_id)), default=0)


def _stage_order(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)
