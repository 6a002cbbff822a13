"""Pools over actors that are objects of the test: dispatch, retries, replacement and every bound."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import ray.exceptions

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import PoolExhaustedError, WeightsError
from magicvideo_core.manifest.schema import ManifestRow, Status
from magicvideo_core.prompts import Clip
from tasks.pools.actor import ClipWork, Effort, Raised, Reason
from tasks.pools.failures import Action
from tasks.pools.pool import PoolHooks, StagePool
from tasks.pools.remote import ActorInfo
from tasks.progress import ProgressBoard

EFFORT = Effort(datetime.now(UTC), 1.0, 0.5, "cuda", "actor")
Behaviour = Callable[["ScriptedActor", ClipWork], ManifestRow | Raised]
DIED = ray.exceptions.ActorDiedError
HUNG = ray.exceptions.GetTimeoutError


def work(name: str) -> ClipWork:
    """Return the work of a clip that carries its name as id and prompt."""
    return ClipWork(Clip(name, name), shard_id=0, attempt=1)


def row(name: str, status: Status = "succeeded", **values: Any) -> ManifestRow:
    """Return a terminal row of stage t2i."""
    return ManifestRow(
        run_id="r", clip_id=name, shard_id=0, stage="t2i", attempt=1, status=status, prompt=name, seed=0, **values
    )


class ScriptedActor:
    """An actor that does what the test says, in the thread of its slot."""

    def __init__(self, number: int, log: list[tuple[int, tuple[str, ...]]], behave: Behaviour, load: Any) -> None:
        self.number, self.log, self.behave, self._load = number, log, behave, load
        self.killed = threading.Event()

    def place(self) -> bool:
        return True

    def ping(self) -> None:
        pass

    def lost_its_node(self) -> bool:
        return False

    def load(self) -> ActorInfo:
        if isinstance(self._load, Exception):
            raise self._load
        return ActorInfo(f"actor-{self.number}", "node", self.number)

    def run(self, works: Sequence[ClipWork], timeout_s: float) -> list[ManifestRow | Raised]:
        self.log.append((self.number, tuple(each.clip.clip_id for each in works)))
        return [self.behave(self, each) for each in works]

    def close(self) -> None:
        self.killed.set()

    def kill(self) -> None:
        self.killed.set()


class Harness:
    """A pool of scripted actors, with what they did and which clips were given up."""

    def __init__(self, behave: Behaviour, num_actors: int = 1, load: Any = None, **config: Any) -> None:
        self.log: list[tuple[int, tuple[str, ...]]] = []
        self.actors: list[ScriptedActor] = []
        self.board = ProgressBoard(["t2i"], 20)

        def start() -> ScriptedActor:
            self.actors.append(ScriptedActor(len(self.actors), self.log, behave, load))
            return self.actors[-1]

        def give_up(work: ClipWork, status: Status, reason: Reason, effort: Effort | None) -> ManifestRow:
            return row(work.clip.clip_id, status, error_type=reason.error_type, error_message=reason.error_message)

        hooks = PoolHooks(start, give_up, lambda: None)
        self.pool = StagePool("t2i", PoolConfig(**config), num_actors, hooks, self.board)

    def run(self, *names: str) -> dict[str, ManifestRow]:
        rows = [result for result in self.pool.run([work(name) for name in names]) if isinstance(result, ManifestRow)]
        assert sorted(each.clip_id for each in rows) == sorted(names), "exactly one row per clip"
        return {each.clip_id: each for each in rows}


def succeed(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
    return row(work.clip.clip_id)


def failing(error: type[Exception] | None, *names: str) -> Behaviour:
    """Return the behaviour of dying with `error` (or raising in the code, for None) on some clips."""

    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow | Raised:
        if work.clip.clip_id not in names:
            return row(work.clip.clip_id)
        if error is None:
            return Raised(work.clip.clip_id, Action.RETRY_CLIP, Reason("ValueError", "as the test asked"), EFFORT)
        raise error()

    return behave


def test_every_clip_gets_one_row_from_several_callers_at_once() -> None:
    harness = Harness(succeed, num_actors=3, batch_size=2)
    found: list[dict[str, ManifestRow]] = []
    callers = [
        threading.Thread(target=lambda n=n: found.append(harness.run(*(f"{n}-{i}" for i in range(5)))))
        for n in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    harness.pool.close()
    assert len({name for rows in found for name in rows}) == 20
    assert harness.board.snapshot()["t2i"].succeeded == 20
    assert all(len(batch) <= 2 for _, batch in harness.log)


def test_a_raising_clip_is_quarantined_after_its_attempts_and_keeps_the_actor() -> None:
    harness = Harness(failing(None, "bad"), max_clip_attempts=3)
    rows = harness.run("a", "bad", "b")
    harness.pool.close()
    assert (rows["bad"].status, rows["bad"].error_type) == ("quarantined", "ValueError")
    assert "3 attempts" in str(rows["bad"].error_message)
    assert [batch for _, batch in harness.log].count(("bad",)) == 3
    assert len(harness.actors) == 1
    counts = harness.board.snapshot()["t2i"]
    assert (counts.running, counts.succeeded, counts.quarantined) == (0, 2, 1)


@pytest.mark.parametrize(("error", "error_type"), [(DIED, "ActorDiedError"), (HUNG, "ClipTimeoutError")])
def test_a_killing_or_hanging_clip_is_quarantined_and_its_actors_replaced(
    error: type[Exception], error_type: str
) -> None:
    harness = Harness(failing(error, "bad"), max_clip_attempts=3)
    rows = harness.run("a", "bad", "b", "c")
    harness.pool.close()
    assert (rows["bad"].status, rows["bad"].error_type) == ("quarantined", error_type)
    assert {rows[name].status for name in "abc"} == {"succeeded"}
    assert len(harness.actors) == 4
    assert all(actor.killed.is_set() for actor in harness.actors), "whatever is left of an actor is killed"


def test_batch_mates_of_a_poison_clip_are_tried_alone_and_succeed() -> None:
    harness = Harness(failing(DIED, "bad"), batch_size=4)
    rows = harness.run("a", "b", "bad", "c")
    harness.pool.close()
    assert {name: each.status for name, each in rows.items()} == {
        "a": "succeeded",
        "b": "succeeded",
        "bad": "quarantined",
        "c": "succeeded",
    }
    assert all(len(batch) == 1 for _, batch in harness.log[1:])


def test_three_poison_clips_do_not_use_up_the_pool() -> None:
    harness = Harness(failing(DIED, "x", "y", "z"), max_clip_attempts=3, max_actor_deaths=4)
    rows = harness.run("x", "y", "z", "a")
    harness.pool.close()
    assert [rows[name].status for name in "xyza"] == ["quarantined"] * 3 + ["succeeded"]


def test_an_actor_slot_that_dies_on_everything_is_retired_and_the_rest_goes_on() -> None:
    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        # Every second start is on the bad machine; the good one waits for it to show itself.
        if actor.number != 0:
            raise DIED()
        bad_slot_done.wait(timeout=20)
        return row(work.clip.clip_id)

    bad_slot_done = threading.Event()
    harness = Harness(behave, num_actors=2, max_clip_attempts=1, max_actor_deaths=2)
    done: list[dict[str, ManifestRow]] = []
    caller = threading.Thread(target=lambda: done.append(harness.run(*"abcde")))
    caller.start()
    while len(harness.log) < 3:
        caller.join(timeout=0.01)
    bad_slot_done.set()
    caller.join(timeout=20)
    harness.pool.close()
    statuses = sorted(each.status for each in done[0].values())
    assert statuses == ["quarantined"] * 2 + ["succeeded"] * 3


def test_work_without_a_live_actor_raises() -> None:
    harness = Harness(failing(DIED, *"abcdefgh"), max_clip_attempts=1, max_actor_deaths=3)
    with pytest.raises(PoolExhaustedError, match="t2i pool has no live actor"):
        harness.run(*"abcdefgh")
    with pytest.raises(PoolExhaustedError):
        harness.run("later")
    harness.pool.close()


def test_actors_that_cannot_start_exhaust_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pools.pool._FIRST_RESTART_DELAY_S", 0.0)
    harness = Harness(succeed, load=DIED(), max_clip_attempts=1, max_actor_deaths=2)
    with pytest.raises(PoolExhaustedError, match="2 different clips or starts"):
        harness.run("a")
    harness.pool.close()
    assert len(harness.actors) == 2


def test_wrong_weights_reach_the_caller_at_once() -> None:
    cause = WeightsError("Weights 'x' are missing.")
    harness = Harness(succeed, load=ray.exceptions.RayTaskError("load", "traceback", cause))
    with pytest.raises(WeightsError, match="are missing"):
        harness.run("a")
    harness.pool.close()
    assert len(harness.actors) == 1


def test_a_missing_result_is_tried_again() -> None:
    class Forgetful(ScriptedActor):
        def run(self, works: Sequence[ClipWork], timeout_s: float) -> list[ManifestRow | Raised]:
            return super().run(works, timeout_s)[: 1 if len(self.log) > 1 else 0]

    harness = Harness(succeed)
    harness.pool.close()
    log: list[tuple[int, tuple[str, ...]]] = []
    hooks = PoolHooks(lambda: Forgetful(0, log, succeed, None), lambda *a: row("x"), lambda: None)
    pool = StagePool("t2i", PoolConfig(), 1, hooks, ProgressBoard(["t2i"], 1))
    assert pool.run([work("a")]) == [row("a")]
    pool.close()
    assert len(log) == 2


def test_an_actor_is_recycled_after_its_share() -> None:
    harness = Harness(succeed, recycle_after_clips=2)
    harness.run(*"abcde")
    harness.pool.close()
    assert [number for number, _ in harness.log] == [0, 0, 1, 1, 2]


def test_stop_wakes_the_callers_and_kills_the_actors() -> None:
    def hang(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        running.set()
        actor.killed.wait()
        raise DIED()

    running = threading.Event()
    harness = Harness(hang)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            harness.run("a", "b")
        except KeyboardInterrupt as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    running.wait()
    harness.pool.stop(KeyboardInterrupt("enough"))
    caller.join()
    harness.pool.close()
    assert len(raised) == 1
