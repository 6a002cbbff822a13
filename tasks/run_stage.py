"""The Prefect task that takes one shard through one stage: what is done is kept, the rest goes to the pool."""

from collections.abc import Mapping

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.manifest.layout import journal_prefix
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import last_attempt, read_manifests, write_manifest
from magicvideo_core.prompts import Clip
from magicvideo_core.storage import Storage
from tasks.pools.actor import ClipWork, Reason, unfinished_row
from tasks.progress import StageCounts, count_rows, terminal_rows
from tasks.retries import RETRY_TRANSIENT
from tasks.runtime import Engine, engine_of

# The earlier stages whose artifacts a stage reads; the last one must have succeeded.
_READS = {"t2i": (), "i2v": ("t2i",), "v2v": ("t2i", "i2v"), "vfi": ("v2v",)}


@task(
    name="run_stage",
    task_run_name="{stage}-shard-{shard_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    **RETRY_TRANSIENT,
)
def run_stage(run_uri: str, stage: str, shard_id: int) -> dict[str, int]:
    """Bring every clip of a shard to a terminal row in a stage; returns how many rows have which status."""
    counts = complete_shard(engine_of(run_uri), stage, shard_id)
    return {
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "quarantined": counts.quarantined,
        "skipped": counts.skipped,
    }


def complete_shard(engine: Engine, stage: str, shard_id: int) -> StageCounts:
    """Do what is left of a shard in a stage, then write its manifest; safe to call again at any point.

    Clips with a terminal row in a manifest or in the journal are done. A clip whose upstream did not succeed gets a
    `skipped` row. The journal is cleared once the manifest that repeats it is durable.
    """
    storage = engine.run.storage
    clips = engine.run.shards[shard_id]
    in_manifests = {row.clip_id for row in read_manifests(storage, stage, shard_id)}
    done = terminal_rows(storage, stage, shard_id)
    for row in done.values():
        engine.board.finish(row, was_running=False)
    attempt = last_attempt(storage, stage, shard_id) + 1
    missing = [clip for clip in clips if clip.clip_id not in done]
    if missing:
        works, skipped = _split_by_upstream(engine, stage, shard_id, attempt, missing)
        for row in skipped:
            engine.board.finish(row, was_running=False)
        rows = skipped + (engine.pool(stage).run(works) if works else [])
        done.update((row.clip_id, row) for row in rows)
    # In the order of the plan. Rows of earlier attempts stay where they are: readers take the latest per clip.
    unwritten = [done[clip.clip_id] for clip in clips if clip.clip_id not in in_manifests]
    if unwritten and write_manifest(storage, stage, shard_id, attempt, unwritten) is None:
        # A driver that was thought dead took the attempt: what it finished counts, the rest goes under the next one.
        return complete_shard(engine, stage, shard_id)
    _clear_journal(storage, stage, shard_id)
    return count_rows([stage], len(clips), done.values())[stage]


def _split_by_upstream(
    engine: Engine, stage: str, shard_id: int, attempt: int, clips: list[Clip]
) -> tuple[list[ClipWork], list[ManifestRow]]:
    """Return the work of the clips that can go on, and a skipped row for each that cannot."""
    reads = [name for name in _READS[stage] if name in engine.run.config.stages]
    upstream = {name: _rows_by_clip(engine.run.storage, name, shard_id) for name in reads}
    works, skipped = [], []
    for clip in clips:
        before = {name: rows[clip.clip_id] for name, rows in upstream.items()}
        uris = {
            name: row.artifact_uri for name, row in before.items() if row.status == "succeeded" and row.artifact_uri
        }
        work = ClipWork(clip, shard_id, attempt, uris)
        if len(uris) == len(reads):
            works.append(work)
            continue
        broken = next(row for name, row in before.items() if name not in uris)
        reason = Reason("UpstreamFailed", f"stage {broken.stage} {broken.status}: {broken.error_message}")
        skipped.append(unfinished_row(engine.job(stage), work, "skipped", reason))
    return works, skipped


def _rows_by_clip(storage: Storage, stage: str, shard_id: int) -> Mapping[str, ManifestRow]:
    return {row.clip_id: row for row in read_manifests(storage, stage, shard_id)}


def _clear_journal(storage: Storage, stage: str, shard_id: int) -> None:
    for key in storage.list(journal_prefix(stage, shard_id)):
        storage.delete(key)
