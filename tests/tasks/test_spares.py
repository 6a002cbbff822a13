"""Spare worker processes: who gets one and when, and that in a real Ray what replaces a dead actor takes it."""

import os
import signal
import time
from pathlib import Path

import pytest
import ray

from magicvideo_core.config import load_config
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage
from tasks.pools import spares
from tasks.pools.clip_work import ClipWork, StageJob, unfinished_row
from tasks.pools.pool import PoolHooks, StagePool
from tasks.pools.process import ActorInfo
from tasks.pools.remote import RayStageActor
from tasks.pools.scaler import PoolView
from tasks.pools.spares import Spares, start_worker
from tasks.progress import ProgressBoard

START_TIMEOUT_S = 120.0


class FakePool:
    """Actors on nodes as the test says, one of them still loading or none."""

    def __init__(self, *actors: tuple[str, str]) -> None:
        self.loaded, self.starting, self.left = list(actors), 0, 1

    def actors(self) -> list[ActorInfo]:
        return [ActorInfo(actor_id, node_id, 1) for actor_id, node_id in self.loaded]

    def view(self, use_over_load: float) -> PoolView:
        return PoolView(len(self.loaded), self.starting, 0, 0, self.left, None, 1.0, 0, 0, 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(spares, "SETTLED_S", 0.0)
    return []


def test_each_node_gets_one_and_another_after_each_replacement(asked: list[str]) -> None:
    t2i, v2v = FakePool(("a", "one"), ("b", "two")), FakePool(("c", "one"))
    looking = Spares({"t2i": t2i, "v2v": v2v}, asked.append)
    looking.look()
    looking.look()
    assert sorted(asked) == ["one", "two"]
    # One that ends takes none; what comes in its place does.
    v2v.loaded = []
    looking.look()
    v2v.loaded = [("d", "one")]
    looking.look()
    looking.look()
    assert sorted(asked) == ["one", "one", "two"]


def test_none_is_started_while_a_stage_with_work_still_loads(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    t2i, v2v = FakePool(("a", "one")), FakePool()
    v2v.starting = 1
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(spares, "SETTLED_S", 20.0)
    monkeypatch.setattr("tasks.pools.spares.time.monotonic", lambda: float(next(clock)))
    looking = Spares({"t2i": t2i, "v2v": v2v}, asked.append)
    for _ in range(20):
        looking.look()
    assert asked == []
    # A stage without work left is not waited for.
    v2v.left = 0
    looking.look()
    assert asked == []
    for _ in range(20):
        looking.look()
    assert asked == ["one"]


def test_none_is_started_for_a_run_that_is_about_to_end(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pool, clock_s = FakePool(("a", "one")), 0.0
    monkeypatch.setattr(spares, "SETTLED_S", 5.0)
    monkeypatch.setattr("tasks.pools.spares.time.monotonic", lambda: clock_s)
    looking = Spares({"t2i": pool}, asked.append)
    pool.left = 100
    looking.look()
    # Ten clips a second: half of the run is over, and the other half takes no longer.
    clock_s, pool.left = 5.0, 50
    looking.look()
    assert asked == []
    # It goes slower than it seemed.
    clock_s, pool.left = 20.0, 49
    looking.look()
    assert asked == ["one"]


def test_a_node_that_does_not_answer_is_asked_once(asked: list[str]) -> None:
    def fail(node_id: str) -> None:
        asked.append(node_id)
        raise ConnectionError(node_id)

    looking = Spares({"t2i": FakePool(("a", "one"))}, fail)
    looking.look()
    looking.look()
    assert asked == ["one"]


def worker_pids() -> set[int]:
    """Return the processes that the only node has for actors, at work or idle."""
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

    [node] = ray.nodes()
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        stub = node_manager_pb2_grpc.NodeManagerServiceStub(channel)
        return set(stub.GetWorkerPIDs(node_manager_pb2.GetWorkerPIDsRequest(), timeout=30.0).pids)


def test_the_replacement_of_a_dead_actor_takes_the_spare_process(
    local_ray: None, fake_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    config = load_config(overrides=fake_overrides)
    job = StageJob("t2i", config, Storage(tmp_path), "run", "recipe")
    hooks = PoolHooks(
        lambda number: RayStageActor(job, config.t2i.pool),
        lambda work, status, reason, effort: unfinished_row(job, work, status, reason, effort),
        lambda: None,
    )
    pool = StagePool("t2i", config.t2i.pool, 1, hooks, ProgressBoard(["t2i"], 2))
    try:
        pool.run([ClipWork(clip_of_prompt("one", 0), 0, 1)])
        [first] = pool.actors()
        before = worker_pids()
        start_worker(first.node_id)
        ends_s = time.monotonic() + START_TIMEOUT_S
        while not (there := worker_pids()) - before and time.monotonic() < ends_s:
            time.sleep(0.1)
        assert there - before, "no spare process came"
        os.kill(first.pid, signal.SIGKILL)
        pool.run([ClipWork(clip_of_prompt("two", 1), 0, 1)])
        [second] = pool.actors()
    finally:
        pool.close()
    assert second.actor_id != first.actor_id
    assert second.pid in there - {first.pid}
