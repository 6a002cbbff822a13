"""The systems of the throughput benchmark, each in a process of its own: this pipeline, Ray Data, prefect-ray, a loop."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from throughput_load import Load, Record, Worker, pipeline_records, read_records

from magicvideo_core.ids import STAGES

# Clips of one shard, and of one block of Ray Data where stages take no time.
SHARD_SIZE = 250


def pipeline(load: Load) -> list[Record]:
    """`magicvideo generate`, its pools sized by what the stages take."""
    prompts = Path(load.folder, "prompts.txt")
    prompts.write_text("\n".join(load.prompts) + "\n")
    command = [sys.executable, "-m", "flows.cli", "generate", str(prompts), "--output", load.folder, "--run-id", "run"]
    command += ["--json", "--shard-size", str(SHARD_SIZE)]
    command += [word for override in load.overrides for word in ("--set", override)]
    if load.num_gpus:
        command += ["--timings", ",".join(f"{stage}={seconds:.5f}" for stage, seconds in load.sleeps_s.items())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    return pipeline_records(Path(load.folder, "run"))


class BatchWorker:
    """A `Worker` as Ray Data calls it: a batch of rows in, the same rows out."""

    def __init__(self, stage: str, load: Load) -> None:
        self._worker = Worker(stage, load)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"prompt": np.array([self._worker.run(str(prompt)) for prompt in batch["prompt"]])}


def ray_data(load: Load) -> list[Record]:
    """Ray Data: one `map_batches` per stage with a pool of actors that it scales itself, rows written as Parquet."""
    import ray
    import ray.data

    ray.init(log_to_driver=False, logging_level="ERROR")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows: list[Any] = [{"prompt": prompt} for prompt in load.prompts]
    # One row is what may run elsewhere: where stages take long, a block of several would hold the others back.
    per_block = 1 if load.num_gpus else SHARD_SIZE
    data = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // per_block))
    takes: dict[str, float] = {"num_cpus": 0.1, **({"num_gpus": 1} if load.num_gpus else {})}
    for stage in STAGES:
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=max(load.num_gpus, 1))
        data = data.map_batches(
            BatchWorker, batch_size=1, compute=pool, fn_constructor_args=(stage, load), zero_copy_batch=False, **takes
        )
    data.write_parquet(str(Path(load.folder, "rows")))
    ray.shutdown()
    return read_records(Path(load.folder))


# A task is a function, so its model can only be kept in whatever process it happens to run in.
_kept: dict[str, Worker] = {}


def _run_task(stage: str, load: Load, prompt: str) -> str:
    if stage not in _kept:
        _kept[stage] = Worker(stage, load)
    return _kept[stage].run(prompt)


def prefect_ray(load: Load) -> list[Record]:
    """Prefect with the task runner of prefect-ray: one task per (clip, stage)."""
    import prefect.cache_policies
    from prefect import flow, task
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect_ray import RayTaskRunner
    from prefect_ray.context import remote_options

    from tasks.prefect_server import EphemeralServer

    @task(cache_policy=prefect.cache_policies.NO_CACHE, persist_result=False)
    def run(stage: str, prompt: str) -> str:
        return _run_task(stage, load, prompt)

    @flow(task_runner=RayTaskRunner(address=os.environ["RAY_ADDRESS"]), persist_result=False)
    def load_flow() -> None:
        ends = []
        with remote_options(num_cpus=0.1, num_gpus=1 if load.num_gpus else 0):
            for prompt in load.prompts:
                before: Any = prompt
                for stage in STAGES:
                    before = run.submit(stage, before)
                ends.append(before)
        for end in ends:
            end.result()

    os.environ["PREFECT_HOME"] = str(Path(load.folder, "prefect"))
    with EphemeralServer() as server:
        server.wait_until_healthy()
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            load_flow()
    return read_records(Path(load.folder))


def loop(load: Load, *, durable: bool = False) -> list[Record]:
    """A loop over clips and stages in one process, on one device."""
    workers = [Worker(stage, load, durable=durable) for stage in STAGES]
    for prompt in load.prompts:
        for worker in workers:
            worker.run(prompt)
    return read_records(Path(load.folder))


SYSTEMS: dict[str, Callable[[Load], list[Record]]] = {
    "magicvideo": pipeline,
    "Ray Data": ray_data,
    "prefect-ray": prefect_ray,
    "loop": loop,
    "durable loop": partial(loop, durable=True),
}
# What is left of a clip's work after a kill, and what the system writes for it.
WRITES = {
    "magicvideo": "artifact and record synchronised to disk, manifests; resumes by (clip, stage)",
    "Ray Data": "artifact and record as plain files; rows of a block once it is through all stages; a killed run begins anew",
    "prefect-ray": "artifact and record as plain files; states of tasks in Prefect's database; a killed run begins anew",
    "loop": "artifact and record as plain files; a killed run begins anew",
    "durable loop": "artifact, checked, and record synchronised to disk; a killed run begins anew",
}
