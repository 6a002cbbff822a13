"""Warm actors in real Ray: a following run takes them over, two never share one, and they end by themselves."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from magicvideo_core.config import RunConfig, load_config
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage
from tasks.pools.clip_work import ClipWork, StageJob
from tasks.pools.pool import PoolHooks, StagePool
from tasks.pools.warm import WarmActors, end_warm, list_warm
from tasks.progress import ProgressBoard

ENDS_WITHIN_S = 60.0


@dataclass
class Run:
    """One run of one stage over the warm actors of the cluster."""

    job: StageJob
    pool: StagePool

    def make(self, prompt: str) -> ManifestRow:
        """Make one clip of it."""
        [row] = self.pool.run([ClipWork(clip_of_prompt(prompt, 0), 0, 1)])
        assert isinstance(row, ManifestRow)
        assert row.run_id == self.job.run_id and Path(row.artifact_uri or "").is_relative_to(self.job.storage.uri)
        return row


@contextmanager
def run(name: str, folder: Path, config: RunConfig, keep_warm_s: float = 600.0) -> Iterator[Run]:
    """Give a run with one actor, as the engine makes it, and end it in peace."""
    job = StageJob("t2i", config, Storage(folder / name), name, "recipe")
    warm, pool_config = WarmActors(name, keep_warm_s), config.t2i.pool
    warm.look_around({"t2i": job}, {"t2i": 1})
    hooks = PoolHooks(lambda number: warm.start(job, pool_config, {}), lambda *_: None, lambda: None)  # type: ignore[arg-type,return-value]
    pool = StagePool("t2i", pool_config, 1, hooks, ProgressBoard(["t2i"], 1))
    try:
        yield Run(job, pool)
    finally:
        pool.close()
        warm.close()


def wait_until_none_is_left() -> None:
    ends_s = time.monotonic() + ENDS_WITHIN_S
    while left := list_warm():
        assert time.monotonic() < ends_s, left
        time.sleep(0.2)


@pytest.fixture
def config(local_ray: None, fake_overrides: tuple[str, ...]) -> Iterator[RunConfig]:
    """A small fake stage; afterwards the cluster has no warm actor."""
    yield load_config(overrides=fake_overrides)
    end_warm()
    wait_until_none_is_left()


def test_a_following_run_takes_an_actor_over_with_what_it_has_loaded(config: RunConfig, tmp_path: Path) -> None:
    with run("one", tmp_path, config) as one:
        first = one.make("a prompt")
        [shown] = list_warm()
        assert (shown.stage, shown.run_id) == ("t2i", "one")
    [shown] = list_warm()
    assert (shown.run_id, shown.idle_limit_s) == (None, 600.0)
    with run("two", tmp_path, config) as two:
        assert (again := two.make("a prompt")).actor_id == first.actor_id
        assert again.sha256 == first.sha256
        # While a run has it, it is nobody else's.
        with run("beside", tmp_path, config) as beside:
            assert beside.make("another").actor_id != first.actor_id
        assert end_warm() == 1
        assert two.make("a third").actor_id == first.actor_id
    log = next((tmp_path / "two" / "logs").iterdir()).read_text().splitlines()
    assert json.loads(log[0])["message"] == "actor taken over"


def test_what_does_not_fit_makes_room(config: RunConfig, fake_overrides: tuple[str, ...], tmp_path: Path) -> None:
    with run("one", tmp_path, config) as one:
        first = one.make("a prompt")
    other = load_config(overrides=(*fake_overrides, "t2i.guidance_scale=3.5"))
    # Without a wish to keep it, it ends with its run.
    with run("other", tmp_path, other, keep_warm_s=0.0) as another:
        assert another.make("a prompt").actor_id != first.actor_id
        assert list_warm() == []
    with run("one again", tmp_path, config) as again:
        assert again.make("a prompt").actor_id != first.actor_id
    with run("the last", tmp_path, config, keep_warm_s=0.0) as last:
        last.make("a prompt")
    wait_until_none_is_left()


def test_it_ends_by_itself(config: RunConfig, tmp_path: Path) -> None:
    with run("one", tmp_path, config, keep_warm_s=1.0) as one:
        one.make("a prompt")
        [actor] = one.pool.actors()
    wait_until_none_is_left()
    with pytest.raises(ProcessLookupError):
        for _ in range(300):
            os.kill(actor.pid, 0)
            time.sleep(0.1)
