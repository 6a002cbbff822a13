"""What a retry does again: from the options of the command to a run, its failed rows reopened."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.clips import ClipTable, Shards
from magicvideo_core.errors import RunError
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.scan import clip_ids, has_status, scan_run, without_stale_skips
from magicvideo_core.storage import Storage
from tasks.continuation import check_weights
from tasks.resolve import ResolvedRun, Selection, read_whole_plan
from tasks.stop_conditions import StopConditions, parse_stop_conditions


@dataclass(frozen=True)
class RetryRequest:
    """What `retry` asks for; plain values, so that it can travel as flow parameters.

    `clips` are clip ids or ids of the prompt file. Quarantined rows are left alone unless `quarantined` is set,
    clips without a row unless `unfinished` is; rows of the attempt `max_attempts` and later stay.
    """

    uri: str
    stage: str | None = None
    shard: int | None = None
    clips: tuple[str, ...] = ()
    quarantined: bool = False
    max_gpu_hours: float | None = None
    deadline: str | None = None
    unfinished: bool = False
    max_attempts: int | None = None
    keep_warm: str | None = None

    def stop_conditions(self) -> StopConditions:
        """Return when to start no more work, durations counted from now. Raises InputError."""
        return parse_stop_conditions(self.max_gpu_hours, self.deadline, self.keep_warm)

    def run_uri(self) -> str:
        """Return where the run lies."""
        return Storage(self.uri).uri


def resolve_retry(request: RetryRequest) -> ResolvedRun:
    """Return the run with what the request selects of it. Raises RunError in one sentence; writes nothing.

    Selected are failed rows (quarantined ones where asked), and clips that an earlier retry left on their way: skipped
    in a stage though all that it reads has succeeded since. Clips that never came so far are
    left to `generate`, unless `unfinished` asks for them.
    """
    storage = Storage(request.uri)
    record = read_run_json(storage)
    if request.stage is not None and request.stage not in record.config.stages:
        raise RunError(
            f"Run {record.run_id} at {storage.uri} has no stage {request.stage!r}: "
            f"choose one of {', '.join(record.config.stages)}."
        )
    check_weights(storage, record, record.config)
    shards = read_whole_plan(storage, record)
    named = _named_clips(request, record, storage, shards)
    statuses = ["failed", "quarantined"] if request.quarantined else ["failed"]
    reopened: dict[tuple[str, str], int] = {}
    unfinished: set[str] = set()
    untouched = set(range(len(shards))) if request.shard is None else {request.shard}
    for shard in scan_run(storage, record.config.stages, keep_stale_skips=True):
        if shard.shard_id >= len(shards) or request.shard not in (None, shard.shard_id):
            continue
        untouched.discard(shard.shard_id)
        in_scope = set(shards[shard.shard_id].ids())
        in_scope &= in_scope if named is None else named
        terminal = without_stale_skips(shard.stages, record.config.stages)
        for stage, rows in shard.stages.items():
            failed = rows.filter(has_status(rows, *statuses))
            if request.stage in (None, stage):
                attempts = zip(
                    clip_ids(failed), (int(number or 0) for number in failed["attempt"].to_pylist()), strict=True
                )
                reopened |= {
                    (stage, clip_id): number
                    for clip_id, number in attempts
                    if clip_id in in_scope and (request.max_attempts is None or number < request.max_attempts)
                }
            kept = set(clip_ids(terminal[stage])) if stage in terminal else set()
            unfinished |= (in_scope if request.unfinished else set(clip_ids(rows)) & in_scope) - kept
        if request.unfinished and shard.stages.keys() != set(record.config.stages):
            unfinished |= in_scope
    if request.unfinished:
        never = {clip_id for shard_id in untouched for clip_id in shards[shard_id].ids()}
        unfinished |= never if named is None else never & named
    selected = frozenset(clip_id for _, clip_id in reopened) | unfinished
    return ResolvedRun(storage, record, shards, is_new=False, selection=Selection(selected, reopened))


def _named_clips(request: RetryRequest, record: RunRecord, storage: Storage, shards: Shards) -> set[str] | None:
    """Return the ids of the clips that the request names, None where it names none."""
    if request.shard is not None and not 0 <= request.shard < len(shards):
        raise RunError(
            f"Run {record.run_id} at {storage.uri} has no shard {request.shard}: choose one of 0 to {len(shards) - 1}."
        )
    if not request.clips:
        return None
    clips = shards.clips if request.shard is None else shards[request.shard]
    names = pa.array(request.clips, pa.string())
    columns = clips.columns
    matches = pc.or_(*(pc.is_in(columns[name], value_set=names) for name in ("clip_id", "source_id")))
    named = ClipTable(columns.filter(matches))
    for name in request.clips:
        if not any(name in (clip.clip_id, clip.source_id) for clip in named):
            where = "" if request.shard is None else f" in shard {request.shard}"
            raise RunError(f"Run {record.run_id} at {storage.uri} has no clip {name!r}{where}.")
    return set(named.ids())
