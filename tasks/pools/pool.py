"""The pool of one stage: hands batches of clips to its actors, replaces those that die, and bounds every retry.

One thread serves each actor slot, with one batch in flight. Callers (Prefect task threads) block in `run` until each
of their clips has a result. Every wait and every retry has a bound in `PoolConfig`:

max_clip_attempts    tries of one clip that raised, killed its actor or hung: finds poison clips
max_actor_deaths     different clips, or starts, that one slot died on with no success between: finds bad machines;
                     above the former (`PoolConfig` checks it)
clip_timeout_s       one clip in an actor, reading and storing included
placement_timeout_s  work without a place for any actor
storage_patience_s   storage that does not answer
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import PoolExhaustedError, StorageLostError
from magicvideo_core.manifest.schema import ManifestRow, Status
from tasks.pools.actor import ClipWork, Effort, Raised, Reason, UpstreamLost
from tasks.pools.failures import Action, Failure, classify
from tasks.pools.remote import ActorInfo, PoolActor
from tasks.pools.storage_gate import StorageGate, backoff_s
from tasks.pools.work import Call, Pending, WorkQueue
from tasks.progress import ProgressBoard

logger = logging.getLogger(__name__)

_FIRST_RESTART_DELAY_S = 0.5
# A clip that outlives this many lost machines begins to be suspected of having a part in it.
_MAX_NODE_LOSSES = 10

# Makes the terminal row of a clip that the pool gives up, and makes it durable.
GiveUp = Callable[[ClipWork, Status, Reason, Effort | None], ManifestRow]


@dataclass(frozen=True)
class PoolHooks:
    """What a pool asks of the run that it works for; called from its threads, without its lock."""

    start_actor: Callable[[], PoolActor]
    give_up: GiveUp
    # Raises a TransientError or OSError while storage does not work.
    probe_storage: Callable[[], object]
    # The moment to call `drain` where no new work may be started.
    before_batch: Callable[[], object] = lambda: None


@dataclass
class _Slot:
    """The place of one actor; its strikes outlive the actors that fill it."""

    number: int
    actor: PoolActor | None = None
    placed: bool = False
    info: ActorInfo | None = None
    clips_done: int = 0
    starts: int = 0
    strikes: set[str] = field(default_factory=set)
    retired: bool = False
    busy: bool = False
    batch_started_s: float | None = None

    def batch_gpu_s(self) -> float:
        """Return the GPU-seconds that the batch in the actor has taken."""
        if self.batch_started_s is None or self.info is None:
            return 0.0
        return (time.monotonic() - self.batch_started_s) * self.info.gpu_share

    def empty(self) -> None:
        """Forget the actor."""
        self.actor, self.info, self.placed = None, None, False


class StagePool:
    """The actors of one stage. Starts them at once; `run` may be called from any number of threads."""

    def __init__(self, stage: str, config: PoolConfig, num_actors: int, hooks: PoolHooks, board: ProgressBoard) -> None:
        self._stage = stage
        self._config = config
        self._hooks = hooks
        self._board = board
        # Guards everything below; notified when work arrives, results arrive, or the pool drains or stops.
        self._changed = threading.Condition()
        self._queue = WorkQueue()
        self._stop_reason: BaseException | None = None
        self._drain_reason: BaseException | None = None
        self._last_success_s = time.monotonic()
        self._gpu_s = 0.0
        self._storage = StorageGate(hooks.probe_storage, config.storage_patience_s, self._stopping_within)
        self._slots = [_Slot(number) for number in range(num_actors)]
        self._live_slots = num_actors
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"{stage}-slot-{slot.number}", daemon=True)
            for slot in self._slots
        ]
        for thread in self._threads:
            thread.start()

    def run(self, works: Sequence[ClipWork]) -> list[ManifestRow | UpstreamLost]:
        """Return one result per clip, in any order: a durable row, or that what the clip reads is lost.

        Raises what `stop` or `drain` was given where clips are left: PoolExhaustedError when no actor is left to do
        them, StorageLostError when storage was away for too long. What was in flight is durable by then.
        """
        call = Call(len(works))
        with self._changed:
            if self._stop_reason is None and self._drain_reason is None:
                self._queue.extend(Pending(work, call) for work in works)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    call.remaining == 0
                    or self._stop_reason is not None
                    or (self._drain_reason is not None and call.in_flight == 0)
                )
            )
            if call.remaining:
                reason = self._stop_reason or self._drain_reason
                assert reason is not None
                raise reason
        return call.results

    def actors(self) -> list[ActorInfo]:
        """Return where the loaded actors run."""
        with self._changed:
            return [slot.info for slot in self._slots if slot.info is not None]

    def gpu_s(self) -> float:
        """Return the GPU-seconds that clips took so far: failed tries and what is in flight included."""
        with self._changed:
            return self._gpu_s + sum(slot.batch_gpu_s() for slot in self._slots)

    def drain(self, reason: BaseException) -> None:
        """Start no more work: what is in flight is finished, then callers with clips left get `reason`."""
        with self._changed:
            self._drain_reason = self._drain_reason or reason
            self._queue.clear()
            self._changed.notify_all()

    def wait_until_idle(self) -> None:
        """Wait until no clip is with an actor; of use after `drain`."""
        with self._changed:
            self._changed.wait_for(lambda: not any(slot.busy for slot in self._slots))

    def close(self) -> None:
        """End the pool in peace: stages give their devices back, then their processes end."""
        self.stop(PoolExhaustedError(f"The {self._stage} pool is closed."), kill=False)
        with self._changed:
            still_loading = [slot.actor for slot in self._slots if slot.actor is not None and slot.info is None]
        for actor in still_loading:
            actor.kill()
        for thread in self._threads:
            thread.join()

    def stop(self, reason: BaseException, *, kill: bool = True) -> None:
        """Give up all work now: callers get `reason`, actors are killed whatever they do."""
        with self._changed:
            self._stop_reason = self._stop_reason or reason
            self._queue.clear()
            actors = [slot.actor for slot in self._slots if slot.actor is not None]
            self._changed.notify_all()
        for actor in actors if kill else ():
            actor.kill()

    def _stopping_within(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._stop_reason is not None, timeout=timeout_s)

    # Below: the life of one slot, in its own thread

    def _serve(self, slot: _Slot) -> None:
        try:
            while self._ready(slot):
                self._storage.wait()
                self._hooks.before_batch()
                if batch := self._take(slot):
                    self._run_batch(slot, batch)
                    self._recycle(slot)
        except StorageLostError as error:
            self.stop(error)
        # A boundary: a bug here must reach the callers instead of leaving them waiting.
        except BaseException as error:
            logger.exception("the %s pool stopped", self._stage)
            self.stop(error)
        finally:
            if slot.actor is not None:
                slot.actor.close()

    def _ready(self, slot: _Slot) -> bool:
        """Wait until there is work and a loaded actor for it; False when the slot has to end."""
        while True:
            with self._changed:
                # The first actor loads at once, a later one only when there is something to do.
                while not (self._stop_reason is not None or slot.retired or slot.starts == 0):
                    delay_s = self._queue.delay_s(time.monotonic())
                    if delay_s == 0:
                        break
                    self._changed.wait(delay_s)
                if self._stop_reason is not None or slot.retired:
                    return False
            if slot.actor is not None and self._answers(slot, slot.actor):
                return True
            if slot.actor is None and not slot.retired:
                self._start(slot)

    def _answers(self, slot: _Slot, actor: PoolActor) -> bool:
        """Tell whether an idle actor still lives; one that does not is buried without blame on any clip."""
        try:
            actor.ping()
        except Exception as error:
            failure = classify(error, f"{self._stage} actor {slot.number}, idle")
            self._bury(slot, str(failure.error), None if actor.lost_its_node() else f"idle after start {slot.starts}")
            return False
        return True

    def _start(self, slot: _Slot) -> None:
        slot.starts += 1
        what = f"{self._stage} actor {slot.number}, start {slot.starts}"
        actor = self._hooks.start_actor()
        with self._changed:
            slot.actor = actor
            if self._stop_reason is not None:
                return
        try:
            if not actor.place():
                self._go_without_place(slot, actor)
                return
            slot.placed = True
            info = actor.load()
        except Exception as error:
            if self._stopping_within(0):
                return
            failure = classify(error, what)
            self._bury(slot, str(failure.error), what)
            if failure.action is Action.STOP_POOL:
                self.stop(failure.error)
            elif not slot.retired:
                self._stopping_within(min(_FIRST_RESTART_DELAY_S * 2 ** (slot.starts - 1), 10.0))
            return
        with self._changed:
            slot.info, slot.clips_done = info, 0

    def _go_without_place(self, slot: _Slot, actor: PoolActor) -> None:
        """Give up waiting for room; the pool lives as long as another of its actors has some."""
        actor.kill()
        with self._changed:
            slot.empty()
            stuck = bool(self._queue) and not any(other.placed for other in self._slots)
        if stuck:
            self.stop(
                PoolExhaustedError(
                    f"The {self._stage} pool has work, and in {self._config.placement_timeout_s:g} s "
                    f"(pool.placement_timeout_s) Ray found no room for an actor that takes {self._demand()}."
                )
            )

    def _demand(self) -> str:
        taken = {"CPU": self._config.num_cpus, "GPU": self._config.num_gpus, **self._config.resources}
        return ", ".join(f"{amount:g} {name}" for name, amount in taken.items() if amount)

    def _take(self, slot: _Slot) -> list[Pending]:
        """Take the next batch off the queue; empty when other slots were faster."""
        with self._changed:
            now_s = time.monotonic()
            batch = self._queue.take(self._config.batch_size, now_s)
            for pending in batch:
                pending.call.in_flight += 1
            slot.busy = bool(batch)
        self._board.start(self._stage, len(batch))
        return batch

    def _run_batch(self, slot: _Slot, batch: list[Pending]) -> None:
        actor, info = slot.actor, slot.info
        assert actor is not None and info is not None
        started_at, started_s, results, failure = datetime.now(UTC), time.monotonic(), None, None
        slot.batch_started_s = started_s
        try:
            results = actor.run([p.work for p in batch], timeout_s=self._config.clip_timeout_s * len(batch))
        except Exception as error:
            clips = ", ".join(pending.work.clip.clip_id for pending in batch)
            failure = classify(error, f"{self._stage} actor {slot.number}, clip {clips}")
        share_s = (time.monotonic() - started_s) / len(batch)
        effort = Effort(started_at, share_s, share_s * info.gpu_share, info.device, info.actor_id)
        with self._changed:
            self._gpu_s += slot.batch_gpu_s()
            slot.batch_started_s = None
            stopped = self._stop_reason is not None
        try:
            if results is not None:
                self._settle(slot, actor, batch, results, effort)
            elif failure is not None and not stopped:
                self._settle_failure(slot, actor, batch, failure, effort)
        finally:
            with self._changed:
                slot.busy = False
                self._changed.notify_all()

    def _settle(
        self, slot: _Slot, actor: PoolActor, batch: list[Pending], results: list[ManifestRow | Raised], effort: Effort
    ) -> None:
        """Take in what an actor returned."""
        by_id = {pending.work.clip.clip_id: pending for pending in batch}
        slot.clips_done += len(batch)
        worn_out = next((r for r in results if isinstance(r, Raised) and r.action is Action.REPLACE_ACTOR), None)
        if worn_out is None:
            slot.strikes.clear()
        else:
            actor.close()
            self._bury(slot, f"{worn_out.reason.error_type}: {worn_out.reason.error_message}", worn_out.clip_id)
        for result in results:
            pending = by_id.pop(result.clip_id)
            if isinstance(result, Raised):
                self._settle_raised(pending, result, in_company=len(batch) > 1)
            else:
                with self._changed:
                    self._last_success_s = time.monotonic()
                self._finish(pending, result)
        forgotten = Reason("RuntimeError", "the actor gave no result for the clip")
        for clip_id, pending in by_id.items():
            raised = Raised(clip_id, Action.RETRY_CLIP, forgotten, effort)
            self._settle_raised(pending, raised, in_company=len(batch) > 1)

    def _settle_failure(
        self, slot: _Slot, actor: PoolActor, batch: list[Pending], failure: Failure, effort: Effort
    ) -> None:
        """Do what follows where an actor returned nothing."""
        if failure.action is Action.STOP_POOL:
            self.stop(failure.error)
            return
        node_lost = failure.action is Action.REPLACE_ACTOR and actor.lost_its_node()
        if failure.action is Action.REPLACE_ACTOR:
            # Before the clips go back, so that a pool without a live slot stops instead of taking them.
            # One poison clip strikes once however often it kills: only different clips speak against the machine.
            self._bury(slot, str(failure.error), None if node_lost else batch[0].work.clip.clip_id)
        for pending in reversed(batch):
            if node_lost and pending.node_losses < _MAX_NODE_LOSSES:
                pending.node_losses += 1
                self._put_back(pending, first=True)
            else:
                raised = Raised(pending.work.clip.clip_id, failure.action, Reason.of(failure.error), effort)
                self._settle_raised(pending, raised, in_company=len(batch) > 1)

    def _settle_raised(self, pending: Pending, raised: Raised, *, in_company: bool) -> None:
        match raised.action:
            case Action.FAIL_CLIP:
                self._give_up(pending, "failed", raised.reason, raised.effort)
            case Action.REMAKE_UPSTREAM:
                assert raised.lost_stage is not None
                self._finish(pending, UpstreamLost(raised.clip_id, raised.lost_stage, raised.reason))
            case Action.AWAIT_STORAGE:
                self._await_storage(pending, raised)
            case _:
                self._try_again(pending, raised, in_company=in_company)

    def _try_again(self, pending: Pending, raised: Raised, *, in_company: bool) -> None:
        """Put a clip back into the queue, or give it up after its last attempt.

        Nobody in a larger batch is blamed: each goes alone from then on. A clip that took its actor with it goes
        first: it is quarantined before the pool meets enough other poison clips to take the machine for bad, so every
        run of the same clips gets further than the last.
        """
        pending.attempts += 0 if in_company else 1
        if pending.attempts < self._config.max_clip_attempts:
            pending.alone = True
            self._put_back(pending, first=raised.action is Action.REPLACE_ACTOR)
            return
        message = f"given up after {pending.attempts} attempts: {raised.reason.error_message}"
        self._give_up(pending, "quarantined", replace(raised.reason, error_message=message), raised.effort)

    def _await_storage(self, pending: Pending, raised: Raised) -> None:
        """Put a clip back unblamed, for when storage answers; where it does for all others, the clip fails."""
        now_s = time.monotonic()
        pending.storage_failures += 1
        since_s = pending.storage_failing_since_s = pending.storage_failing_since_s or now_s
        if now_s - since_s <= self._config.storage_patience_s:
            self._storage.shut()
            pending.not_before_s = now_s + backoff_s(pending.storage_failures)
            self._put_back(pending, first=False)
        elif self._last_success_s > since_s:
            self._give_up(pending, "failed", raised.reason, raised.effort)
        else:
            self.stop(
                StorageLostError(
                    f"Storage has failed clip {raised.clip_id} for {now_s - since_s:.0f} s "
                    f"(pool.storage_patience_s): {raised.reason.error_message}"
                )
            )

    def _put_back(self, pending: Pending, *, first: bool) -> None:
        self._board.put_back(self._stage, 1)
        with self._changed:
            pending.call.in_flight -= 1
            if self._stop_reason is None and self._drain_reason is None:
                self._queue.put_back(pending, first=first)
            self._changed.notify_all()

    def _give_up(self, pending: Pending, status: Status, reason: Reason, effort: Effort) -> None:
        row = self._storage.persist(lambda: self._hooks.give_up(pending.work, status, reason, effort))
        if row is not None:
            self._finish(pending, row)

    def _finish(self, pending: Pending, result: ManifestRow | UpstreamLost) -> None:
        if isinstance(result, ManifestRow):
            self._board.finish(result, was_running=True)
        else:
            self._board.put_back(self._stage, 1)
        with self._changed:
            pending.call.results.append(result)
            pending.call.remaining -= 1
            pending.call.in_flight -= 1
            self._changed.notify_all()

    def _recycle(self, slot: _Slot) -> None:
        """Replace an actor that has done its share, for stages that leak."""
        limit = self._config.recycle_after_clips
        if limit and slot.actor is not None and slot.clips_done >= limit:
            slot.actor.close()
            with self._changed:
                slot.empty()

    def _bury(self, slot: _Slot, error: str, strike: str | None) -> None:
        """End what is left of a broken actor; `strike` is what speaks against its slot, None where nothing does."""
        logger.warning("%s actor %d: %s", self._stage, slot.number, error)
        assert slot.actor is not None
        slot.actor.kill()
        with self._changed:
            slot.empty()
            if strike is not None:
                slot.strikes.add(strike)
            if slot.retired or len(slot.strikes) < self._config.max_actor_deaths:
                return
            slot.retired = True
            self._live_slots -= 1
            exhausted = self._live_slots == 0
        reason = f"{len(slot.strikes)} different clips or starts in a row ended an actor, the last with {error}"
        logger.error("%s actor %d is retired: %s", self._stage, slot.number, reason)
        if exhausted:
            self.stop(PoolExhaustedError(f"The {self._stage} pool has no live actor left: {reason}."))
