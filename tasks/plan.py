"""The Prefect task that makes a run durable before any work: its record first, then its plan."""

from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.manifest.plan import write_plan
from magicvideo_core.manifest.run_record import write_run_json
from tasks.engines import engine_of
from tasks.resolve import ResolvedRun
from tasks.retries import RETRY_TRANSIENT


@task(name="plan", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def plan(run_uri: str) -> list[int]:
    """Make the run of the engine at `run_uri` durable; returns the ids of the shards to work on."""
    engine = engine_of(run_uri)
    return write_run(engine.run, engine.forecast())


def write_run(run: ResolvedRun, forecast: dict[str, Any] | None = None) -> list[int]:
    """Write what is missing of the run's record and plan, in this order; returns the ids of the shards to work on.

    The record names the configuration and the clips, so a plan that was cut short is completed from the same ones.
    """
    if run.is_new:
        write_run_json(run.storage, replace(run.record, forecast=forecast))
    if run.unplanned:
        write_plan(run.storage, run.shards, run.unplanned)
    return run.shard_ids
