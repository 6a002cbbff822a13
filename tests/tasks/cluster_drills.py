"""Drills on Ray clusters of their own, run by `test_ray_cluster.py` in a process each: `cluster_drills.py NAME FOLDER`."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.errors import PoolExhaustedError
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage
from tasks.pools.clip_work import ClipWork, StageJob, unfinished_row
from tasks.pools.pool import PoolHooks, StagePool
from tasks.pools.remote import RayStageActor
from tasks.pools.warm import WarmActors, end_warm, list_warm
from tasks.progress import ProgressBoard

SMALL = ("t2i.backend=fake", "t2i.height=16", "t2i.width=16", "t2i.pool.num_cpus=1", "t2i.pool.max_clip_attempts=1")
QUIET: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
# Above the seconds in which Ray starts a process on a busy machine.
PLACEMENT_TIMEOUT_S = 15.0
# What the memory hog may take before Ray's monitor has to step in, and what it takes at most.
HEADROOM_MIB, MOST_MIB = 700, 2500
# Enough for the time that a node and its actors take to start.
NUM_CLIPS = 80


class WatchedBoard(ProgressBoard):
    """Tells when a clip has finished."""

    def __init__(self, num_clips: int) -> None:
        super().__init__(["t2i"], num_clips)
        self.finished = threading.Event()

    def finish(self, row: ManifestRow, *, was_running: bool) -> None:
        super().finish(row, was_running=was_running)
        self.finished.set()


def make_pool(folder: Path, config: RunConfig, board: ProgressBoard) -> StagePool:
    job = StageJob("t2i", config, Storage(folder), "run", "recipe")
    hooks = PoolHooks(
        lambda number: RayStageActor(job, config.t2i.pool),
        lambda work, status, reason, effort: unfinished_row(job, work, status, reason, effort),
        lambda: None,
    )
    return StagePool("t2i", config.t2i.pool, 1, hooks, board)


def pool_actor(folder: Path) -> RayStageActor:
    config = load_config(overrides=SMALL)
    return RayStageActor(StageJob("t2i", config, Storage(folder), "run", "recipe"), config.t2i.pool)


def works(*prompts: str) -> list[ClipWork]:
    return [ClipWork(clip_of_prompt(prompt, seed), 0, 1) for seed, prompt in enumerate(prompts)]


def node_loss(folder: Path) -> dict[str, Any]:
    """Lose the node of the only actor while it computes; then lose the other one too."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **QUIET})
    nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1, **QUIET) for _ in range(2))}
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    limits = (f"t2i.pool.placement_timeout_s={PLACEMENT_TIMEOUT_S}", "t2i.fake.sleep_s=0.5")
    board = WatchedBoard(3)
    pool = make_pool(folder, load_config(overrides=[*SMALL, *limits]), board)
    with ThreadPoolExecutor(1) as caller:
        running = caller.submit(pool.run, works("one", "two", "three"))
        board.finished.wait()
        first_home = pool.actors()[0].node_id
        cluster.remove_node(nodes.pop(first_home), allow_graceful=False)
        rows = [row for row in running.result() if isinstance(row, ManifestRow)]
    second_home = pool.actors()[0].node_id
    cluster.remove_node(nodes.pop(second_home), allow_graceful=False)
    started_s, stopped_by = time.monotonic(), ""
    try:
        # An actor outlives its node by some clips.
        pool.run(works(*(f"more {number}" for number in range(40))))
    except PoolExhaustedError as error:
        stopped_by = str(error)
    waited_s = time.monotonic() - started_s
    pool.close()
    late = pool_actor(folder)
    ray.shutdown()
    # Whoever is late gives its actor up; that must not start a Ray.
    late.close()
    late.kill()
    was_cut_off = late.was_cut_off()
    cluster.shutdown()
    return {
        "ray_after_all": ray.is_initialized() or was_cut_off,
        "statuses": [row.status for row in rows],
        "num_actors": len({row.actor_id for row in rows}),
        "moved": first_home != second_home,
        "stopped_by": stopped_by,
        "waited_s": waited_s,
    }


def nodes_come_and_go(folder: Path) -> dict[str, Any]:
    """Work on one shared GPU, then on two, then on the one that came."""
    from tasks.plan import write_run
    from tasks.resolve import RunRequest, resolve_run
    from tasks.run_stage import complete_shard
    from tasks.runtime import Engine
    from tasks.stop_conditions import StopConditions

    def done() -> int:
        return engine.board.snapshot()["i2v"].succeeded

    def wait_until(reached: Callable[[], bool]) -> float:
        while not reached():
            assert not working.done(), "the run ended meanwhile: give it more clips"
            time.sleep(0.02)
        return time.monotonic()

    def clips_per_s(number: int) -> float:
        first = done()
        started_s = wait_until(lambda: done() > first)
        return number / (wait_until(lambda: done() > first + number) - started_s)

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **QUIET})
    home = cluster.add_node(num_cpus=2, num_gpus=1, **QUIET)
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    (folder / "prompts.txt").write_text("".join(f"fake clip {number}\n" for number in range(NUM_CLIPS)))
    stages = ("t2i", "i2v")
    shared = [
        f"{stage}.{key}" for stage in stages for key in ("pool.num_gpus=0.5", "pool.max_actors=4", "fake.sleep_s=0.2")
    ]
    small = [*SMALL, "i2v.backend=fake", "i2v.height=16", "i2v.width=16", "i2v.num_frames=4", "i2v.pool.num_cpus=1"]
    overrides = (*small, *shared, "stages=t2i,i2v", "i2v.pool.max_clip_attempts=1")
    run = resolve_run(RunRequest(str(folder / "prompts.txt"), str(folder), overrides=overrides, run_id="run"))
    engine = Engine(run, StopConditions())
    try:
        engine.wait_until_placed()
        todo = [(stage, shard_id) for shard_id in write_run(run) for stage in stages]
        with ThreadPoolExecutor(len(todo) + 1) as executor:
            tasks = [executor.submit(complete_shard, engine, *each, beside_upstream=True) for each in todo]
            working = tasks[-1]
            alone = clips_per_s(6)
            cluster.add_node(num_cpus=2, num_gpus=1, **QUIET)
            wait_until(lambda: all(engine.pool(stage).load().actors == 2 for stage in stages))
            together = clips_per_s(12)
            cluster.remove_node(home, allow_graceful=False)
            for task in tasks:
                task.result()
        rows = list(read_manifests(run.storage))
    finally:
        engine.close()
        ray.shutdown()
        cluster.shutdown()
    return {
        "alone": alone,
        "together": together,
        "rows": len({(row.stage, row.clip_id) for row in rows}),
        "statuses": sorted({row.status for row in rows}),
        "expected": NUM_CLIPS * len(stages),
    }


def driver_dies(folder: Path) -> dict[str, Any]:
    """Kill the driver of a run that keeps its actor warm in the middle of a clip; then take the actor over."""
    # The drill is the driver too, when it finds a cluster set.
    config = load_config(overrides=[*SMALL, "t2i.fake.sleep_s=0.5"])
    job = StageJob("t2i", config, Storage(folder), "run", "recipe")
    warm = WarmActors("run", keep_warm_s=600.0, lease_s=3.0)
    hooks = PoolHooks(
        lambda number: warm.start(job, config.t2i.pool, {}),
        lambda work, status, reason, effort: unfinished_row(job, work, status, reason, effort),
        lambda: None,
    )
    board = WatchedBoard(3)
    if "RAY_ADDRESS" in os.environ:
        ray.init(logging_level="ERROR", log_to_driver=False)
        pool = StagePool("t2i", config.t2i.pool, 1, hooks, board)
        threading.Thread(target=pool.run, args=(works("one", "two", "three"),), daemon=True).start()
        board.finished.wait()
        print(json.dumps({"actor": pool.actors()[0].actor_id}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **QUIET})
    ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
    command = [sys.executable, __file__, "driver_dies", str(folder)]
    environment = {**os.environ, "RAY_ADDRESS": cluster.address}
    dead = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    # At first the run may still live.
    held_by = [actor.run_id for actor in list_warm()]
    while any(actor.run_id is not None for actor in list_warm()):
        time.sleep(0.1)
    warm.look_around({"t2i": job}, {"t2i": 1})
    pool = StagePool("t2i", config.t2i.pool, 1, hooks, board)
    [row] = pool.run(works("four"))
    pool.close()
    warm.close()
    ended = end_warm()
    ray.shutdown()
    cluster.shutdown()
    assert isinstance(row, ManifestRow)
    return {"held_by": held_by, "before": json.loads(dead.stdout)["actor"], "after": row.actor_id, "ended": ended}


def shared_gpus_stay_warm(folder: Path) -> dict[str, Any]:
    """Run two stages that share two GPUs, then with another recipe in one of them, then so again, to be kept no more."""
    from tasks.plan import write_run
    from tasks.resolve import RunRequest, resolve_run
    from tasks.run_stage import complete_shard
    from tasks.runtime import Engine
    from tasks.stop_conditions import StopConditions

    def work(run_id: str, keep_warm_s: float, *more: str) -> list[str]:
        overrides = (*SMALL, *shared, *small, *more)
        run = resolve_run(RunRequest(str(folder / "prompts.txt"), str(folder), overrides=overrides, run_id=run_id))
        engine = Engine(run, StopConditions(keep_warm_s=keep_warm_s))
        try:
            engine.wait_until_placed()
            # Every actor there is: the same ones each time.
            while any(engine.pool(stage).load().actors < 2 for stage in stages):
                time.sleep(0.02)
            todo = [(stage, shard_id) for shard_id in write_run(run) for stage in stages]
            with ThreadPoolExecutor(len(todo)) as executor:
                list(executor.map(lambda each: complete_shard(engine, *each, beside_upstream=True), todo))
            assert {row.status for row in read_manifests(run.storage)} == {"succeeded"}
            return sorted(info.actor_id for stage in stages for info in engine.pool(stage).actors())
        finally:
            engine.close()

    def free_gpus() -> float:
        return float(ray.available_resources().get("GPU", 0.0))

    def wait_for_gpus(number: float) -> bool:
        ends_s = time.monotonic() + 30
        while free_gpus() != number and time.monotonic() < ends_s:
            time.sleep(0.1)
        return free_gpus() == number

    ray.init(address="local", num_cpus=4, num_gpus=2, logging_level="ERROR", log_to_driver=False, **QUIET)
    (folder / "prompts.txt").write_text("".join(f"fake clip {number}\n" for number in range(12)))
    stages, other = ("t2i", "i2v"), "i2v.guidance_scale=3.25"
    shared = [f"{stage}.{key}" for stage in stages for key in ("pool.num_gpus=0.5", "pool.max_actors=2")]
    small = [
        "i2v.backend=fake",
        "i2v.height=16",
        "i2v.width=16",
        "i2v.num_frames=4",
        "i2v.pool.num_cpus=1",
        "stages=t2i,i2v",
    ]
    first = work("first", 600.0)
    kept = wait_for_gpus(0.0)
    second = work("second", 600.0, other)
    third = work("third", 0.0, other)
    given_back = wait_for_gpus(2.0)
    ray.shutdown()
    return {"actors": [first, second, third], "kept": kept, "given_back": given_back}


def memory(folder: Path) -> dict[str, Any]:
    """Let one clip take memory until Ray's monitor kills its actor."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    machine_mib = {words[0]: int(words[1]) / 1024 for words in lines}
    total_mib = machine_mib["MemTotal:"]
    threshold = (total_mib - machine_mib["MemAvailable:"] + HEADROOM_MIB) / total_mib
    ray.init(
        address="local",
        num_cpus=1,
        logging_level="ERROR",
        log_to_driver=False,
        _system_config={"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 50},
        **QUIET,
    )
    faults = ("t2i.fake.faults.greedy=oom", f"t2i.fake.oom_limit_mib={MOST_MIB}", "t2i.pool.clip_timeout_s=60")
    pool = make_pool(folder, load_config(overrides=[*SMALL, *faults]), ProgressBoard(["t2i"], 3))
    rows = [row for row in pool.run(works("one", "greedy", "two")) if isinstance(row, ManifestRow)]
    pool.close()
    ray.shutdown()
    return {row.prompt: [row.status, row.error_type, row.error_message] for row in rows}


if __name__ == "__main__":
    drills = {
        each.__name__: each for each in (node_loss, nodes_come_and_go, driver_dies, shared_gpus_stay_warm, memory)
    }
    drill = drills[sys.argv[1]]
    print(json.dumps(drill(Path(sys.argv[2]))))
