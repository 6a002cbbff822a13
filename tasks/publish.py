"""The Prefect task that ends a run: checks that nothing was dropped, writes the report, and says how it went."""

import logging
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.errors import RunError
from magicvideo_core.manifest.outlay import actual
from magicvideo_core.manifest.run_record import read_run_json
from magicvideo_core.manifest.savings import savings
from magicvideo_core.manifest.scan import clip_ids, has_status, scan_run
from magicvideo_core.manifest.session import read_sessions
from magicvideo_core.manifest.tally import COLUMNS, Tally
from magicvideo_core.report import write_report
from magicvideo_core.storage import Storage
from tasks.engines import engine_of
from tasks.progress import all_succeeded, count_tally
from tasks.resolve import ResolvedRun
from tasks.retries import RETRY_TRANSIENT

logger = logging.getLogger(__name__)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def publish(run_uri: str) -> dict[str, Any]:
    """Publish the run of the engine at `run_uri`; returns its summary as plain JSON values."""
    return publish_run(engine_of(run_uri).run)


def publish_run(run: ResolvedRun) -> dict[str, Any]:
    """Check the manifests, write the report and return the summary. Raises RunError where rows are missing."""
    sessions = read_sessions(run.storage)
    tally, retried = _check_complete(run, Tally(sessions))
    # As it was written with the run, before any work.
    expected = read_run_json(run.storage).forecast
    counts = count_tally(run.config.stages, run.num_clips, tally)
    summary = {
        "run_id": run.run_id,
        "run_uri": run.uri,
        "num_clips": run.num_clips,
        "succeeded": all_succeeded(counts),
        "stages": {stage: stage_counts.to_json() for stage, stage_counts in counts.items()},
        "failures": [asdict(failure) for failure in tally.failures()],
        "forecast": expected,
        "actual": actual(tally, run.config.stages[-1], expected),
        "saved": savings(sessions, tally).to_json(),
        "report_uri": _write_report(run.storage),
    }
    if run.selection is not None:
        summary["retried"] = {"num_clips": len(run.selection.clip_ids), "succeeded": retried}
    return summary


def _check_complete(run: ResolvedRun, tally: Tally) -> tuple[Tally, int]:
    """Count the run's rows into `tally`; returns it, and how many clips of a selection have succeeded to the end.

    Every clip has exactly one row per stage; anything else is a bug that must not pass for a finished run.
    """
    stages = run.config.stages
    missing: list[tuple[str, str]] = []
    unexpected: list[tuple[str, str]] = []
    retried = 0
    not_seen = set(run.shard_ids)
    for shard in scan_run(run.storage, stages, COLUMNS):
        planned = set(run.shards[shard.shard_id].ids()) if shard.shard_id < len(run.shards) else set()
        worked_on = planned if run.selection is None else planned & run.selection.clip_ids
        not_seen.discard(shard.shard_id)
        for stage in stages:
            rows = shard.stages.get(stage)
            found = set() if rows is None else set(clip_ids(rows))
            missing += [(stage, clip_id) for clip_id in worked_on - found]
            unexpected += [(stage, clip_id) for clip_id in found - planned]
            if rows is None:
                continue
            tally.add(rows)
            if run.selection is not None and stage == stages[-1]:
                done = clip_ids(rows.filter(has_status(rows, "succeeded")))
                retried += len(run.selection.clip_ids.intersection(done))
    for shard_id in sorted(not_seen):
        missing += [(stage, clip.clip_id) for stage in stages for clip in run.clips_of(shard_id)]
    if missing or unexpected:
        stage, clip_id = (missing or unexpected)[0]
        raise RunError(
            f"The manifests of {run.uri} lack {len(missing)} rows and have {len(unexpected)} too many, "
            f"the first of them for clip {clip_id} in stage {stage}."
        )
    return tally, retried


def _write_report(storage: Storage) -> str | None:
    """Write the report; the videos and manifests are there without it, so a failure of it is no failure of the run."""
    try:
        return write_report(storage)
    except Exception:
        logger.exception("the report of %s could not be written", storage.uri)
        return None
