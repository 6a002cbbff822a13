"""Which Prefect tasks are tried again: only those that failed for a reason that may pass."""

from typing import Any

from magicvideo_core.errors import StorageLostError, TransientError


def _may_pass(task: Any, task_run: Any, state: Any) -> bool:
    # A failed state gives its exception as the result; anything but a TransientError would fail again.
    # Storage that outlasted the pool's patience has stopped the pool: this process has no more to try.
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError) and not isinstance(error, StorageLostError)


# Options of `prefect.task`. Storage itself was tried several times before: these tries are minutes apart.
RETRY_TRANSIENT: dict[str, Any] = {"retries": 3, "retry_delay_seconds": [5, 30, 120], "retry_condition_fn": _may_pass}
