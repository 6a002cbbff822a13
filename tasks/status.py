"""What is known of a run before and while it computes: its forecast from the plan, its status from storage."""

from dataclasses import asdict
from typing import Any

from magicvideo_core.config import RunConfig
from magicvideo_core.manifest.outlay import actual
from magicvideo_core.manifest.run_record import RunRecord, read_run_json
from magicvideo_core.manifest.session import read_sessions
from magicvideo_core.manifest.tally import Tally, tally_run
from magicvideo_core.storage import Storage
from tasks.costs import Costs, costs_of
from tasks.forecast import Machines, forecast, resources_here
from tasks.progress import all_succeeded, count_tally
from tasks.resolve import ResolvedRun
from tasks.reuse import ReuseSource

_NO_FORECAST = (
    "no forecast of time, storage or cost: it needs what a clip takes in each stage; give --timings RUN_URI, "
    "--timings t2i=1.3,..., or --calibrate N"
)


def run_status(storage: Storage) -> dict[str, Any]:
    """Return the status of a run as plain JSON values. Raises RunError where there is no run."""
    record = read_run_json(storage)
    tally = tally_run(storage, record.config.stages, read_sessions(storage))
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
        "forecast": record.forecast,
        "actual": actual(tally, record.config.stages[-1], record.forecast),
        "failures": [asdict(failure) for failure in tally.failures()],
    }


def describe_plan(run: ResolvedRun, machines: Machines | None = None, costs: Costs | None = None) -> dict[str, Any]:
    """Return what `generate` would do, as plain JSON values: counts, pools, what is done, what it would take.

    The forecast is for `machines`, or this one, and goes by `costs`, else by the request's, else by what the run itself has
    measured so far.
    """
    config = run.config
    tally = None if run.is_new else tally_run(run.storage, config.stages)
    costs = costs or run.costs
    if costs is None and tally is not None and len(measured := costs_of(tally, config.stages)) == len(config.stages):
        costs = Costs("as in this run so far", measured)
    done = None if tally is None else _stage_counts(run.record, tally)
    left = {stage: run.num_clips if done is None else done[stage]["pending"] for stage in config.stages}
    expected = None if costs is None else forecast(config, left, costs, machines or Machines(resources_here()))
    return {
        "num_clips": run.num_clips,
        "num_shards": len(run.shards),
        "shard_size": config.shard_size,
        "continues": None if run.is_new else run.uri,
        "stages": {stage: _describe_stage(config, stage, run.num_clips) for stage in config.stages},
        "done": done,
        "reusable": None if run.reuse is None else _count_reusable(run, run.reuse),
        "forecast": expected,
        "forecast_note": _NO_FORECAST if costs is None else None,
        "timings": None if costs is None else costs.as_option(),
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
