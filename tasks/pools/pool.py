"""The pool of one stage: hands batches of clips to its actors, replaces those that die, and bounds every retry.

One thread serves each actor slot, with one batch in flight. Callers (Prefect task threads) block in `run` until each
of their clips has a terminal row. Two bounds end every retry, the first below the second (`PoolConfig` checks it):

max_clip_attempts   tries of one clip that raised, killed its actor or hung: finds poison clips
max_actor_deaths    different clips, or starts, that one slot died on with no success between: finds bad machines
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import PoolExhaustedError
from magicvideo_core.manifest.schema import ManifestRow, Status
from tasks.pools.actor import ClipWork, Raised, Reason
from tasks.pools.failures import Action, classify
from tasks.pools.remote import ActorInfo, PoolActor
from tasks.progress import ProgressBoard

logger = logging.getLogger(__name__)

_FIRST_RESTART_DELAY_S = 0.5

# Makes the terminal row of a clip that the pool gives up, and makes it durable.
GiveUp = Callable[[ClipWork, Status, Reason], ManifestRow]


@dataclass
class _Call:
    """One call of `run`: the rows so far, and how many clips are still without one."""

    remaining: int
    rows: list[ManifestRow] = field(default_factory=list)


@dataclass
class _Pending:
    """A clip waiting for an actor. After a failure whose culprit is unknown it goes alone."""

    work: ClipWork
    call: _Call
    attempts: int = 0
    alone: bool = False


@dataclass
class _Slot:
    """The place of one actor; its strikes outlive the actors that fill it."""

    number: int
    actor: PoolActor | None = None
    info: ActorInfo | None = None
    clips_done: int = 0
    starts: int = 0
    strikes: set[str] = field(default_factory=set)
    retired: bool = False


class StagePool:
    """The actors of one stage. Starts them at once; `run` may be called from any number of threads."""

    def __init__(
        self,
        stage: str,
        config: PoolConfig,
        num_actors: int,
        start_actor: Callable[[], PoolActor],
        give_up: GiveUp,
        board: ProgressBoard,
    ) -> None:
        self._stage = stage
        self._config = config
        self._start_actor = start_actor
        self._give_up = give_up
        self._board = board
        self._queue: deque[_Pending] = deque()
        # Guards everything below and the queue; notified when work arrives, rows arrive or the pool stops.
        self._changed = threading.Condition()
        self._stop_reason: BaseException | None = None
        self._slots = [_Slot(number) for number in range(num_actors)]
        self._live_slots = num_actors
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), name=f"pool-{stage}-{slot.number}", daemon=True)
            for slot in self._slots
        ]
        for thread in self._threads:
            thread.start()

    def run(self, works: Sequence[ClipWork]) -> list[ManifestRow]:
        """Return one terminal row per clip, in any order; blocks until all are there.

        Raises what stopped the pool: PoolExhaustedError, an InputError of the stage, or the reason given to `stop`.
        """
        call = _Call(remaining=len(works))
        with self._changed:
            self._queue.extend(_Pending(work, call) for work in works)
            self._changed.notify_all()
            self._changed.wait_for(lambda: call.remaining == 0 or self._stop_reason is not None)
            if call.remaining:
                assert self._stop_reason is not None
                raise self._stop_reason
        return call.rows

    def actors(self) -> list[ActorInfo]:
        """Return where the loaded actors run."""
        with self._changed:
            return [slot.info for slot in self._slots if slot.info is not None]

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

    # Below: the life of one slot, in its own thread

    def _serve(self, slot: _Slot) -> None:
        try:
            while self._ready(slot):
                if batch := self._take():
                    self._run_batch(slot, batch)
                    self._recycle(slot)
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
                self._changed.wait_for(
                    lambda: self._queue or self._stop_reason is not None or slot.retired or slot.starts == 0
                )
                if self._stop_reason is not None or slot.retired:
                    return False
            if slot.actor is not None:
                return True
            if not self._start(slot) and len(slot.strikes) >= self._config.max_actor_deaths:
                self._retire(slot, f"its actors failed to start {slot.starts} times")

    def _start(self, slot: _Slot) -> bool:
        slot.starts += 1
        what = f"{self._stage} actor {slot.number}, start {slot.starts}"
        actor = self._start_actor()
        with self._changed:
            slot.actor = actor
            if self._stop_reason is not None:
                return False
        try:
            info = actor.load()
        except Exception as error:
            failure = classify(error, what)
            actor.kill()
            with self._changed:
                slot.actor = None
                slot.strikes.add(what)
                stopping = self._stop_reason is not None
            if failure.action is Action.STOP_POOL and not stopping:
                self.stop(failure.error)
            elif not stopping:
                logger.warning("%s failed: %s: %s", what, type(failure.error).__name__, failure.error)
                with self._changed:
                    delay_s = _FIRST_RESTART_DELAY_S * 2 ** (slot.starts - 1)
                    self._changed.wait_for(lambda: self._stop_reason is not None, timeout=min(delay_s, 10.0))
            return False
        with self._changed:
            slot.info, slot.clips_done = info, 0
        return True

    def _take(self) -> list[_Pending]:
        """Take the next batch off the queue; empty when other slots were faster."""
        with self._changed:
            batch: list[_Pending] = []
            while self._queue and len(batch) < self._config.batch_size:
                if self._queue[0].alone and batch:
                    break
                batch.append(self._queue.popleft())
                if batch[-1].alone:
                    break
        self._board.start(self._stage, len(batch))
        return batch

    def _run_batch(self, slot: _Slot, batch: list[_Pending]) -> None:
        assert slot.actor is not None
        by_id = {pending.work.clip.clip_id: pending for pending in batch}
        what = f"{self._stage} actor {slot.number}, clip {', '.join(by_id)}"
        try:
            results = slot.actor.run([p.work for p in batch], timeout_s=self._config.clip_timeout_s * len(batch))
        except Exception as error:
            with self._changed:
                if self._stop_reason is not None:
                    return
            failure = classify(error, what)
            if failure.action is Action.STOP_POOL:
                self.stop(failure.error)
                return
            if failure.action is Action.REPLACE_ACTOR:
                self._bury(slot, batch, failure.error)
            status: Status = "quarantined" if failure.action is Action.REPLACE_ACTOR else "failed"
            for pending in reversed(batch):
                self._try_again(pending, status, Reason.of(failure.error))
            return
        slot.strikes.clear()
        slot.clips_done += len(batch)
        for result in results:
            pending = by_id.pop(result.clip_id)
            if isinstance(result, Raised):
                self._try_again(pending, "failed", result.reason)
            else:
                self._finish(pending, result)
        for pending in by_id.values():
            self._try_again(pending, "failed", Reason("RuntimeError", "the actor gave no result for the clip"))

    def _bury(self, slot: _Slot, batch: list[_Pending], error: Exception) -> None:
        logger.warning("%s: %s", type(error).__name__, error)
        assert slot.actor is not None
        slot.actor.kill()
        with self._changed:
            slot.actor, slot.info = None, None
            # One poison clip strikes once however often it kills: only different clips speak against the machine.
            slot.strikes.add(batch[0].work.clip.clip_id)
            bad = len(slot.strikes) >= self._config.max_actor_deaths
        if bad:
            # Before the clips go back, so that a pool without a live slot stops instead of taking them.
            self._retire(slot, f"its actors died on {len(slot.strikes)} different clips in a row")

    def _try_again(self, pending: _Pending, status: Status, reason: Reason) -> None:
        """Put a clip back into the queue, or give it up after its last attempt.

        One that killed its actor goes first: it is quarantined before the pool meets enough other poison clips to take
        the machine for bad, so every run of the same clips gets further than the last.
        """
        pending.attempts += 1
        if pending.attempts < self._config.max_clip_attempts:
            pending.alone = True
            self._board.put_back(self._stage, 1)
            with self._changed:
                if self._stop_reason is None:
                    (self._queue.appendleft if status == "quarantined" else self._queue.append)(pending)
                    self._changed.notify_all()
            return
        message = f"given up after {pending.attempts} attempts: {reason.error_message}"
        self._finish(pending, self._give_up(pending.work, status, replace(reason, error_message=message)))

    def _finish(self, pending: _Pending, row: ManifestRow) -> None:
        self._board.finish(row, was_running=True)
        with self._changed:
            pending.call.rows.append(row)
            pending.call.remaining -= 1
            self._changed.notify_all()

    def _recycle(self, slot: _Slot) -> None:
        """Replace an actor that has done its share, for stages that leak."""
        limit = self._config.recycle_after_clips
        if limit and slot.actor is not None and slot.clips_done >= limit:
            slot.actor.close()
            with self._changed:
                slot.actor, slot.info = None, None

    def _retire(self, slot: _Slot, reason: str) -> None:
        logger.error("%s actor %d is retired: %s", self._stage, slot.number, reason)
        with self._changed:
            slot.retired = True
            self._live_slots -= 1
            exhausted = self._live_slots == 0
        if exhausted:
            self.stop(PoolExhaustedError(f"The {self._stage} pool has no live actor left: {reason}."))
