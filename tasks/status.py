"""What is known of a run before and while it computes: its forecast from the plan, its status from storage."""

from dataclasses import asdict
from typing import Any

from magicvideo_core.config import RunConfig
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.tally import Tally, tally_run
from magicvideo_core.storage import Storage
from tasks.progress import all_succeeded, count_tally
from tasks.resolve import ResolvedRun
from tasks.reuse import ReuseSource

_NO_FORECAST = "no forecast of time, storage or cost: it needs the measured times of a run"


def run_status(storage: Storage) -> dict[str, Any]:
    """Return the status of a run as plain JSON values. Raises RunError where there is no run."""
    record = read_run_json(storage)
    tally = tally_run(storage, record.config.stages)
    stages = _stage_counts(record, tally)
    left = sum(counts["pending"] for counts in stages.values())
    return {
        "run_id": record.run_id,
        "run_uri": storage.uri,
        "created_at": record.created_at,
        "num_clips": record.num_clips,
        "num_shards": record.num_shards,
        "finished": left == 0,
        "left": left,
        "stages": stages,
        "failures": [asdict(failure) for failure in tally.failures()],
    }


def describe_plan(run: ResolvedRun) -> dict[str, Any]:
    """Return what `generate` would do, as plain JSON values: counts, pools, what is done, what could be reused."""
    config = run.config
    return {
        "num_clips": run.num_clips,
        "num_shards": len(run.shards),
        "shard_size": config.shard_size,
        "continues": None if run.is_new else run.uri,
        "stages": {stage: _describe_stage(config, stage, run.num_clips) for stage in config.stages},
        "done": None if run.is_new else _stage_counts(run.record, tally_run(run.storage, config.stages)),
        "reusable": None if run.reuse is None else _count_reusable(run, run.reuse),
        "forecast": None,
        "forecast_note": _NO_FORECAST,
    }


def _count_reusable(run: ResolvedRun, uri: str) -> dict[str, int]:
    source = ReuseSource(uri, run.record.recipe_hashes)
    return {stage: source.count(stage, run.shards.clips) for stage in run.config.stages}


def _stage_counts(record: RunRecord, tally: Tally) -> dict[str, Any]:
    counts = count_tally(record.config.stages, record.num_clips, tally)
    return {
        stage: {**counts[stage].to_json(), "all_succeeded": all_succeeded({stage: counts[stage]})} for stage in counts
    }


def _describe_stage(config: RunConfig, stage: str, num_clips: int) -> dict[str, Any]:
    settings = config.stage(stage)
    pool = settings.pool
    return {
        "backend": settings.backend,
        "weights": settings.weights,
        "num_clips": num_clips,
        "min_actors": pool.min_actors,
        "max_actors": pool.max_actors,
        "num_gpus": pool.num_gpus,
        "num_cpus": pool.num_cpus,
        "resources": pool.resources,
        "batch_size": pool.batch_size,
    }
