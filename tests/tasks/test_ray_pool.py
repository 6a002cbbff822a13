"""Pools over real Ray actors of the fake backend: what dies, hangs and raises, and what is durable after."""

import os
import signal
from pathlib import Path

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.manifest.journal import list_records, read_records, write_record
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage
from tasks.pools.clip_work import ClipWork, Effort, Reason, StageJob, unfinished_row
from tasks.pools.pool import PoolHooks, StagePool
from tasks.pools.remote import RayStageActor
from tasks.progress import ProgressBoard

CLIPS = [clip_of_prompt(prompt, seed) for seed, prompt in enumerate(["plain one", "a bad one", "plain two"])]


def job(folder: Path, config: RunConfig) -> StageJob:
    return StageJob("t2i", config, Storage(folder), "run", "recipe")


def make_pool(job: StageJob, board: ProgressBoard, num_actors: int = 1) -> StagePool:
    config = job.config.t2i.pool

    def give_up(work: ClipWork, status: Status, reason: Reason, effort: Effort | None) -> ManifestRow:
        row = unfinished_row(job, work, status, reason, effort)
        write_record(job.storage, row)
        return row

    hooks = PoolHooks(lambda number: RayStageActor(job, config), give_up, lambda: None)
    return StagePool("t2i", config, num_actors, hooks, board)


def run_pool(pool: StagePool, clips: list[Clip]) -> dict[str, ManifestRow]:
    try:
        results = pool.run([ClipWork(clip, 0, 1) for clip in clips])
    finally:
        pool.close()
    rows = [result for result in results if isinstance(result, ManifestRow)]
    assert sorted(row.clip_id for row in rows) == sorted(clip.clip_id for clip in clips)
    return {row.prompt: row for row in rows}


POISON = {
    "raise": "RuntimeError",
    "exit": "ActorDiedError",
    "clip_error": "GateError",
    "kill": "ActorDiedError",
    "nan": "GateError",
    "hang": "ClipTimeoutError",
    "oom": "MemoryError",
}


def test_each_fault_takes_one_clip_and_no_other(
    local_ray: None, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    # A hang is cut short after seconds in which an actor on a busy machine computes its clip, and storage answers.
    limits = ("t2i.pool.max_clip_attempts=1", "t2i.pool.max_actor_deaths=2", "t2i.pool.clip_timeout_s=5")
    faults = [f"t2i.fake.faults.poison-{fault}={fault}" for fault in POISON]
    config = load_config(overrides=[*fake_overrides, *faults, *limits, "t2i.fake.oom_limit_mib=64"])
    prompts = [prompt for fault in POISON for prompt in (f"before {fault}", f"poison-{fault}")]
    clips = [clip_of_prompt(prompt, seed) for seed, prompt in enumerate([*prompts, "the last"])]
    rows = run_pool(make_pool(job(tmp_path, config), ProgressBoard(["t2i"], len(clips))), clips)
    broken = {prompt.partition("-")[2]: row for prompt, row in rows.items() if prompt.startswith("poison")}
    assert {fault: row.error_type for fault, row in broken.items()} == POISON
    assert {row.status for row in broken.values()} == {"quarantined"}
    assert {row.status for prompt, row in rows.items() if not prompt.startswith("poison")} == {"succeeded"}
    for row in broken.values():
        assert row.error_message and row.actor_id and row.duration_s is not None
    records = read_records(Storage(tmp_path), list_records(Storage(tmp_path)))
    assert sorted(records, key=lambda r: r.clip_id) == sorted(rows.values(), key=lambda r: r.clip_id)
    # Four faults cost an actor: each is followed by another. One more each where the clip before was still being stored.
    assert 5 <= len({row.actor_id for row in rows.values()}) <= 9


def test_an_actor_is_recycled_after_its_share(local_ray: None, fake_overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = load_config(overrides=[*fake_overrides, "t2i.pool.recycle_after_clips=2"])
    rows = run_pool(make_pool(job(tmp_path, config), ProgressBoard(["t2i"], 3)), CLIPS)
    actors = [rows[clip.prompt].actor_id for clip in CLIPS]
    assert actors[0] == actors[1] != actors[2]


def test_an_actor_killed_from_outside_is_replaced_and_its_clip_made(
    local_ray: None, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    killed: list[int] = []

    class KillsTheFirst(ProgressBoard):
        """Kills every actor there is when the first clip goes to one of them."""

        def start(self, stage: str, num_clips: int) -> None:
            super().start(stage, num_clips)
            if not killed:
                killed.extend(info.pid for info in pool.actors())
                for pid in killed:
                    os.kill(pid, signal.SIGKILL)

    config = load_config(overrides=[*fake_overrides, "t2i.fake.sleep_s=0.2"])
    board = KillsTheFirst(["t2i"], 3)
    pool = make_pool(job(tmp_path, config), board)
    rows = run_pool(pool, CLIPS)
    assert killed
    assert {row.status for row in rows.values()} == {"succeeded"}
    assert board.snapshot()["t2i"].succeeded == 3
