"""The flow that finishes what other runs left: every run of a folder that failed in part or was interrupted."""

from functools import partial
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.outcomes import Outcome, end_state, outcome_of
from flows.parameters import Deadline, KeepWarm, MaxAttempts, MaxGpuHours, Output, Quarantined, Unfinished
from flows.retry import retry
from flows.waves import TASK_RUNNER
from tasks.inbox import find_runs_to_retry
from tasks.stop_conditions import parse_stop_conditions


@flow(name="retry-failed", task_runner=TASK_RUNNER, persist_result=False)
def retry_failed(
    output: Output,
    unfinished: Unfinished = True,
    quarantined: Quarantined = False,
    max_attempts: MaxAttempts = 3,
    max_gpu_hours: MaxGpuHours = None,
    deadline: Deadline = None,
    keep_warm: KeepWarm = None,
) -> State[Any]:
    """Run again what failed in the runs below `output`, with `unfinished` also what an interrupted run has not tried.

    A clip that was tried `max_attempts` times in a stage is left alone, and so are runs that a driver works on. Each
    run's own plan and configuration are the source; `deadline` is that of all of them, `max_gpu_hours` that of each.
    """
    ends_at = parse_stop_conditions(max_gpu_hours, deadline, keep_warm).deadline
    outcomes: list[Outcome] = []
    for run in find_runs_to_retry(output, unfinished, quarantined, max_attempts):
        if run.problem is not None:
            outcomes.append(Outcome(run.uri, run.uri, "unreadable", run.problem))
            continue
        call = partial(
            retry,
            run_uri=run.uri,
            quarantined=quarantined,
            unfinished=unfinished,
            max_attempts=max_attempts,
            keep_warm=keep_warm,
            max_gpu_hours=max_gpu_hours,
            deadline=None if ends_at is None else ends_at.isoformat(),
        )
        outcomes.append(outcome_of(run.uri, run.uri, ends_at, call))
        if outcomes[-1].stopped:
            break
    return end_state("retry-failed", outcomes)
