"""How long the place of a killed actor makes no clips, beside what its loading takes; run by `busy.py --loads replaced`."""

import os
import signal
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

from magicvideo_core.manifest.table import read_manifests
from magicvideo_core.storage import Storage
from tasks.pools import spares

LOAD_S = 3.0
CLIP_S = 0.25
# From when all have loaded to the kill, and for how long there is work after it.
KILLED_AFTER_S, GOES_ON_S = 10.0, 12.0


def replaced(settings: Sequence[str], ray_options: dict[str, Any], *, has_spare: bool = True) -> dict[str, Any]:
    """Kill one of a stage's two whole-GPU actors; returns when its place computes again, and what a first start takes.

    Without spare processes (`has_spare`) nothing is imported in a process before its actor comes, either.
    """
    if has_spare:
        return _replaced(settings, ray_options)
    with patch.dict(os.environ, RAY_preload_python_modules=""), patch.object(spares, "SETTLED_S", float("inf")):
        return _replaced(settings, ray_options)


def _replaced(settings: Sequence[str], ray_options: dict[str, Any]) -> dict[str, Any]:
    import ray

    from tasks.plan import write_run
    from tasks.resolve import RunRequest, resolve_run
    from tasks.run_stage import complete_shard
    from tasks.runtime import Engine
    from tasks.stop_conditions import StopConditions

    ray.init(address="local", num_cpus=4, num_gpus=2, log_to_driver=False, **ray_options)
    num_clips = 2 * round((KILLED_AFTER_S + GOES_ON_S) / CLIP_S)
    own = (f"t2i.fake.sleep_s={CLIP_S}", f"t2i.fake.load_sleep_s={LOAD_S}", "t2i.pool.num_gpus=1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "prompts.txt").write_text("".join(f"fake clip {number}\n" for number in range(num_clips)))
        overrides = (*settings, *own, "t2i.pool.max_actors=2", "stages=t2i")
        request = RunRequest(
            str(folder / "prompts.txt"), str(folder), overrides=overrides, run_id="run", shard_size=num_clips
        )
        engine = Engine(resolve_run(request), StopConditions())
        try:
            engine.wait_until_placed()
            pool, asked_s = engine.pool("t2i"), time.time()
            while not pool.actors():
                time.sleep(0.02)
            first_s = time.time() - asked_s
            while len(pool.actors()) < 2:
                time.sleep(0.02)
            [shard_id] = write_run(engine.run)
            with ThreadPoolExecutor(1) as executor:
                running = executor.submit(complete_shard, engine, "t2i", shard_id)
                time.sleep(KILLED_AFTER_S)
                before, killed_s = pool.actors(), time.time()
                os.kill(before[0].pid, signal.SIGKILL)
                running.result()
            rows = list(read_manifests(Storage(folder / "run")))
        finally:
            engine.close()
            ray.shutdown()
    known = {info.actor_id for info in before}
    back_s = min(row.started_at.timestamp() for row in rows if row.started_at and row.actor_id not in known)
    return {"load_s": LOAD_S, "first_start_s": round(first_s, 2), "back_after_s": round(back_s - killed_s, 2)}
