"""The Prefect task that ends a run: checks that nothing was dropped, writes the report, and says how it went."""

import logging
from collections import Counter
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.errors import RunError
from magicvideo_core.manifest.durable import read_rows
from magicvideo_core.manifest.savings import count_failures, savings
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import read_sessions
from magicvideo_core.report import write_report
from magicvideo_core.storage import Storage
from tasks.progress import all_succeeded, count_rows
from tasks.resolve import ResolvedRun
from tasks.retries import RETRY_TRANSIENT
from tasks.runtime import engine_of

logger = logging.getLogger(__name__)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def publish(run_uri: str) -> dict[str, Any]:
    """Publish the run of the engine at `run_uri`; returns its summary as plain JSON values."""
    return publish_run(engine_of(run_uri).run)


def publish_run(run: ResolvedRun) -> dict[str, Any]:
    """Check the manifests, write the report and return the summary. Raises RunError where rows are missing."""
    rows = read_rows(run.storage, run.config.stages)
    _check_complete(run, rows)
    counts = count_rows(run.config.stages, run.num_clips, rows)
    summary = {
        "run_id": run.run_id,
        "run_uri": run.uri,
        "num_clips": run.num_clips,
        "succeeded": all_succeeded(counts),
        "stages": {stage: stage_counts.to_json() for stage, stage_counts in counts.items()},
        "failures": [asdict(failure) for failure in count_failures(rows)],
        "saved": savings(read_sessions(run.storage), rows).to_json(),
        "report_uri": _write_report(run.storage),
    }
    if run.selection is not None:
        last = [row for row in rows if row.stage == run.config.stages[-1] and row.clip_id in run.selection.clip_ids]
        succeeded = sum(row.status == "succeeded" for row in last)
        summary["retried"] = {"num_clips": len(run.selection.clip_ids), "succeeded": succeeded}
    return summary


def _check_complete(run: ResolvedRun, rows: list[ManifestRow]) -> None:
    """Every clip has exactly one row per stage; anything else is a bug that must not pass for a finished run."""
    stages = run.config.stages
    planned = Counter((stage, clip.clip_id) for stage in stages for shard in run.shards for clip in shard)
    worked_on = Counter((stage, clip.clip_id) for stage in stages for i in run.shard_ids for clip in run.clips_of(i))
    found = Counter((row.stage, row.clip_id) for row in rows)
    missing, unexpected = worked_on - found, found - planned
    if missing or unexpected:
        stage, clip_id = next(iter(missing or unexpected))
        raise RunError(
            f"The manifests of {run.uri} lack {missing.total()} rows and have {unexpected.total()} too many, "
            f"the first of them for clip {clip_id} in stage {stage}."
        )


def _write_report(storage: Storage) -> str | None:
    """Write the report; the videos and manifests are there without it, so a failure of it is no failure of the run."""
    try:
        return write_report(storage)
    except Exception:
        logger.exception("the report of %s could not be written", storage.uri)
        return None
