"""Pools over real Ray actors of the fake backend: what dies, hangs and raises, and what is durable after."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.manifest.journal import list_records, read_records, write_record
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.media import decode_image
from magicvideo_core.prompts import Clip, clip_of_prompt
from magicvideo_core.storage import Storage, read_uri
from tasks.pools.actor import ClipWork, Effort, Reason, StageActor, StageJob, unfinished_row
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

    hooks = PoolHooks(partial(RayStageActor, job, config), give_up, lambda: None)
    return StagePool("t2i", config, num_actors, hooks, board)


def run_pool(pool: StagePool, clips: list[Clip]) -> dict[str, ManifestRow]:
    try:
        results = pool.run([ClipWork(clip, 0, 1) for clip in clips])
    finally:
        pool.close()
    rows = [result for result in results if isinstance(result, ManifestRow)]
    assert sorted(row.clip_id for row in rows) == sorted(clip.clip_id for clip in clips)
    return {row.prompt: row for row in rows}


@pytest.mark.parametrize(
    ("fault", "attempts", "status", "error_type"),
    [
        ("kill", 2, "quarantined", "ActorDiedError"),
        ("exit", 1, "quarantined", "ActorDiedError"),
        ("hang", 1, "quarantined", "ClipTimeoutError"),
        ("raise", 2, "quarantined", "RuntimeError"),
        ("clip_error", 2, "quarantined", "GateError"),
    ],
)
def test_a_fault_takes_one_clip_and_no_other(
    local_ray: None,
    fake_overrides: tuple[str, ...],
    tmp_path: Path,
    fault: str,
    attempts: int,
    status: str,
    error_type: str,
) -> None:
    limits = (f"t2i.pool.max_clip_attempts={attempts}", "t2i.pool.max_actor_deaths=3", "t2i.pool.clip_timeout_s=5")
    config = load_config(overrides=[*fake_overrides, f"t2i.fake.faults.bad={fault}", *limits])
    # With one attempt the bad clip comes last: starting another actor takes seconds and shows nothing new.
    clips = CLIPS if attempts > 1 else [CLIPS[0], CLIPS[2], CLIPS[1]]
    rows = run_pool(make_pool(job(tmp_path, config), ProgressBoard(["t2i"], 3)), clips)
    assert (rows["a bad one"].status, rows["a bad one"].error_type) == (status, error_type)
    assert rows["a bad one"].error_message
    assert {rows[prompt].status for prompt in ("plain one", "plain two")} == {"succeeded"}
    records = read_records(Storage(tmp_path), list_records(Storage(tmp_path), "t2i", 0))
    assert sorted(records, key=lambda r: r.clip_id) == sorted(rows.values(), key=lambda r: r.clip_id)


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


def test_an_actor_makes_what_the_library_makes(fake_overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = load_config(overrides=fake_overrides)
    actor = StageActor(job(tmp_path, config))
    actor.load()
    first, second = (actor.run([ClipWork(clip, 0, 1) for clip in clips]) for clips in (CLIPS, CLIPS[::-1]))
    actor.close()
    assert [row.clip_id for row in first] == [clip.clip_id for clip in CLIPS]
    hashes = {row.clip_id: row.sha256 for row in first if isinstance(row, ManifestRow)}
    assert hashes == {row.clip_id: row.sha256 for row in second if isinstance(row, ManifestRow)}
    for row in first:
        assert isinstance(row, ManifestRow) and row.artifact_uri is not None
        assert decode_image(read_uri(row.artifact_uri)).shape == (16, 16, 3)
        assert (row.width, row.height, row.num_frames, row.fps, row.device) == (16, 16, 1, None, "cpu")
