"""The flow that does again what failed in a run: the stages from where each selected clip broke, then publish."""

from typing import Any

from prefect import flow

from flows.parameters import (
    AnyAttempts,
    Clips,
    Deadline,
    KeepWarm,
    MaxGpuHours,
    Quarantined,
    RunUri,
    Shard,
    Stage,
    Unfinished,
)
from flows.waves import TASK_RUNNER, run_in_waves
from tasks.artifacts import shown_in_prefect
from tasks.engines import open_engine
from tasks.plan import plan
from tasks.publish import publish
from tasks.selection import RetryRequest


@flow(
    name="retry",
    flow_run_name="retry-{run_uri}",
    task_runner=TASK_RUNNER,
    persist_result=False,
)
def retry(
    run_uri: RunUri,
    stage: Stage = None,
    shard: Shard = None,
    clips: Clips = [],  # noqa: B006 (Prefect copies it, and its form shows a list)
    quarantined: Quarantined = False,
    max_gpu_hours: MaxGpuHours = None,
    deadline: Deadline = None,
    unfinished: Unfinished = False,
    max_attempts: AnyAttempts = None,
    keep_warm: KeepWarm = None,
) -> dict[str, Any]:
    """Run again the failed clips of a run, with `quarantined` those too; returns the summary of the run.

    `stage`, `shard` and `clips` (clip ids, or ids of the prompt file) narrow the selection: to clips that broke in that
    stage, that lie in that shard, that are named, that were tried less than `max_attempts` times. With `unfinished` clips
    that were not tried yet are selected too. The run's own plan is the source; no prompts are read.
    """
    request = RetryRequest(
        run_uri, stage, shard, tuple(clips), quarantined, max_gpu_hours, deadline, unfinished, max_attempts, keep_warm
    )
    with open_engine(request) as engine:
        uri = engine.run.uri
        with shown_in_prefect(engine):
            run_in_waves(uri, plan(uri), engine.run.config.stages)
        return publish(uri)
