"""Pools over actors that are objects of the test: dispatch, retries, replacement and every bound."""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import ray.exceptions

from magicvideo_core.clips import Clip
from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import (
    PoolExhaustedError,
    RunStoppedError,
    StorageLostError,
    StorageUnavailableError,
    WeightsError,
)
from magicvideo_core.manifest.schema import ManifestRow, Status
from tasks.pools.clip_work import ClipWork, Effort, Raised, Reason, Spent, UpstreamLost
from tasks.pools.failures import Action
from tasks.pools.pool import PoolHooks, StagePool
from tasks.pools.process import ActorInfo
from tasks.pools.turns import Turns
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
        self.dead = self.at_work = self.killed_at_work = False
        self.room: list[bool] = []
        self.read: list[str] = []
        self.results: dict[int, list[ManifestRow | Raised]] = {}
        self.node_losses: list[None] = []

    def place(self) -> bool:
        return self.room.pop(0) if self.room else True

    def ping(self) -> None:
        if self.dead:
            raise DIED()

    def was_cut_off(self) -> bool:
        return bool(self.node_losses) and self.node_losses.pop() is None

    def load(self) -> ActorInfo:
        if isinstance(self._load, Exception):
            raise self._load
        return ActorInfo(f"actor-{self.number}", "node", self.number, "cuda", gpu_share=0.5)

    def read_ahead(self, work: ClipWork) -> None:
        self.read.append(work.clip.clip_id)

    def compute(self, number: int, works: Sequence[ClipWork], timeout_s: float) -> Spent:
        self.log.append((self.number, tuple(each.clip.clip_id for each in works)))
        self.at_work, started_s = True, time.monotonic()
        self.results[number] = [self.behave(self, each) for each in works]
        self.at_work = False
        raised = [each for each in self.results[number] if isinstance(each, Raised)]
        return Spent(time.monotonic() - started_s, any(each.action is Action.REPLACE_ACTOR for each in raised))

    def collect(self, number: int, timeout_s: float) -> list[ManifestRow | Raised]:
        return self.results.pop(number)

    def close(self) -> None:
        self.kill()

    def leave(self) -> None:
        self.close()

    def kill(self) -> None:
        self.killed_at_work = self.killed_at_work or self.at_work
        self.killed.set()


class Harness:
    """A pool of scripted actors, with what they did and which clips were given up."""

    def __init__(
        self,
        behave: Behaviour,
        num_actors: int = 1,
        load: Any = None,
        *,
        probe: Callable[[], None] = lambda: None,
        before_batch: Callable[[], object] = lambda: None,
        room: list[bool] | None = None,
        node_losses: int = 0,
        kind: type[ScriptedActor] = ScriptedActor,
        may_run_ahead: Callable[[], bool] = lambda: True,
        **config: Any,
    ) -> None:
        self.log: list[tuple[int, tuple[str, ...]]] = []
        self.actors: list[ScriptedActor] = []
        self.board = ProgressBoard(["t2i"], 20)

        losses = [None] * node_losses

        def start(number: int) -> ScriptedActor:
            actor = kind(len(self.actors), self.log, behave, load)
            actor.room, actor.node_losses = room if room is not None else [], losses
            self.actors.append(actor)
            return actor

        def give_up(work: ClipWork, status: Status, reason: Reason, effort: Effort | None) -> ManifestRow:
            return row(
                work.clip.clip_id,
                status,
                error_type=reason.error_type,
                error_message=reason.error_message,
                duration_s=effort.duration_s if effort else None,
            )

        hooks = PoolHooks(start, give_up, probe, before_batch, may_run_ahead)
        self.turns = Turns()
        self.pool = StagePool("t2i", PoolConfig(**config), num_actors, hooks, self.board, self.turns)

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
    harness = Harness(succeed, num_actors=3, batch_size=2, max_call_clips=1)
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


def test_clips_that_take_milliseconds_go_several_in_one_call() -> None:
    harness = Harness(succeed, max_call_clips=5)
    harness.run(*(f"clip-{number}" for number in range(40)))
    harness.pool.close()
    sizes = [len(clips) for _, clips in harness.log]
    assert sizes[:8] == [1] * 8, "first it has to show how long they take"
    assert max(sizes) == 5


def test_what_a_call_waits_for_does_not_make_calls_smaller() -> None:
    class Waiting(ScriptedActor):
        def compute(self, number: int, works: Sequence[ClipWork], timeout_s: float) -> Spent:
            time.sleep(0.15)
            return super().compute(number, works, timeout_s)

    harness = Harness(succeed, kind=Waiting, max_call_clips=5)
    harness.run(*(f"clip-{number}" for number in range(20)))
    harness.pool.close()
    assert max(len(clips) for _, clips in harness.log) == 5


def test_clips_that_take_longer_go_one_by_one() -> None:
    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        time.sleep(0.15)
        return succeed(actor, work)

    harness = Harness(behave)
    harness.run(*(f"clip-{number}" for number in range(12)))
    harness.pool.close()
    assert [len(clips) for _, clips in harness.log] == [1] * 12


def test_a_death_in_a_call_of_several_clips_takes_only_the_one_that_caused_it() -> None:
    names = [f"clip-{number}" for number in range(30)]
    harness = Harness(failing(DIED, "clip-20"), max_clip_attempts=1, max_actor_deaths=2)
    rows = harness.run(*names)
    harness.pool.close()
    assert {name for name in names if rows[name].status != "succeeded"} == {"clip-20"}
    [together] = [clips for _, clips in harness.log if "clip-20" in clips and len(clips) > 1]
    assert {len(clips) for _, clips in harness.log if set(clips) <= set(together) and clips != together} == {1}


def test_what_a_worn_out_actor_did_not_begin_counts_as_no_try() -> None:
    class WearsOut(ScriptedActor):
        def collect(self, number: int, timeout_s: float) -> list[ManifestRow | Raised]:
            results = super().collect(number, timeout_s)
            broken = next((index for index, result in enumerate(results) if isinstance(result, Raised)), len(results))
            return results[: broken + 1]

    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow | Raised:
        if work.clip.clip_id != "clip-12":
            return succeed(actor, work)
        return Raised(work.clip.clip_id, Action.REPLACE_ACTOR, Reason("MemoryError", "no more"), EFFORT)

    names = [f"clip-{number}" for number in range(30)]
    harness = Harness(behave, kind=WearsOut, max_clip_attempts=1, max_actor_deaths=2)
    rows = harness.run(*names)
    harness.pool.close()
    assert {name for name in names if rows[name].status != "succeeded"} == {"clip-12"}
    assert len(harness.actors) == 2


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
    monkeypatch.setattr("tasks.pools.lives._FIRST_RESTART_DELAY_S", 0.0)
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
        def collect(self, number: int, timeout_s: float) -> list[ManifestRow | Raised]:
            return super().collect(number, timeout_s)[: 1 if len(self.log) > 1 else 0]

    harness = Harness(succeed)
    harness.pool.close()
    log: list[tuple[int, tuple[str, ...]]] = []
    hooks = PoolHooks(lambda number: Forgetful(0, log, succeed, None), lambda *a: row("x"), lambda: None)
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


def test_a_drained_pool_finishes_what_is_in_flight_and_starts_nothing_else() -> None:
    def wait(actor: ScriptedActor, work: ClipWork) -> ManifestRow | Raised:
        running.set()
        drained.wait(timeout=20)
        return succeed(actor, work) if work.clip.clip_id == "a" else failing(None, "b")(actor, work)

    running, drained = threading.Event(), threading.Event()
    harness = Harness(wait, batch_size=2)
    raised: list[BaseException] = []

    def call() -> None:
        try:
            harness.run(*"abcd")
        except RunStoppedError as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    running.wait(timeout=20)
    harness.pool.drain(RunStoppedError("the deadline is reached"))
    drained.set()
    harness.pool.wait_until_idle()
    caller.join(timeout=20)
    counts = harness.board.snapshot()["t2i"]
    harness.pool.close()
    assert [str(error) for error in raised] == ["the deadline is reached"]
    # b raised: another try would be new work.
    assert (counts.succeeded, counts.running, counts.pending) == (1, 0, 19)
    assert harness.log == [(0, ("a", "b"))]
    assert not harness.actors[0].killed_at_work


def test_a_budget_that_is_used_up_between_batches_drains_the_pool() -> None:
    harness = Harness(
        succeed, before_batch=lambda: len(harness.log) == 2 and harness.pool.drain(RunStoppedError("spent"))
    )
    with pytest.raises(RunStoppedError, match="spent"):
        harness.run(*"abcd")
    harness.pool.close()
    assert len(harness.log) == 2
    assert harness.pool.gpu_s() > 0


def test_storage_trouble_blames_no_clip_and_nothing_is_computed_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pools.storage_gate._FIRST_DELAY_S", 0.01)
    failures = {"b": 5}

    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow | Raised:
        name = work.clip.clip_id
        if failures.get(name, 0) == 0:
            return succeed(actor, work)
        failures[name] -= 1
        away.append(2)
        return unstored(name)

    def probe() -> None:
        if away and away[-1]:
            away[-1] -= 1
            raise StorageUnavailableError("no answer")

    away: list[int] = []
    harness = Harness(behave, max_clip_attempts=1, probe=probe)
    rows = harness.run("a", "b", "c")
    harness.pool.close()
    assert {each.status for each in rows.values()} == {"succeeded"}
    assert away == [0] * 5, "each time the pool waited until storage answered"
    assert len(harness.log) == 8


def unstored(name: str) -> Raised:
    reason = Reason("StorageUnavailableError", "Could not store it")
    return Raised(name, Action.AWAIT_STORAGE, reason, EFFORT)


def test_the_patience_with_storage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe() -> None:
        raise PermissionError("the token has expired")

    monkeypatch.setattr("tasks.pools.storage_gate._FIRST_DELAY_S", 0.01)
    harness = Harness(lambda actor, work: unstored(work.clip.clip_id), probe=probe, storage_patience_s=0.1)
    with pytest.raises(StorageLostError, match=r"within 0\.1 s .*the token has expired"):
        harness.run("a", "b", "c", "d")
    harness.pool.close()
    # A second one may have been computed while the first was found not to be stored.
    assert len(harness.log) <= 2


def test_a_full_disk_that_can_be_read_ends_the_patience_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow | Raised:
        time.sleep(0.02)
        return succeed(actor, work) if work.clip.clip_id == "clip-0" else unstored(work.clip.clip_id)

    monkeypatch.setattr("tasks.pools.storage_gate._FIRST_DELAY_S", 0.01)
    harness = Harness(behave, storage_patience_s=0.1)
    with pytest.raises(StorageLostError, match=r"taken nothing for .* clips in a row: Could not store it"):
        harness.run(*(f"clip-{number}" for number in range(100)))
    harness.pool.close()
    assert 3 < len(harness.log) < 50, "not once for every clip that waits"


def test_a_clip_whose_storage_alone_does_not_answer_fails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow | Raised:
        return unstored("bad") if work.clip.clip_id == "bad" else succeed(actor, work)

    monkeypatch.setattr("tasks.pools.storage_gate._FIRST_DELAY_S", 0.05)
    harness = Harness(behave, storage_patience_s=0.01)
    rows = harness.run("bad", "a", "b")
    harness.pool.close()
    assert (rows["bad"].status, rows["bad"].error_type) == ("failed", "StorageUnavailableError")
    assert {rows[name].status for name in "ab"} == {"succeeded"}


def test_a_lost_upstream_goes_back_to_the_caller_without_a_row() -> None:
    lost = Raised("a", Action.REMAKE_UPSTREAM, Reason("UpstreamLostError", "gone"), EFFORT, lost_stage="t2i")
    harness = Harness(lambda actor, each: lost if each.clip.clip_id == "a" else succeed(actor, each))
    results = harness.pool.run([work("a"), work("b")])
    harness.pool.close()
    assert sorted(results, key=lambda each: each.clip_id) == [UpstreamLost("a", "t2i", lost.reason), row("b")]
    counts = harness.board.snapshot()["t2i"]
    assert (counts.succeeded, counts.running, counts.pending) == (1, 0, 19)


def test_what_only_mending_the_input_heals_fails_at_once() -> None:
    unreadable = Raised("a", Action.FAIL_CLIP, Reason("GivenMediaError", "no such image"), EFFORT)
    harness = Harness(lambda actor, work: unreadable)
    rows = harness.run("a")
    harness.pool.close()
    assert (rows["a"].status, rows["a"].error_type, len(harness.log)) == ("failed", "GivenMediaError", 1)


def test_memory_used_up_costs_the_actor_and_in_the_end_the_clip() -> None:
    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow | Raised:
        greedy = Raised("bad", Action.REPLACE_ACTOR, Reason("MemoryError", "no more"), EFFORT)
        return greedy if work.clip.clip_id == "bad" else succeed(actor, work)

    harness = Harness(behave)
    rows = harness.run("a", "bad", "b")
    harness.pool.close()
    assert (rows["bad"].status, rows["bad"].error_type) == ("quarantined", "MemoryError")
    # An actor without memory gets no other clip.
    assert len(harness.actors) == 4
    assert [number for number, clips in harness.log if clips == ("b",)] == [3]
    assert rows["bad"].duration_s == EFFORT.duration_s


def test_a_lost_machine_speaks_neither_against_the_clip_nor_against_the_slot() -> None:
    harness = Harness(failing(DIED, "bad"), max_clip_attempts=1, max_actor_deaths=2, node_losses=5)
    rows = harness.run("bad", "a")
    harness.pool.close()
    assert [rows[name].status for name in ("bad", "a")] == ["quarantined", "succeeded"]
    assert len(harness.log) == 5 + 1 + 1


def test_running_out_of_time_without_storage_is_not_the_clips_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pools.storage_gate._FIRST_DELAY_S", 0.01)

    def probe() -> None:
        if len(probes) < 3:
            probes.append(len(harness.log))
            raise StorageUnavailableError("no answer")

    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        if len(harness.log) == 1:
            raise HUNG()
        return row(work.clip.clip_id)

    probes: list[int] = []
    harness = Harness(behave, max_clip_attempts=1, max_actor_deaths=2, probe=probe)
    rows = harness.run("a")
    harness.pool.close()
    assert (rows["a"].status, len(harness.actors)) == ("succeeded", 2)
    assert probes == [1, 1, 1], "nothing was computed before storage answered"


def test_an_actor_that_died_idle_is_replaced_before_it_gets_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.pools.pool._PING_AFTER_S", 0.0)
    harness = Harness(succeed, max_clip_attempts=1)
    harness.run("a")
    harness.actors[0].dead = True
    rows = harness.run("b")
    harness.pool.close()
    assert (rows["b"].status, harness.log) == ("succeeded", [(0, ("a",)), (1, ("b",))])


def test_work_without_room_for_an_actor_raises_and_idle_pools_wait() -> None:
    harness = Harness(succeed, room=[False, False], num_cpus=3)
    with pytest.raises(PoolExhaustedError, match="found no room for an actor that takes 3 CPU"):
        harness.run("a")
    harness.pool.close()


def test_a_pool_lives_as_long_as_one_of_its_actors_has_room() -> None:
    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        seen.wait(timeout=20)
        return succeed(actor, work)

    class Rooms(list[bool]):
        """The first to ask has room, all others have none."""

        def pop(self, index: Any = 0) -> bool:
            if not first.is_set():
                first.set()
                return True
            seen.set()
            return False

    first, seen = threading.Event(), threading.Event()
    harness = Harness(behave, num_actors=2, room=Rooms([True]))
    rows = harness.run("a", "b")
    harness.pool.close()
    assert {each.status for each in rows.values()} == {"succeeded"}


def test_the_device_goes_on_while_the_batch_before_is_stored() -> None:
    class Slow(ScriptedActor):
        """Stores the first clip only when the second one has been computed."""

        def collect(self, number: int, timeout_s: float) -> list[ManifestRow | Raised]:
            if number == 1:
                assert computed.wait(timeout=20)
            return super().collect(number, timeout_s)

    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        if work.clip.clip_id == "b":
            computed.set()
        return row(work.clip.clip_id)

    computed = threading.Event()
    harness = Harness(behave, kind=Slow)
    assert len(harness.run("a", "b", "c")) == 3
    harness.pool.close()


def test_a_death_while_the_clip_before_is_stored_blames_neither_and_each_goes_alone() -> None:
    class Dies(ScriptedActor):
        """Dies as soon as it has computed the poison, and loses what it was storing."""

        def collect(self, number: int, timeout_s: float) -> list[ManifestRow | Raised]:
            if self.number == 0 and number == 1:
                assert dying.wait(timeout=20)
                raise DIED()
            return super().collect(number, timeout_s)

    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        if work.clip.clip_id == "poison":
            dying.set()
            raise DIED()
        return row(work.clip.clip_id)

    dying = threading.Event()
    harness = Harness(behave, kind=Dies, max_clip_attempts=1, max_actor_deaths=2)
    rows = harness.run("innocent", "poison", "c")
    harness.pool.close()
    assert {name: each.status for name, each in rows.items()} == {
        "innocent": "succeeded",
        "poison": "quarantined",
        "c": "succeeded",
    }
    assert harness.log[:4] == [(0, ("innocent",)), (0, ("poison",)), (1, ("innocent",)), (1, ("poison",))]


def test_nothing_is_started_whose_results_would_only_wait() -> None:
    room = threading.Event()
    harness = Harness(succeed, may_run_ahead=room.is_set)
    caller = threading.Thread(target=harness.run, args=("a", "b"))
    caller.start()
    caller.join(timeout=0.2)
    assert (caller.is_alive(), harness.log) == (True, [])
    room.set()
    harness.turns.look()
    caller.join(timeout=20)
    harness.pool.close()
    assert len(harness.log) == 2


def test_an_actor_that_is_given_up_finishes_its_batch_and_another_can_come() -> None:
    def behave(actor: ScriptedActor, work: ClipWork) -> ManifestRow:
        running.set()
        assert go_on.wait(timeout=20)
        return row(work.clip.clip_id)

    running, go_on = threading.Event(), threading.Event()
    harness = Harness(behave)
    caller = threading.Thread(target=harness.run, args=("a", "b"))
    caller.start()
    running.wait(timeout=20)
    harness.pool.shrink("any")
    assert harness.pool.view(2.0).actors == 0
    go_on.set()
    harness.actors[0].killed.wait(timeout=20)
    harness.pool.grow()
    caller.join(timeout=20)
    harness.pool.close()
    assert harness.log == [(0, ("a",)), (1, ("b",))]
