"""How busy devices are kept, as the share of an ideal in which none ever waits: fake stages that sleep, logical GPUs.

    python tests/bench/busy.py              # 200 clips, two minutes a load
    python tests/bench/busy.py --short      # a quarter of that
    python tests/bench/busy.py --loads eight,overlap
    python tests/bench/busy.py --loads replaced,replaced-no-spare
    python tests/bench/busy.py --short --loads eight,eight-ray-data-shared

What takes part: the engine, its pools and actors, storage on local disk, journal and manifests; Prefect does not. Counted
from when every actor has loaded to when the last manifest is written. Stage times are 1.3 : 6.8 : 18.5 : 0.5. `whole`
has whole GPUs that go from stage to stage; everywhere else the stages share them and take turns.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from magicvideo_core.config import RunConfig
from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.stages.base import Stage
from magicvideo_core.stages.fake import SLOWNESS, FakeStage
from magicvideo_core.storage import Storage, StoredObject
from tasks.environment import set_environment

PROPORTIONS = {"t2i": 1.3, "i2v": 6.8, "v2v": 18.5, "vfi": 0.5}
# One stage alone, with storage that takes 30 % of its time.
STAGE_S, READ_S, WRITE_S = 0.4, 0.06, 0.03
OBJECT_STORE_BYTES = 128 * 2**20
_SMALL = (
    *(f"{stage}.backend=fake" for stage in STAGES),
    *(f"{stage}.{side}=16" for stage in ("t2i", "i2v", "v2v") for side in ("height", "width")),
    *(f"{stage}.num_frames=4" for stage in ("i2v", "v2v")),
)


@dataclass(frozen=True)
class Load:
    """A run of fake stages on logical GPUs; `disturb` is called in a thread of its own while it goes on."""

    num_gpus: int
    num_clips: int
    ideal_s: float
    settings: tuple[str, ...] = ()
    disturb: Callable[["Running"], None] = field(default=lambda running: None)

    def sleep_s(self, stage: str) -> float:
        """Return what a clip takes in a stage."""
        return PROPORTIONS[stage] / sum(PROPORTIONS.values()) * self.ideal_s * self.num_gpus / self.num_clips


@dataclass(frozen=True)
class Running:
    """A load that is under way."""

    engine: Any
    folder: Path
    load: Load

    def wait_for(self, stage: str, num_clips: int) -> None:
        """Wait until so many clips have finished a stage."""
        while self.engine.board.snapshot()[stage].succeeded < num_clips:
            time.sleep(0.05)


def run(load: Load) -> dict[str, Any]:
    """Run a load; returns its figures."""
    import ray

    from tasks.plan import write_run
    from tasks.resolve import RunRequest, resolve_run
    from tasks.run_stage import complete_shard
    from tasks.runtime import Engine
    from tasks.stop_conditions import StopConditions

    ray.init(
        address="local",
        num_cpus=16,
        num_gpus=load.num_gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts.txt").write_text("".join(f"fake clip {number}\n" for number in range(load.num_clips)))
        pools = [
            f"{stage}.pool.{key}" for stage in STAGES for key in ("num_cpus=0.1", "max_actors=64", "num_gpus=0.25")
        ]
        sleeps = [f"{stage}.fake.sleep_s={load.sleep_s(stage)}" for stage in STAGES]
        slow = [f"{stage}.fake.slow_file={folder / stage}.slow" for stage in STAGES]
        overrides = (*_SMALL, *pools, *sleeps, *slow, *load.settings)
        request = RunRequest(str(folder / "prompts.txt"), str(folder), overrides=overrides, run_id="run", shard_size=16)
        engine = Engine(resolve_run(request), StopConditions())
        try:
            engine.wait_until_placed()
            pools_made = [engine.pool(stage) for stage in STAGES]
            while any(pool.load().actors < pool.num_slots() for pool in pools_made):
                time.sleep(0.1)
            started_s = time.time()
            disturber = threading.Thread(target=load.disturb, args=(Running(engine, folder, load),), daemon=True)
            disturber.start()
            shards = write_run(engine.run)
            with ThreadPoolExecutor(len(shards) * len(STAGES)) as executor:
                todo = [(stage, shard_id) for shard_id in shards for stage in STAGES]
                list(executor.map(lambda each: complete_shard(engine, *each, beside_upstream=True), todo))
            took_s = time.time() - started_s
            rows = list(read_manifests(Storage(folder / "run")))
            slow_from_s = {
                stage: path.stat().st_mtime for stage in STAGES if (path := Path(f"{folder / stage}.slow")).exists()
            }
        finally:
            engine.close()
            ray.shutdown()
    assert len({(row.stage, row.clip_id) for row in rows if row.status == "succeeded"}) == load.num_clips * len(STAGES)
    slept_s = sum(load.sleep_s(row.stage) * (SLOWNESS if _is_slow(row, slow_from_s) else 1) for row in rows)
    return {
        "clips": load.num_clips,
        "gpus": load.num_gpus,
        "ideal_s": round(slept_s / load.num_gpus, 1),
        "took_s": round(took_s, 1),
        "of_ideal": round(slept_s / load.num_gpus / took_s, 3),
    }


def _is_slow(row: ManifestRow, slow_from_s: dict[str, float]) -> bool:
    started = row.started_at
    return started is not None and started.timestamp() >= slow_from_s.get(row.stage, float("inf"))


def slow_down(stage: str, running: Running) -> None:
    """Make a stage ten times slower when half of the clips are done."""
    running.wait_for("vfi", running.load.num_clips // 2)
    Path(f"{running.folder / stage}.slow").touch()


def kill_one(running: Running) -> None:
    """Kill an actor of the slowest stage when a third of the clips are done."""
    running.wait_for("vfi", running.load.num_clips // 3)
    os.kill(running.engine.pool("v2v").actors()[0].pid, signal.SIGKILL)


def ray_data(load: Load, *, is_shared: bool) -> dict[str, Any]:
    """Run the same load through Ray Data; returns its figures."""
    import busy_ray_data
    import ray
    import throughput_load

    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    ray.init(address="local", num_cpus=16, num_gpus=load.num_gpus, log_to_driver=False, **options)
    with tempfile.TemporaryDirectory() as folder:
        sleeps = {stage: load.sleep_s(stage) for stage in STAGES}
        same = throughput_load.Load(load.num_clips, sleeps, 0.0, load.num_gpus, folder)
        of_ideal = busy_ray_data.busy(same, is_shared=is_shared)
    ray.shutdown()
    return {"clips": load.num_clips, "gpus": load.num_gpus, "of_ideal": round(of_ideal, 3)}


def slow_storage(name: str, config: RunConfig) -> Stage:
    """Return the fake stage; from here on, storage takes its time in this process."""
    from tasks.pools import inputs

    read_uri, write = inputs.read_uri, Storage.write

    def read_slowly(uri: str) -> bytes:
        time.sleep(READ_S)
        return read_uri(uri)

    def write_slowly(storage: Storage, key: str, data: bytes) -> StoredObject:
        time.sleep(WRITE_S)
        return write(storage, key, data)

    inputs.read_uri = read_slowly
    Storage.write = write_slowly  # type: ignore[method-assign]
    return FakeStage(name, config)


def overlap(num_clips: int) -> dict[str, Any]:
    """Take clips through one stage alone, with slow storage; returns how busy its device was from begin to end."""
    import ray

    from magicvideo_core.config import load_config
    from magicvideo_core.prompts import clip_of_prompt
    from tasks.pools.actor import StageActor
    from tasks.pools.clip_work import ClipWork, StageJob, unfinished_row
    from tasks.pools.pool import PoolHooks, StagePool
    from tasks.pools.remote import RayStageActor
    from tasks.progress import ProgressBoard

    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    ray.init(address="local", num_cpus=2, num_gpus=1, log_to_driver=False, **options)
    with tempfile.TemporaryDirectory() as name:
        config = load_config(overrides=[*_SMALL, f"i2v.fake.sleep_s={STAGE_S}", "i2v.pool.num_gpus=1"])
        storage, pool_config = Storage(name), config.i2v.pool
        first = StageActor(StageJob("t2i", config, storage, "run", "recipe"))
        first.load()
        works = []
        for seed in range(num_clips):
            [row] = first.run([ClipWork(clip_of_prompt("fake", seed), 0, 1)])
            assert isinstance(row, ManifestRow) and row.sha256 and row.size_bytes
            before = {"t2i": StoredObject(str(row.artifact_uri), row.sha256, row.size_bytes)}
            works.append(ClipWork(clip_of_prompt("fake", seed), 0, 1, before))
        job = StageJob("i2v", config, storage, "run", "recipe", slow_storage)
        hooks = PoolHooks(lambda _: RayStageActor(job, pool_config), partial(unfinished_row, job), lambda: None)
        pool = StagePool("i2v", pool_config, 1, hooks, ProgressBoard(["i2v"], num_clips))
        rows = [row for row in pool.run(works) if isinstance(row, ManifestRow)]
        pool.close()
        ray.shutdown()
    started_s = [row.started_at.timestamp() for row in rows if row.started_at is not None]
    # What passes between the begins of the first and the last clip on the device.
    span_s = max(started_s) - min(started_s)
    return {
        "clips": num_clips,
        "storage": round((READ_S + 2 * WRITE_S) / STAGE_S, 2),
        "busy": round((num_clips - 1) * STAGE_S / span_s, 3),
    }


def replaced(*, has_spare: bool) -> dict[str, Any]:
    """Kill an actor; returns when its place computes again, with a spare process waiting for that or without."""
    import busy_replaced

    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    return busy_replaced.replaced(_SMALL, options, has_spare=has_spare)


def main() -> None:
    """Measure and print one line of JSON per load."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--loads", default="eight,whole,three,slower,killed,replaced,overlap")
    options = parser.parse_args()
    set_environment()
    # Workers import this file and the project.
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    clips, ideal_s = (50, 30.0) if options.short else (200, 120.0)
    loads: dict[str, Callable[[], dict[str, Any]]] = {
        "eight": lambda: run(Load(8, clips, ideal_s)),
        "whole": lambda: run(Load(8, clips, ideal_s, tuple(f"{stage}.pool.num_gpus=1" for stage in STAGES))),
        "three": lambda: run(Load(3, clips, ideal_s)),
        "slower": lambda: run(Load(8, clips, ideal_s / 2, disturb=partial(slow_down, "i2v"))),
        "killed": lambda: run(Load(8, clips, ideal_s, ("v2v.fake.load_sleep_s=2",), kill_one)),
        "eight-ray-data": lambda: ray_data(Load(8, clips, ideal_s), is_shared=False),
        "eight-ray-data-shared": lambda: ray_data(Load(8, clips, ideal_s), is_shared=True),
        "three-ray-data-shared": lambda: ray_data(Load(3, clips, ideal_s), is_shared=True),
        "replaced": lambda: replaced(has_spare=True),
        "replaced-no-spare": lambda: replaced(has_spare=False),
        "overlap": lambda: overlap(clips),
    }
    for name in options.loads.split(","):
        print(json.dumps({name: loads[name]()}), flush=True)


if __name__ == "__main__":
    main()
