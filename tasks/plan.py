"""The Prefect task that makes a run durable before any work: its record first, then its plan."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from magicvideo_core.manifest.plan import write_plan
from magicvideo_core.manifest.run_record import write_run_json
from tasks.resolve import ResolvedRun
from tasks.retries import RETRY_TRANSIENT
from tasks.runtime import engine_of


@task(name="plan", cache_policy=NO_CACHE, persist_result=False, **RETRY_TRANSIENT)
def plan(run_uri: str) -> list[int]:
    """Make the run of the engine at `run_uri` durable; returns the ids of the shards to work on."""
    return write_run(engine_of(run_uri).run)


def write_run(run: ResolvedRun) -> list[int]:
    """Write what is missing of the run's record and plan, in this order; returns the ids of the shards to work on.

    The record names the configuration and the clips, so a plan that was cut short is completed from the same ones.
    """
    if run.is_new:
        write_run_json(run.storage, run.record)
    if run.unplanned:
        write_plan(run.storage, run.shards, run.unplanned)
    return run.shard_ids
