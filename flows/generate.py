"""The flow from prompts to videos: plan, every shard through every stage, publish."""

from typing import Any

from prefect import flow

from flows.parameters import (
    ConfigFile,
    Deadline,
    KeepWarm,
    MaxGpuHours,
    Output,
    Overrides,
    Preset,
    Price,
    Prompts,
    Reuse,
    RunId,
    ShardSize,
    Stages,
    Timings,
)
from flows.waves import TASK_RUNNER, run_in_waves
from tasks.artifacts import shown_in_prefect
from tasks.engines import open_engine
from tasks.plan import plan
from tasks.publish import publish
from tasks.resolve import RunRequest


@flow(
    name="generate",
    flow_run_name="generate-{run_id}",
    task_runner=TASK_RUNNER,
    persist_result=False,
)
def generate(
    prompts: Prompts,
    output: Output,
    preset: Preset = "tiny",
    config_file: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006 (Prefect copies it, and its form shows a list)
    run_id: RunId = None,
    shard_size: ShardSize = None,
    stages: Stages = None,
    max_gpu_hours: MaxGpuHours = None,
    deadline: Deadline = None,
    reuse: Reuse = None,
    timings: Timings = None,
    price_per_gpu_hour: Price = None,
    keep_warm: KeepWarm = None,
) -> dict[str, Any]:
    """Turn a prompt set into videos below `output`; returns the summary of the run.

    With the `run_id` of an interrupted run it does what is left of it. With `reuse`, the URI of another run, the stages
    that it made by the same recipe are taken over. Pools are sized and the forecast is made by `timings`. A clip that
    fails is a row, not an exception. Raises RunStoppedError
    where `max_gpu_hours` or `deadline` is reached before the end.
    """
    request = RunRequest(
        prompts=prompts,
        output=output,
        preset=preset,
        config_file=config_file,
        overrides=tuple(overrides),
        run_id=run_id,
        shard_size=shard_size,
        stages=stages,
        max_gpu_hours=max_gpu_hours,
        deadline=deadline,
        reuse=reuse,
        timings=timings,
        price_per_gpu_hour=price_per_gpu_hour,
        keep_warm=keep_warm,
    )
    with open_engine(request) as engine:
        uri = engine.run.uri
        with shown_in_prefect(engine):
            run_in_waves(uri, plan(uri), engine.run.config.stages)
        return publish(uri)
