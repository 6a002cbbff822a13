"""The order in which shards go through the stages; what generate and retry have in common."""

from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.run_stage import run_stage

# How many (shard, stage) pairs may be open at once. They only wait for their pool and for the stage before, so this
# bounds how many shards are under way, not how much is computed.
MAX_OPEN_STAGES = 64
# Those that wait for a thread are Prefect tasks already: a run of thousands of shards would hold them all in memory.
_MAX_SUBMITTED = 2 * MAX_OPEN_STAGES
# Opening a shard takes the driver's time, which the first clips need: the first shards, up to `MAX_OPEN_STAGES`, are opened
# so far apart, or as soon as one is done.
_FIRST_SHARDS_APART_S = 0.1
# Typed as Any: Prefect's generic runner does not match its own decorator.
TASK_RUNNER: Any = ThreadPoolTaskRunner(max_workers=MAX_OPEN_STAGES)


def run_in_waves(run_uri: str, shard_ids: Sequence[int], stages: Sequence[str]) -> None:
    """Take the shards of the engine at `run_uri` through its stages. Raises the error of the first task that failed."""
    done: SimpleQueue[PrefectFuture[Any]] = SimpleQueue()
    num_open = 0
    for number, (shard_id, stage) in enumerate(in_waves(shard_ids, stages)):
        is_full = num_open == _MAX_SUBMITTED
        if is_full or (0 < number < MAX_OPEN_STAGES and stage == stages[0]):
            try:
                finished = done.get(timeout=None if is_full else _FIRST_SHARDS_APART_S)
            except Empty:
                pass
            else:
                finished.result()
                num_open -= 1
        run_stage.submit(run_uri, stage, shard_id, return_state=False).add_done_callback(done.put)
        num_open += 1
    for _ in range(num_open):
        done.get().result()


def in_waves(shard_ids: Sequence[int], stages: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Give (shard, stage): all stages of a shard beside each other, each clip going from one to the next by itself.

    Tasks start in this order. Each stands after those it waits for, so a bounded number of threads cannot lock up.
    """
    for shard_id in shard_ids:
        for stage in stages:
            yield shard_id, stage
