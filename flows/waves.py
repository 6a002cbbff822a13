"""The order in which shards go through the stages; what generate and retry have in common."""

from collections.abc import Iterator, Sequence
from typing import Any

from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.run_stage import run_stage

# How many (shard, stage) pairs may be open at once. They only wait for their pool, so this bounds how far the first
# stages run ahead of the last, not how much is computed.
MAX_OPEN_STAGES = 64
# Typed as Any: Prefect's generic runner does not match its own decorator.
TASK_RUNNER: Any = ThreadPoolTaskRunner(max_workers=MAX_OPEN_STAGES)


def run_in_waves(run_uri: str, shard_ids: Sequence[int], stages: Sequence[str]) -> None:
    """Take the shards of the engine at `run_uri` through its stages. Raises the error of the first task that failed."""
    done: dict[tuple[int, str], PrefectFuture[dict[str, int]]] = {}
    for shard_id, stage, stage_before in in_waves(shard_ids, stages):
        before = [done[shard_id, stage_before]] if stage_before else []
        done[shard_id, stage] = run_stage.submit(run_uri, stage, shard_id, return_state=False, wait_for=before)
    for future in as_completed(list(done.values())):
        future.result()


def in_waves(shard_ids: Sequence[int], stages: Sequence[str]) -> Iterator[tuple[int, str, str | None]]:
    """Give (shard, stage, stage before it) so that stage n+1 of a shard stands beside stage n of the next shard.

    Tasks start in this order. Each stands after the one it waits for, so a bounded number of threads cannot lock up.
    """
    for wave in range(len(shard_ids) + len(stages) - 1):
        for step, stage in enumerate(stages):
            if 0 <= wave - step < len(shard_ids):
                yield shard_ids[wave - step], stage, stages[step - 1] if step else None
