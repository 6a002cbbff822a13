"""The flow of every night: each prompt file of an inbox whose videos are not there yet becomes a run."""

from functools import partial
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.generate import generate
from flows.outcomes import Outcome, end_state, outcome_of
from flows.parameters import (
    ConfigFile,
    Deadline,
    Inbox,
    KeepWarm,
    MaxGpuHours,
    Output,
    Overrides,
    Preset,
    Series,
    ShardSize,
    Stages,
    Timings,
)
from flows.waves import TASK_RUNNER
from tasks.inbox import find_prompt_files
from tasks.stop_conditions import parse_stop_conditions


@flow(name="nightly", flow_run_name="nightly-{series}", task_runner=TASK_RUNNER, persist_result=False)
def nightly(
    inbox: Inbox,
    output: Output,
    series: Series = "nightly",
    preset: Preset = "tiny",
    config_file: ConfigFile = None,
    overrides: Overrides = [],  # noqa: B006 (Prefect copies it, and its form shows a list)
    shard_size: ShardSize = None,
    stages: Stages = None,
    max_gpu_hours: MaxGpuHours = None,
    deadline: Deadline = None,
    timings: Timings = None,
    keep_warm: KeepWarm = None,
) -> State[Any]:
    """Turn every new prompt file of `inbox` into a run below `output`, and go on with those that were interrupted.

    A file is known by its content: its run is `output`/`series`-HASH, and manifests say whether that is finished. The
    run ends as Failed where a file could not be used or a clip did not succeed, and as Stopped where `deadline` (of the
    whole night) or `max_gpu_hours` (of each run) is reached; the next night goes on.
    """
    ends_at = parse_stop_conditions(max_gpu_hours, deadline, keep_warm).deadline
    outcomes: list[Outcome] = []
    for file in find_prompt_files(inbox, output, series):
        if not file.is_due:
            outcomes.append(Outcome(file.uri, file.run_uri, "unreadable" if file.problem else "before", file.problem))
            continue
        call = partial(
            generate,
            prompts=file.uri,
            output=output,
            preset=preset,
            config_file=config_file,
            overrides=overrides,
            run_id=file.run_id,
            shard_size=shard_size,
            stages=stages,
            max_gpu_hours=max_gpu_hours,
            deadline=None if ends_at is None else ends_at.isoformat(),
            timings=timings,
            keep_warm=keep_warm,
        )
        outcomes.append(outcome_of(file.uri, file.run_uri, ends_at, call))
        if outcomes[-1].stopped:
            break
    return end_state("nightly", outcomes)
