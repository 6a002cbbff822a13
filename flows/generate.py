"""The flow from prompts to videos: plan, every shard through every stage, publish."""

from collections.abc import Iterator, Sequence
from typing import Any

from prefect import flow
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.plan import plan
from tasks.publish import publish
from tasks.resolve import RunRequest
from tasks.run_stage import run_stage
from tasks.runtime import open_engine

# How many (shard, stage) pairs may be open at once. They only wait for their pool, so this bounds how far the first
# stages run ahead of the last, not how much is computed.
MAX_OPEN_STAGES = 64
# Typed as Any: Prefect's generic runner does not match its own decorator.
_TASK_RUNNER: Any = ThreadPoolTaskRunner(max_workers=MAX_OPEN_STAGES)


@flow(
    name="generate",
    flow_run_name="generate-{run_id}",
    task_runner=_TASK_RUNNER,
    persist_result=False,
)
def generate(
    prompts: str,
    output: str,
    preset: str = "tiny",
    config_file: str | None = None,
    overrides: Sequence[str] = (),
    run_id: str | None = None,
    shard_size: int | None = None,
    stages: str | None = None,
) -> dict[str, Any]:
    """Turn a prompt set into videos below `output`; returns the summary of the run.

    With the `run_id` of an interrupted run it does what is left of it. A clip that fails is a row, not an exception.
    """
    request = RunRequest(prompts, output, preset, config_file, tuple(overrides), run_id, shard_size, stages)
    with open_engine(request) as engine:
        uri = engine.run.uri
        shard_ids = plan(uri)
        done: dict[tuple[int, str], PrefectFuture[dict[str, int]]] = {}
        for shard_id, stage, stage_before in in_waves(shard_ids, engine.run.config.stages):
            before = [done[shard_id, stage_before]] if stage_before else []
            done[shard_id, stage] = run_stage.submit(uri, stage, shard_id, return_state=False, wait_for=before)
        for future in as_completed(list(done.values())):
            future.result()
        return publish(uri)


def in_waves(shard_ids: Sequence[int], stages: Sequence[str]) -> Iterator[tuple[int, str, str | None]]:
    """Give (shard, stage, stage before it) so that stage n+1 of a shard stands beside stage n of the next shard.

    Tasks start in this order. Each stands after the one it waits for, so a bounded number of threads cannot lock up.
    """
    for wave in range(len(shard_ids) + len(stages) - 1):
        for step, stage in enumerate(stages):
            if 0 <= wave - step < len(shard_ids):
                yield shard_ids[wave - step], stage, stages[step - 1] if step else None
