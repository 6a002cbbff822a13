"""What an actor's process does at the same time, and what in turn."""

import threading
from pathlib import Path
from typing import Any

import pytest

from magicvideo_core.config import load_config
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage
from tasks.pools.clip_work import ClipWork, StageJob
from tasks.pools.process import StageProcess

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.mark.parametrize(("num_gpus", "num_clips", "in_turn"), [(0, 20, True), (0, 2, False), (1, 20, False)])
def test_only_many_quick_clips_of_the_cores_are_computed_and_stored_in_turn(
    fake_overrides: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_gpus: int,
    num_clips: int,
    in_turn: bool,
) -> None:
    config = load_config(overrides=(*fake_overrides, f"t2i.pool.num_gpus={num_gpus}", "t2i.pool.batch_size=1"))
    process = StageProcess(StageJob("t2i", config, Storage(tmp_path), "run", "recipe"))
    process.load()
    storing, computing = threading.Event(), threading.Event()
    finish, compute = process._actor.finish, process._actor.compute
    seen: list[bool] = []

    def finish_slowly(batches: Any) -> Any:
        storing.set()
        if not seen:
            # Where it may, the second call computes meanwhile.
            seen.append(computing.wait(0.5 if in_turn else 30.0))
        return finish(batches)

    def compute_and_say(works: Any, ahead: Any) -> Any:
        if storing.is_set():
            computing.set()
        return compute(works, ahead)

    monkeypatch.setattr(process._actor, "finish", finish_slowly)
    monkeypatch.setattr(process._actor, "compute", compute_and_say)
    works = [ClipWork(clip_of_prompt(f"clip {number}", 0), 0, 1) for number in range(2 * num_clips)]
    process.compute(1, works[:num_clips])
    assert storing.wait(30.0)
    process.compute(2, works[num_clips:])
    rows = [row for number in (1, 2) for row in process.collect(number) or []]
    assert [row.clip_id for row in rows] == [work.clip.clip_id for work in works]
    assert all(isinstance(row, ManifestRow) for row in rows)
    assert seen == [not in_turn]
    process.close()
