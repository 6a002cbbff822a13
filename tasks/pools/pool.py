"""The pool of one stage: hands batches of clips to its actors, replaces those that die, and bounds every wait.

One thread serves each actor slot. Callers (Prefect task threads) block in `run` until each of their clips has a result.
The bounds, all in `PoolConfig`:

max_clip_attempts    tries of one clip that raised, killed its actor or hung: finds poison clips
max_actor_deaths     different clips, or starts, that one slot died on with no success between: finds bad machines;
                     above the former (`PoolConfig` checks it)
clip_timeout_s       computing one clip, reading included; storing it
placement_timeout_s  work without a place for any actor
load_timeout_s       loading a stage
storage_patience_s   storage that does not answer
max_waiting_clips    clips that the stage before has made and that wait for this one
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import PoolExhaustedError, StorageLostError
from magicvideo_core.logs import event
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import ClipWork, UpstreamLost
from tasks.pools.batches import Batches, Crew
from tasks.pools.failures import Action, classify
from tasks.pools.inputs import may_read_ahead
from tasks.pools.remote import ActorInfo, PoolActor
from tasks.pools.scaler import PoolView, Which
from tasks.pools.slot import ActorSlot, PoolLoad
from tasks.pools.slots import Slots
from tasks.pools.storage_gate import StorageGate
from tasks.pools.turns import Turns
from tasks.pools.verdicts import GiveUp, Verdicts
from tasks.pools.work import WorkQueue
from tasks.progress import ProgressBoard

logger = logging.getLogger(__name__)

_FIRST_RESTART_DELAY_S = 0.5
_LONGEST_RESTART_DELAY_S = 10.0
# An actor that has been idle for so long is asked whether it lives, before a clip is blamed for its death.
_PING_AFTER_S = 0.5
# Shorter than this, an actor without a clip only waits for its next one.
_SHORTEST_IDLE_S = 1.0


@dataclass(frozen=True)
class PoolHooks:
    """What a pool asks of the run that it works for; called from its threads."""

    # Starts the actor of the slot with this number.
    start_actor: Callable[[int], PoolActor]
    give_up: GiveUp
    # Raises a TransientError or OSError while storage does not work.
    probe_storage: Callable[[], object]
    # The moment to call `drain` where no new work may be started.
    before_batch: Callable[[], object] = lambda: None
    # Whether the stage that reads what this one makes has room for more.
    may_run_ahead: Callable[[], bool] = lambda: True
    # An actor has loaded the stage.
    on_loaded: Callable[[], object] = lambda: None


class StagePool:
    """The actors of one stage. Starts them at once; `run` may be called from any number of threads."""

    def __init__(
        self,
        stage: str,
        config: PoolConfig,
        num_actors: int,
        hooks: PoolHooks,
        board: ProgressBoard,
        turns: Turns | None = None,
        rank: int = 0,
    ) -> None:
        """`turns` are those of all pools of the run; of stages that share a device, the highest `rank` goes first."""
        self._stage = stage
        self._config = config
        # Of whoever makes the pool: it says in log records what run and stage they are about.
        self._context = copy_context()
        self._hooks = hooks
        self._turns = turns or Turns()
        self._rank = rank
        self._work = WorkQueue(stage, board, self._turns, hooks.may_run_ahead)
        self._storage = StorageGate(hooks.probe_storage, config.storage_patience_s, self._work.stopping_within)
        verdicts = Verdicts(config, self._work, self._storage, hooks.give_up)
        crew = Crew(stage, config, self._work, self._turns, self._storage, verdicts, self._bury, self.stop)
        self._batches = Batches(crew)
        self._slots = Slots()
        self._threads: list[threading.Thread] = []
        self._load_s = 0.0
        for _ in range(num_actors):
            self.grow()

    def grow(self) -> None:
        """Start one more actor."""
        slot = self._slots.add(self._stage, self._turns.new_seat(self._rank, self._work))
        name = f"{self._stage}-slot-{slot.number}"
        thread = threading.Thread(target=self._context.copy().run, args=(self._serve, slot), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def shrink(self, which: Which) -> None:
        """Give up an actor after its batch: one that idles, one that has found no room yet, or any."""
        slot = self._slots.give_up(which)
        if slot is None:
            return
        if slot.actor is not None and slot.info is None:
            slot.actor.kill()
        self._turns.call(slot.seat)
        self._work.wake()

    def view(self, use_over_load: float) -> PoolView:
        """Return how the pool stands; an actor counts as spare after so many times what it took to load."""
        slots = self._slots.staying()
        loaded = [slot for slot in slots if slot.info is not None]
        spare, idle = self._slots.num_idle_for(max(self._load_s, _SHORTEST_IDLE_S), use_over_load * self._load_s)
        return PoolView(
            actors=len(slots),
            starting=len(slots) - len(loaded),
            placed=sum(slot.placed for slot in slots),
            waiting=self._work.num_waiting(),
            left=self._work.num_left(),
            seconds_per_clip=self._batches.seconds_per_clip,
            load_s=self._load_s,
            spare=spare,
            idle=idle,
            free=sum(slot.idle_since_s is not None for slot in loaded),
        )

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
        return self._work.do(batches, on_row, self._read_ahead)

    def actors(self) -> list[ActorInfo]:
        """Return where the loaded actors run."""
        return self._slots.infos()

    def num_slots(self) -> int:
        """Return how many actors the pool has or waits for."""
        return len(self._slots.all())

    def gpu_s(self) -> float:
        """Return the GPU-seconds that clips took so far: failed tries and what is in flight included."""
        return self._batches.gpu_s() + self._slots.gpu_s()

    def num_waiting(self) -> int:
        """Return how many clips wait for an actor."""
        return self._work.num_waiting()

    def load(self) -> PoolLoad:
        """Return how busy the pool is."""
        return self._slots.load(self._work.num_waiting())

    def drain(self, reason: BaseException) -> None:
        """Start no more work: what is in flight is finished, then callers with clips left get `reason`."""
        self._work.drain(reason)

    def wait_until_idle(self) -> None:
        """Wait until no clip is with an actor; of use after `drain`."""
        self._work.wait_until_idle()

    def close(self) -> None:
        """End the pool in peace: stages give their devices back, then their processes end."""
        self.stop(PoolExhaustedError(f"The {self._stage} pool is closed."), kill=False)
        for actor in self._slots.actors(still_loading=True):
            actor.kill()
        for thread in self._threads:
            thread.join()

    def stop(self, reason: BaseException, *, kill: bool = True) -> None:
        """Give up all work now: callers get `reason`, actors are killed whatever they do."""
        self._work.stop(reason)
        for actor in self._slots.actors() if kill else ():
            actor.kill()

    # 1. The life of one slot, in its own thread

    def _serve(self, slot: ActorSlot) -> None:
        try:
            while self._ready(slot):
                try:
                    self._storage.wait()
                    self._hooks.before_batch()
                    batch = self._work.take(self._config.batch_size, slot.seat)
                    self._turns.taken(slot.seat)
                    if batch:
                        self._read_ahead()
                        self._batches.run(slot, batch)
                finally:
                    self._turns.release(slot.seat)
                self._recycle(slot)
        except StorageLostError as error:
            self.stop(error)
        # A boundary: a bug here must reach the callers instead of leaving them waiting.
        except BaseException as error:
            logger.exception("the %s pool stopped", self._stage)
            self.stop(error)
        finally:
            if slot.leaving and not self._work.is_stopped():
                slot.wait_until_stored()
            if slot.actor is not None:
                slot.actor.close()
            slot.collector.shutdown(wait=False)
            if slot.leaving:
                self._work.forget_read(slot.seat)
                self._slots.remove(slot)

    def _ready(self, slot: ActorSlot) -> bool:
        """Wait until there is work, a loaded actor for it, and its turn; False when the slot has to end."""
        while not slot.retired and not self._work.is_stopped():
            if slot.needs_care():
                self._care(slot)
            elif slot.leaving:
                slot.wait_until_stored()
                if not slot.needs_care():
                    break
            elif slot.actor is None:
                # The first actor loads at once, a later one only when there is something to do.
                if slot.starts and not self._work.wait_for_work(unless=lambda: slot.leaving):
                    continue
                self._start(slot)
            else:
                slot.idle_since_s = idle_since_s = time.monotonic()
                is_its_turn = self._turns.wait(slot.seat)
                slot.idle_since_s = None
                if not is_its_turn:
                    continue
                was_idle = time.monotonic() - idle_since_s >= _PING_AFTER_S
                if not was_idle or self._answers(slot, slot.actor):
                    return True
                self._turns.release(slot.seat)
        self._turns.release(slot.seat)
        return False

    def _care(self, slot: ActorSlot) -> None:
        """See to an actor that failed while it stored, or that has nothing left to compute with."""
        slot.wait_until_stored()
        if any(flight.error is not None for flight in slot.flights):
            self._batches.mourn(slot)
        elif (worn_out := slot.worn_out) is not None and slot.actor is not None:
            slot.actor.close()
            what = f"{self._stage} actor {slot.number}, clip {worn_out.clip_id}"
            self._bury(slot, f"{what}: {worn_out.reason.error_type}: {worn_out.reason.error_message}", worn_out.clip_id)

    def _read_ahead(self) -> None:
        """Let actors whose device is busy read what may be their next clip."""
        for slot in self._slots.all():
            actor = slot.actor if slot.info is not None else None
            if actor is None or not self._turns.is_busy(slot.seat):
                continue
            if (work := self._work.read_ahead(slot.seat, partial(may_read_ahead, self._stage))) is not None:
                actor.read_ahead(work)

    def _start(self, slot: ActorSlot) -> None:
        slot.starts += 1
        what = f"{self._stage} actor {slot.number}, start {slot.starts}"
        actor = self._hooks.start_actor(slot.number)
        with self._slots.lock:
            slot.actor = actor
        # Either `stop` sees the actor and kills it, or this sees that it was called.
        if self._work.is_stopped():
            return
        try:
            if not actor.place():
                self._go_without_place(slot, actor)
                return
            slot.placed, placed_s = True, time.monotonic()
            info = actor.load()
            self._load_s = time.monotonic() - placed_s
        except Exception as error:
            if self._work.is_stopped() or slot.leaving:
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
        with self._slots.lock:
            slot.fill(info)
            slot.seat.device = info.turns_at
        self._hooks.on_loaded()
        event("actor loaded", actor=info.actor_id, node=info.node_id, device=info.device, start=slot.starts)

    def _go_without_place(self, slot: ActorSlot, actor: PoolActor) -> None:
        """Give up waiting for room; the pool lives as long as another of its actors has some."""
        actor.kill()
        with self._slots.lock:
            slot.empty()
        if self._work.num_waiting() and not self._slots.is_any_placed():
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
        if limit and slot.actor is not None and slot.clips_started >= limit:
            slot.wait_until_stored()
            if slot.needs_care():
                return
            slot.actor.close()
            self._work.forget_read(slot.seat)
            with self._slots.lock:
                slot.empty()

    def _bury(self, slot: ActorSlot, error: str, strike: str | None) -> None:
        """End what is left of a broken actor; `strike` is what speaks against its slot, None where nothing does."""
        logger.warning("%s", error)
        assert slot.actor is not None
        slot.actor.kill()
        self._work.forget_read(slot.seat)
        with self._slots.lock:
            slot.empty()
            slot.strikes |= {strike} if strike is not None else set()
            slot.retired = len(slot.strikes) >= self._config.max_actor_deaths
        if slot.retired:
            reason = f"{len(slot.strikes)} different clips or starts in a row ended an actor, the last with {error}"
            logger.error("%s actor %d is retired: %s", self._stage, slot.number, reason)
            if all(other.retired for other in self._slots.all()):
                self.stop(PoolExhaustedError(f"The {self._stage} pool has no live actor left: {reason}"))
