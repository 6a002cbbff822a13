"""The Prefect task that takes one shard through one stage: what is done is kept, the rest goes to the pool."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.clips import Clip
from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.logs import event, log_fields
from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.durable import ShardRecords, is_stale_skip, read_shard, reads
from magicvideo_core.manifest.layout import journal_prefix
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import write_manifest
from magicvideo_core.storage import Storage, StoredObject
from tasks.engines import engine_of
from tasks.pools.clip_work import ClipWork, Reason, UpstreamLost, unfinished_row
from tasks.progress import StageCounts, count_rows
from tasks.retries import RETRY_TRANSIENT
from tasks.runtime import Engine

logger = logging.getLogger(__name__)

# How often a clip's upstream is made again for one stage: storage that loses it each time is no reason to go on.
_MAX_REMAKES = 2

Upstream = Mapping[str, Mapping[str, ManifestRow]]


@task(
    name="run_stage",
    task_run_name="{stage}-shard-{shard_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **RETRY_TRANSIENT,
)
def run_stage(run_uri: str, stage: str, shard_id: int) -> dict[str, int]:
    """Bring every clip of a shard to a terminal row in a stage; returns how many rows have which status.

    The stages before it may still be at work on the shard, in a task each: a clip is taken up when they have its rows.
    """
    engine = engine_of(run_uri)
    with log_fields(run=engine.run.run_id, stage=stage, shard=shard_id):
        counts = complete_shard(engine, stage, shard_id, beside_upstream=True)
        event("shard finished", succeeded=counts.succeeded, unsuccessful=counts.unsuccessful)
    return {
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "quarantined": counts.quarantined,
        "skipped": counts.skipped,
    }


def complete_shard(
    engine: Engine, stage: str, shard_id: int, lost: Collection[str] = (), *, beside_upstream: bool = False
) -> StageCounts:
    """Do what is left of a shard in a stage, then write its manifest; safe to call again at any point.

    A clip is done where it has a row that counts (`_void_attempts` says which do not). A clip whose upstream did not
    succeed gets a `skipped` row. `lost` are clips whose artifact of this stage a later one has found damaged. The
    journal is cleared once the manifest that repeats it is durable. `beside_upstream` says that the stages before are
    at work on the shard meanwhile: their rows come through the engine's handover, not from storage.
    """
    storage, clips = engine.run.storage, engine.run.clips_of(shard_id)
    planned = engine.run.shards[shard_id].ids()
    void: dict[str, int] | None = None
    made: dict[str, ManifestRow] = {}
    while True:
        records = read_shard(storage, stage, shard_id)
        if void is None:
            void = _void_attempts(engine, stage, shard_id, records, clips, lost, beside_upstream=beside_upstream)
            for clip_id in void:
                engine.board.reopen(records.rows[clip_id])
        done = {clip_id: row for clip_id, row in records.rows.items() if row.attempt > void.get(clip_id, 0)}
        found = [done[clip.clip_id] for clip in clips if clip.clip_id in done and clip.clip_id not in made]
        for row in found:
            engine.board.finish(row, was_running=False)
        engine.handover.publish(found)
        missing = [clip for clip in clips if clip.clip_id not in done]
        # One attempt's number stands for one row per clip: what the journal holds of it becomes a manifest before any
        # of its clips is tried again.
        fold = any(clip.clip_id in records.rows.keys() - records.in_manifests for clip in missing)
        if not fold:
            # What was made for an attempt that another driver took goes into this one.
            made = {
                clip.clip_id: replace(made[clip.clip_id], attempt=records.next_attempt)
                for clip in missing
                if clip.clip_id in made
            }
            untried = [clip for clip in missing if clip.clip_id not in made]
            making = _Making(engine, stage, shard_id, records.next_attempt, not_reused=lost)
            tried = making.make(untried, beside_upstream=beside_upstream)
            made.update((row.clip_id, row) for row in tried)
        rows = {**records.rows, **made}
        # In the order of the plan. Rows of earlier attempts stay where they are: readers take the latest per clip.
        unwritten = [
            rows[clip_id]
            for clip_id in planned
            if clip_id in made or (clip_id in rows and clip_id not in records.in_manifests)
        ]
        if unwritten and write_manifest(storage, stage, shard_id, records.next_attempt, unwritten) is None:
            # Another driver has taken the attempt: what its manifest lacks goes into the next one.
            continue
        _clear_journal(storage, stage, shard_id)
        if not fold:
            break
    if all(clip_id in rows for clip_id in planned):
        # Readers that know nothing of this project stumble over them.
        for key in records.torn:
            storage.delete(key)
    engine.board.settle(stage, shard_id)
    engine.handover.close(stage, shard_id)
    return count_rows([stage], len(clips), [rows[clip.clip_id] for clip in clips])[stage]


def _void_attempts(
    engine: Engine,
    stage: str,
    shard_id: int,
    records: ShardRecords,
    clips: Sequence[Clip],
    lost: Collection[str],
    *,
    beside_upstream: bool,
) -> dict[str, int]:
    """Return the clips whose row does not count, and the row's attempt: a later one does.

    Rows that a retry has selected, rows skipped because of what has succeeded since, and rows whose artifact is not
    there any more, or is one of `lost`.
    """
    rows = [records.rows[clip.clip_id] for clip in clips if clip.clip_id in records.rows]
    upstream: Upstream = {}
    if any(row.status == "skipped" for row in rows):
        if beside_upstream:
            # What the stages before make of the clip this time decides.
            engine.handover.wait_until_closed(reads(stage, engine.run.config.stages), shard_id)
        upstream = _upstream(engine, stage, shard_id)
    selection = engine.run.selection
    without_artifact = engine.inventory.without_artifact(stage, rows)
    if without_artifact:
        logger.warning("%s is made again for %d clips whose artifact is gone", stage, len(without_artifact))
    return {
        row.clip_id: row.attempt
        for row in rows
        if (selection is not None and selection.reopens(row))
        or is_stale_skip(row, [before.get(row.clip_id) for before in upstream.values()])
        or row.clip_id in without_artifact
        or row.clip_id in lost
    }


class _Making:
    """Brings clips of one shard and attempt to a terminal row: skipped where their upstream did not succeed, taken
    over from another run, or through the pool.
    """

    def __init__(self, engine: Engine, stage: str, shard_id: int, attempt: int, not_reused: Collection[str]) -> None:
        self._engine, self._stage, self._shard_id, self._attempt = engine, stage, shard_id, attempt
        self._not_reused = not_reused
        self._reads = reads(stage, engine.run.config.stages)
        # Of the clips that did not go to the pool.
        self._found: list[ManifestRow] = []
        self._works: dict[str, ClipWork] = {}

    def make(self, clips: Sequence[Clip], *, beside_upstream: bool) -> list[ManifestRow]:
        """Return a row per clip. Where an actor finds that what it reads is gone or damaged, the stage that made it
        makes it again first.
        """
        engine = self._engine
        rows: list[ManifestRow] = []
        remakes: Counter[str] = Counter()
        while clips:
            # A damaged artifact shows when the stages before have long finished the shard.
            beside = beside_upstream and not remakes
            results = engine.pool(self._stage).follow(
                self._take_up(clips, beside_upstream=beside), engine.handover.publish
            )
            lost = [result for result in results if isinstance(result, UpstreamLost)]
            rows += [result for result in results if isinstance(result, ManifestRow)]
            rows += [self._failed_row(each) for each in lost if remakes[each.clip_id] == _MAX_REMAKES]
            lost = [each for each in lost if remakes[each.clip_id] < _MAX_REMAKES]
            remakes.update(each.clip_id for each in lost)
            for name in self._reads:
                if clip_ids := frozenset(each.clip_id for each in lost if each.stage == name):
                    reason = lost[0].reason.error_message
                    logger.warning("%s is made again for %d clips: %s", name, len(clip_ids), reason)
                    if beside:
                        engine.handover.wait_until_closed([name], self._shard_id)
                    complete_shard(engine, name, self._shard_id, lost=clip_ids)
            clips = [clip for clip in clips if clip.clip_id in {each.clip_id for each in lost}]
        return rows + self._found

    def _take_up(self, clips: Sequence[Clip], *, beside_upstream: bool) -> Iterator[list[ClipWork]]:
        """Give the work of the clips that go to the pool, in the order in which what they read is there."""
        engine = self._engine
        by_id = {clip.clip_id: clip for clip in clips}
        steps: Iterator[tuple[Sequence[str], Upstream]]
        if beside_upstream:
            steps = engine.handover.follow(self._reads, self._shard_id, list(by_id))
        else:
            steps = iter([(list(by_id), _upstream(engine, self._stage, self._shard_id))])
        for clip_ids, upstream in steps:
            ready = [by_id[clip_id] for clip_id in clip_ids]
            works, found = _split_by_upstream(engine, self._stage, self._shard_id, self._attempt, ready, upstream)
            if engine.reuse is not None:
                candidates = [work for work in works if work.clip.clip_id not in self._not_reused]
                found += engine.reuse.take(engine.job(self._stage), candidates, upstream)
            self._note(found)
            with_row = {row.clip_id for row in found}
            works = [work for work in works if work.clip.clip_id not in with_row]
            self._works.update((work.clip.clip_id, work) for work in works)
            yield works

    def _note(self, rows: list[ManifestRow]) -> None:
        for row in rows:
            self._engine.board.finish(row, was_running=False)
        self._engine.handover.publish(rows)
        self._found += rows

    def _failed_row(self, lost: UpstreamLost) -> ManifestRow:
        row = unfinished_row(self._engine.job(self._stage), self._works[lost.clip_id], "failed", lost.reason)
        self._engine.board.finish(row, was_running=False)
        self._engine.handover.publish([row])
        return row


def _split_by_upstream(
    engine: Engine, stage: str, shard_id: int, attempt: int, clips: Sequence[Clip], upstream: Upstream
) -> tuple[list[ClipWork], list[ManifestRow]]:
    """Return the work of the clips that can go on, and a skipped row for each that cannot."""
    works, skipped = [], []
    for clip in clips:
        before = {name: rows[clip.clip_id] for name, rows in upstream.items()}
        objects = {
            name: _artifact(engine.run.storage, row) for name, row in before.items() if row.status == "succeeded"
        }
        work = ClipWork(clip, shard_id, attempt, objects)
        if len(objects) == len(upstream):
            works.append(work)
            continue
        broken = next(row for name, row in before.items() if name not in objects)
        reason = Reason("UpstreamFailed", f"stage {broken.stage} {broken.status}: {broken.error_message}")
        skipped.append(unfinished_row(engine.job(stage), work, "skipped", reason))
    return works, skipped


def _upstream(engine: Engine, stage: str, shard_id: int) -> Upstream:
    """Return the rows by clip id of each stage that this one reads."""
    names = reads(stage, engine.run.config.stages)
    return {name: read_shard(engine.run.storage, name, shard_id).rows for name in names}


def _artifact(storage: Storage, row: ManifestRow) -> StoredObject:
    """Return what a succeeded row says of its artifact, where the run lies now: it may have been moved since."""
    key = artifact_key_of(row)
    assert key is not None and row.sha256 is not None and row.size_bytes is not None
    return StoredObject(storage.join(key), row.sha256, row.size_bytes)


def _clear_journal(storage: Storage, stage: str, shard_id: int) -> None:
    keys = storage.list(journal_prefix(stage, shard_id))
    # Handing it to a thread takes longer than removing a small file.
    num_threads = storage.num_readers if storage.local_folder is None else 1
    for _ in map_concurrently(storage.delete, keys, num_threads):
        pass
