"""What a retry does again: from the options of the command to a run, its failed rows reopened."""

from collections.abc import Sequence
from dataclasses import dataclass

from magicvideo_core.errors import RunError
from magicvideo_core.manifest.durable import read_latest, without_stale_skips
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.prompts import Clip
from magicvideo_core.storage import Storage
from tasks.resolve import ResolvedRun, Selection, check_weights, read_whole_plan
from tasks.stop_conditions import StopConditions, parse_stop_conditions


@dataclass(frozen=True)
class RetryRequest:
    """What `retry` asks for; plain values, so that it can travel as flow parameters.

    `clips` are clip ids or ids of the prompt file. Quarantined rows are left alone unless `quarantined` is set.
    """

    uri: str
    stage: str | None = None
    shard: int | None = None
    clips: tuple[str, ...] = ()
    quarantined: bool = False
    max_gpu_hours: float | None = None
    deadline: str | None = None

    def stop_conditions(self) -> StopConditions:
        """Return when to start no more work, durations counted from now. Raises InputError."""
        return parse_stop_conditions(self.max_gpu_hours, self.deadline)

    def run_uri(self) -> str:
        """Return where the run lies."""
        return Storage(self.uri).uri


def resolve_retry(request: RetryRequest) -> ResolvedRun:
    """Return the run with what the request selects of it. Raises RunError in one sentence; writes nothing.

    Selected are failed rows (quarantined ones where asked), and clips that an earlier retry left on their way: skipped
    in a stage though all that it reads has succeeded since. Clips that never came so far are left to `generate`.
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
    in_scope = _clips_in_scope(request, record, storage, shards)
    latest = read_latest(storage)
    terminal = without_stale_skips(latest, record.config.stages)
    statuses = ("failed", "quarantined") if request.quarantined else ("failed",)
    reopened = {
        key: row.attempt
        for key, row in terminal.items()
        if row.status in statuses and request.stage in (None, row.stage) and row.clip_id in in_scope
    }
    unfinished = {clip_id for stage, clip_id in latest.keys() - terminal.keys() if clip_id in in_scope}
    clip_ids = frozenset(clip_id for _, clip_id in reopened) | unfinished
    return ResolvedRun(storage, record, shards, is_new=False, selection=Selection(clip_ids, reopened))


def _clips_in_scope(
    request: RetryRequest, record: RunRecord, storage: Storage, shards: Sequence[Sequence[Clip]]
) -> set[str]:
    """Return the clip ids of the shard and of the clips that the request names, all where it names none."""
    if request.shard is not None and not 0 <= request.shard < len(shards):
        raise RunError(
            f"Run {record.run_id} at {storage.uri} has no shard {request.shard}: choose one of 0 to {len(shards) - 1}."
        )
    clips = [clip for shard_id, shard in enumerate(shards) if request.shard in (None, shard_id) for clip in shard]
    if not request.clips:
        return {clip.clip_id for clip in clips}
    found: set[str] = set()
    for name in request.clips:
        named = {clip.clip_id for clip in clips if name in (clip.clip_id, clip.source_id)}
        if not named:
            where = "" if request.shard is None else f" in shard {request.shard}"
            raise RunError(f"Run {record.run_id} at {storage.uri} has no clip {name!r}{where}.")
        found |= named
    return found
