"""The pool of one stage: hands batches of clips to its actors, replaces those that die, and bounds every wait.

One thread serves each actor slot, with one batch in flight. Callers (Prefect task threads) block in `run` until each
of their clips has a result. The bounds, all in `PoolConfig`:

max_clip_attempts    tries of one clip that raised, killed its actor or hung: finds poison clips
max_actor_deaths     different clips, or starts, that one slot died on with no success between: finds bad machines;
                     above the former (`PoolConfig` checks it)
clip_timeout_s       one clip in an actor, reading and storing included
placement_timeout_s  work without a place for any actor
load_timeout_s       loading a stage
storage_patience_s   storage that does not answer
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import ClipTimeoutError, PoolExhaustedError, StorageLostError
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import ClipWork, Effort, Raised, Reason, UpstreamLost
from tasks.pools.failures import Action, Failure, classify
from tasks.pools.remote import ActorInfo, PoolActor
from tasks.pools.slot import ActorSlot, PoolLoad
from tasks.pools.storage_gate import StorageGate
from tasks.pools.verdicts import GiveUp, Verdicts
from tasks.pools.work import Pending, WorkQueue
from tasks.progress import ProgressBoard

logger = logging.getLogger(__name__)

_FIRST_RESTART_DELAY_S = 0.5
_LONGEST_RESTART_DELAY_S = 10.0


@dataclass(frozen=True)
class PoolHooks:
    """What a pool asks of the run that it works for; called from its threads."""

    start_actor: Callable[[], PoolActor]
    give_up: GiveUp
    # Raises a TransientError or OSError while storage does not work.
    probe_storage: Callable[[], object]
    # The moment to call `drain` where no new work may be started.
    before_batch: Callable[[], object] = lambda: None


class StagePool:
    """The actors of one stage. Starts them at once; `run` may be called from any number of threads."""

    def __init__(self, stage: str, config: PoolConfig, num_actors: int, hooks: PoolHooks, board: ProgressBoard) -> None:
        self._stage = stage
        self._config = config
        self._hooks = hooks
        self._work = WorkQueue(stage, board)
        self._storage = StorageGate(hooks.probe_storage, config.storage_patience_s, self._work.stopping_within)
        self._verdicts = Verdicts(config, self._work, self._storage, hooks.give_up)
        # Guards what other threads than a slot's own see of it, and the sum of GPU-seconds.
        self._lock = threading.Lock()
        self._gpu_s = 0.0
        self._slots = [ActorSlot(number) for number in range(num_actors)]
        new_thread = partial(threading.Thread, target=self._serve, daemon=True)
        self._threads = [new_thread(args=(slot,), name=f"{stage}-slot-{slot.number}") for slot in self._slots]
        for thread in self._threads:
            thread.start()

    def run(self, works: Sequence[ClipWork]) -> list[ManifestRow | UpstreamLost]:
        """Return one result per clip, in any order: a durable row, or that what the clip reads is lost.

        Raises what `stop` or `drain` was given where clips are left: PoolExhaustedError when no actor is left to do
        them, StorageLostError when storage was away for too long. What was drained is durable by then.
        """
        return self.follow([works])

    def follow(
        self, batches: Iterable[Sequence[ClipWork]], on_row: Callable[[ManifestRow], object] = lambda row: None
    ) -> list[ManifestRow | UpstreamLost]:
        """Do as `run` does with clips that come while others are done; `on_row` gets each row as soon as it is durable.

        `batches` is drawn from in the calling thread, and may wait.
        """
        return self._work.do(batches, on_row)

    def actors(self) -> list[ActorInfo]:
        """Return where the loaded actors run."""
        with self._lock:
            return [slot.info for slot in self._slots if slot.info is not None]

    def gpu_s(self) -> float:
        """Return the GPU-seconds that clips took so far: failed tries and what is in flight included."""
        with self._lock:
            return self._gpu_s + sum(slot.batch_gpu_s() for slot in self._slots)

    def load(self) -> PoolLoad:
        """Return how busy the pool is."""
        waiting = self._work.num_waiting()
        with self._lock:
            actors = sum(slot.info is not None for slot in self._slots)
            busy_s, loaded_s = sum(slot.busy_s() for slot in self._slots), sum(slot.loaded_s() for slot in self._slots)
        return PoolLoad(waiting, actors, busy_s, loaded_s)

    def drain(self, reason: BaseException) -> None:
        """Start no more work: what is in flight is finished, then callers with clips left get `reason`."""
        self._work.drain(reason)

    def wait_until_idle(self) -> None:
        """Wait until no clip is with an actor; of use after `drain`."""
        self._work.wait_until_idle()

    def close(self) -> None:
        """End the pool in peace: stages give their devices back, then their processes end."""
        self.stop(PoolExhaustedError(f"The {self._stage} pool is closed."), kill=False)
        with self._lock:
            still_loading = [slot.actor for slot in self._slots if slot.actor is not None and slot.info is None]
        for actor in still_loading:
            actor.kill()
        for thread in self._threads:
            thread.join()

    def stop(self, reason: BaseException, *, kill: bool = True) -> None:
        """Give up all work now: callers get `reason`, actors are killed whatever they do."""
        self._work.stop(reason)
        with self._lock:
            actors = [slot.actor for slot in self._slots if slot.actor is not None]
        for actor in actors if kill else ():
            actor.kill()

    # 1. The life of one slot, in its own thread

    def _serve(self, slot: ActorSlot) -> None:
        try:
            while self._ready(slot):
                self._storage.wait()
                self._hooks.before_batch()
                if batch := self._work.take(self._config.batch_size):
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

    def _ready(self, slot: ActorSlot) -> bool:
        """Wait until there is work and a loaded actor for it; False when the slot has to end."""
        while not slot.retired:
            # The first actor loads at once, a later one only when there is something to do.
            if slot.starts and not self._work.wait_for_work():
                return False
            if self._work.is_stopped():
                return False
            if slot.actor is None:
                self._start(slot)
            elif self._answers(slot, slot.actor):
                return True
        return False

    def _start(self, slot: ActorSlot) -> None:
        slot.starts += 1
        what = f"{self._stage} actor {slot.number}, start {slot.starts}"
        actor = self._hooks.start_actor()
        with self._lock:
            slot.actor = actor
        # Either `stop` sees the actor and kills it, or this sees that it was called.
        if self._work.is_stopped():
            return
        try:
            if not actor.place():
                self._go_without_place(slot, actor)
                return
            slot.placed = True
            info = actor.load()
        except Exception as error:
            if self._work.is_stopped():
                return
            failure = classify(error, what)
            self._bury(slot, str(failure.error), what)
            if failure.action is Action.STOP_POOL:
                self.stop(failure.error)
            elif not slot.retired:
                self._work.stopping_within(
                    min(_FIRST_RESTART_DELAY_S * 2 ** (slot.starts - 1), _LONGEST_RESTART_DELAY_S)
                )
            return
        with self._lock:
            slot.fill(info)

    def _go_without_place(self, slot: ActorSlot, actor: PoolActor) -> None:
        """Give up waiting for room; the pool lives as long as another of its actors has some."""
        actor.kill()
        with self._lock:
            slot.empty()
            placed = any(other.placed for other in self._slots)
        if self._work.has_work() and not placed:
            taken = {"CPU": self._config.num_cpus, "GPU": self._config.num_gpus, **self._config.resources}
            demand = ", ".join(f"{amount:g} {name}" for name, amount in taken.items() if amount)
            self.stop(
                PoolExhaustedError(
                    f"The {self._stage} pool has work, and in {self._config.placement_timeout_s:g} s "
                    f"(pool.placement_timeout_s) Ray found no room for an actor that takes {demand or 'nothing'}."
                )
            )

    def _answers(self, slot: ActorSlot, actor: PoolActor) -> bool:
        """Tell whether an idle actor still lives; one that does not is buried without blame on any clip."""
        try:
            actor.ping()
        except Exception as error:
            if not self._work.is_stopped():
                failure = classify(error, f"{self._stage} actor {slot.number}, idle")
                self._bury(slot, str(failure.error), None if actor.was_cut_off() else f"idle, start {slot.starts}")
            return False
        return True

    def _recycle(self, slot: ActorSlot) -> None:
        """Replace an actor that has done its share, for stages that leak."""
        limit = self._config.recycle_after_clips
        if limit and slot.actor is not None and slot.clips_done >= limit:
            slot.actor.close()
            with self._lock:
                slot.empty()

    def _bury(self, slot: ActorSlot, error: str, strike: str | None) -> None:
        """End what is left of a broken actor; `strike` is what speaks against its slot, None where nothing does."""
        logger.warning("%s", error)
        assert slot.actor is not None
        slot.actor.kill()
        with self._lock:
            slot.empty()
            slot.strikes |= {strike} if strike is not None else set()
            slot.retired = len(slot.strikes) >= self._config.max_actor_deaths
            exhausted = all(other.retired for other in self._slots)
        if slot.retired:
            reason = f"{len(slot.strikes)} different clips or starts in a row ended an actor, the last with {error}"
            logger.error("%s actor %d is retired: %s", self._stage, slot.number, reason)
            if exhausted:
                self.stop(PoolExhaustedError(f"The {self._stage} pool has no live actor left: {reason}"))

    # 2. One batch in an actor

    def _run_batch(self, slot: ActorSlot, batch: list[Pending]) -> None:
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
        with self._lock:
            self._gpu_s += slot.batch_gpu_s()
            slot.end_batch()
        if results is not None:
            self._settle(slot, actor, batch, results, effort)
        elif failure is not None and not self._work.is_stopped():
            self._settle_failure(slot, actor, batch, failure, effort)

    def _settle(
        self,
        slot: ActorSlot,
        actor: PoolActor,
        batch: list[Pending],
        results: list[ManifestRow | Raised],
        effort: Effort,
    ) -> None:
        """Take in what an actor returned."""
        by_id = {pending.work.clip.clip_id: pending for pending in batch}
        slot.clips_done += len(batch)
        worn_out = next((r for r in results if isinstance(r, Raised) and r.action is Action.REPLACE_ACTOR), None)
        if worn_out is None:
            slot.strikes.clear()
        else:
            actor.close()
            what = f"{self._stage} actor {slot.number}, clip {worn_out.clip_id}"
            self._bury(slot, f"{what}: {worn_out.reason.error_type}: {worn_out.reason.error_message}", worn_out.clip_id)
        for result in results:
            pending = by_id.pop(result.clip_id)
            if isinstance(result, Raised):
                self._verdicts.raised(pending, result, in_company=len(batch) > 1)
            else:
                self._verdicts.succeeded(pending, result)
        forgotten = Reason("RuntimeError", "the actor gave no result for the clip")
        for clip_id, pending in by_id.items():
            raised = Raised(clip_id, Action.RETRY_CLIP, forgotten, effort)
            self._verdicts.raised(pending, raised, in_company=len(batch) > 1)

    def _settle_failure(
        self, slot: ActorSlot, actor: PoolActor, batch: list[Pending], failure: Failure, effort: Effort
    ) -> None:
        """Do what follows where an actor returned nothing."""
        if failure.action is Action.STOP_POOL:
            self.stop(failure.error)
            return
        # Who waits for storage looks as if it hung.
        no_storage = isinstance(failure.error, ClipTimeoutError) and not self._storage.answers()
        cut_off = failure.action is Action.REPLACE_ACTOR and (no_storage or actor.was_cut_off())
        if failure.action is Action.REPLACE_ACTOR:
            # Before the clips go back, so that a pool without a live slot stops instead of taking them.
            # One poison clip strikes once however often it kills: only different clips speak against the machine.
            self._bury(slot, str(failure.error), None if cut_off else batch[0].work.clip.clip_id)
        settle = self._verdicts.cut_off if cut_off else self._verdicts.raised
        for pending in reversed(batch):
            raised = Raised(pending.work.clip.clip_id, failure.action, Reason.of(failure.error), effort)
            settle(pending, raised, in_company=len(batch) > 1)
