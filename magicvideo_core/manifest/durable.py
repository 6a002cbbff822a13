"""What of a run is durable: the one reading of its manifests and journal that everything which decides goes by."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from magicvideo_core.ids import READS, STAGES
from magicvideo_core.manifest.journal import list_records, read_records
from magicvideo_core.manifest.layout import RecordKey
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import Manifests, list_manifests, load_manifests
from magicvideo_core.storage import Storage


@dataclass(frozen=True)
class ShardRecords:
    """What is durable of one shard in one stage.

    `rows` are the latest per clip id; those in `in_manifests` come from a manifest, the others from the journal. `torn`
    are the keys of manifests that cannot be read. No manifest, readable or not, has `next_attempt` or a higher number.
    """

    rows: Mapping[str, ManifestRow]
    in_manifests: frozenset[str]
    next_attempt: int
    torn: tuple[str, ...]


def read_shard(storage: Storage, stage: str, shard_id: int) -> ShardRecords:
    """Return what is durable of one shard in one stage; see `read_rows` for what counts."""
    # The journal first: a manifest takes its place before it is cleared, so nothing is missed between the two.
    records = list_records(storage, stage, shard_id)
    keys = list_manifests(storage, stage, shard_id)
    manifests = load_manifests(storage, keys)
    from_manifests = {row.clip_id: row for row in _without_doubtful(manifests, manifests.latest.values())}
    from_journal = {
        row.clip_id: row for row in _without_doubtful(manifests, _journal_rows(storage, manifests, records))
    }
    return ShardRecords(
        rows=from_manifests | from_journal,
        in_manifests=frozenset(from_manifests) - frozenset(from_journal),
        next_attempt=max((key.attempt for key in keys), default=0) + 1,
        torn=tuple(key.key for key in manifests.torn),
    )


def read_rows(storage: Storage, stages: Sequence[str]) -> list[ManifestRow]:
    """Return the terminal row of every clip in every stage of a run, ordered by stage and shard.

    A journal record counts only where its attempt is above the latest manifest of its shard: what is below was
    repeated by the manifest, or comes from an actor that nobody waited for. An unsuccessful row does not count where
    a later manifest is torn, which may have replaced it. A skipped row does not count once its upstream may succeed.
    """
    found = without_stale_skips(read_latest(storage), stages).values()
    return sorted(found, key=lambda row: (STAGES.index(row.stage), row.shard_id))


def read_latest(storage: Storage) -> dict[tuple[str, str], ManifestRow]:
    """Return the latest row per (stage, clip id) of a whole run, also those skipped for no reason any more."""
    records = list_records(storage)
    manifests = load_manifests(storage, list_manifests(storage))
    rows = _without_doubtful(manifests, [*manifests.latest.values(), *_journal_rows(storage, manifests, records)])
    return {(row.stage, row.clip_id): row for row in rows}


def without_stale_skips(
    rows: Mapping[tuple[str, str], ManifestRow], stages: Sequence[str]
) -> dict[tuple[str, str], ManifestRow]:
    """Return the rows by (stage, clip id) without those of other stages and those skipped for no reason any more."""
    kept: dict[tuple[str, str], ManifestRow] = {}
    for stage in stages:
        for (row_stage, clip_id), row in rows.items():
            if row_stage == stage and not is_stale_skip(
                row, [kept.get((name, clip_id)) for name in reads(stage, stages)]
            ):
                kept[stage, clip_id] = row
    return kept


def reads(stage: str, stages: Collection[str]) -> list[str]:
    """Return the stages of a run whose artifacts a stage reads."""
    return [name for name in READS[stage] if name in stages]


def is_stale_skip(row: ManifestRow, upstream: Iterable[ManifestRow | None]) -> bool:
    """Tell whether a row says `skipped` though nothing that the stage reads stands in the way; None is yet to come."""
    return row.status == "skipped" and all(before is None or before.status == "succeeded" for before in upstream)


def _journal_rows(storage: Storage, manifests: Manifests, keys: Sequence[RecordKey]) -> list[ManifestRow]:
    counting = [key for key in keys if key.attempt > manifests.last_read.get(key.shard, 0)]
    return read_records(storage, counting)


def _without_doubtful(manifests: Manifests, rows: Iterable[ManifestRow]) -> list[ManifestRow]:
    return [
        row
        for row in rows
        if row.status == "succeeded" or row.attempt >= manifests.last_torn.get((row.stage, row.shard_id), 0)
    ]
