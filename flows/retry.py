"""The flow that does again what failed in a run: the stages from where each selected clip broke, then publish."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.waves import TASK_RUNNER, run_in_waves
from tasks.plan import plan
from tasks.publish import publish
from tasks.runtime import open_engine
from tasks.selection import RetryRequest


@flow(
    name="retry",
    flow_run_name="retry-{run_uri}",
    task_runner=TASK_RUNNER,
    persist_result=False,
)
def retry(
    run_uri: str,
    stage: str | None = None,
    shard: int | None = None,
    clips: Sequence[str] = (),
    quarantined: bool = False,
    max_gpu_hours: float | None = None,
    deadline: str | None = None,
) -> dict[str, Any]:
    """Run again the failed clips of a run, with `quarantined` those too; returns the summary of the run.

    `stage`, `shard` and `clips` (clip ids, or ids of the prompt file) narrow the selection: to clips that broke in that
    stage, that lie in that shard, that are named. The run's own plan is the source; no prompts are read.
    """
    request = RetryRequest(run_uri, stage, shard, tuple(clips), quarantined, max_gpu_hours, deadline)
    with open_engine(request) as engine:
        uri = engine.run.uri
        run_in_waves(uri, plan(uri), engine.run.config.stages)
        return publish(uri)
