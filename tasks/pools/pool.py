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
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.batches import Batches, Crew
from tasks.pools.clip_work import ClipWork, UpstreamLost
from tasks.pools.inputs import may_read_ahead
from tasks.pools.lives import Keeper, Lives
from tasks.pools.process import ActorInfo
from tasks.pools.remote import PoolActor
from tasks.pools.scaler import PoolView, Which
from tasks.pools.slot import ActorSlot, PoolLoad
from tasks.pools.slots import Slots
from tasks.pools.storage_gate import StorageGate
from tasks.pools.turns import Turns
from tasks.pools.verdicts import GiveUp, Verdicts
from tasks.pools.work import WorkQueue
from tasks.progress import ProgressBoard

logger = logging.getLogger(__name__)

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
        self._slots = Slots()
        keeper = Keeper(stage, config, self._work, self._slots, hooks.start_actor, hooks.on_loaded, self.stop)
        self._lives = Lives(keeper)
        crew = Crew(stage, config, self._work, self._turns, self._storage, verdicts, self._lives.bury, self.stop)
        self._batches = Batches(crew)
        self._threads: list[threading.Thread] = []
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
        spare, idle = self._slots.num_idle_for(
            max(self._lives.load_s, _SHORTEST_IDLE_S), use_over_load * self._lives.load_s
        )
        return PoolView(
            actors=len(slots),
            starting=len(slots) - len(loaded),
            placed=sum(slot.placed for slot in slots),
            waiting=self._work.num_waiting(),
            left=self._work.num_left(),
            seconds_per_clip=self._batches.seconds_per_clip,
            load_s=self._lives.load_s,
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
        self,
        batches: Iterable[Sequence[ClipWork]],
        on_rows: Callable[[Sequence[ManifestRow]], object] = lambda rows: None,
    ) -> list[ManifestRow | UpstreamLost]:
        """Do as `run` does with clips that come while others are done; `on_rows` gets rows as soon as they are durable.

        `batches` is drawn from in the calling thread, and may wait.
        """
        return self._work.do(batches, on_rows, self._read_ahead)

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
                    batch = self._work.take(self._batches.max_clips(slot, self.num_slots()), slot.seat)
                    self._turns.taken(slot.seat)
                    if batch:
                        self._read_ahead()
                        self._batches.run(slot, batch)
                finally:
                    self._turns.release(slot.seat)
                self._lives.recycle(slot)
        except StorageLostError as error:
            self.stop(error)
        # A boundary: a bug here must reach the callers instead of leaving them waiting.
        except BaseException as error:
            logger.exception("the %s pool stopped", self._stage)
            self.stop(error)
        finally:
            self._lives.end(slot)

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
                self._lives.start(slot)
            else:
                slot.idle_since_s = idle_since_s = time.monotonic()
                is_its_turn = self._turns.wait(slot.seat)
                slot.idle_since_s = None
                if not is_its_turn:
                    continue
                was_idle = time.monotonic() - idle_since_s >= _PING_AFTER_S
                if not was_idle or self._lives.answers(slot, slot.actor):
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
            self._lives.bury(
                slot, f"{what}: {worn_out.reason.error_type}: {worn_out.reason.error_message}", worn_out.clip_id
            )

    def _read_ahead(self) -> None:
        """Let actors whose device is busy read what may be their next clip."""
        for slot in self._slots.all():
            actor = slot.actor if slot.info is not None else None
            if actor is None or not self._turns.is_busy(slot.seat):
                continue
            if (work := self._work.read_ahead(slot.seat, partial(may_read_ahead, self._stage))) is not None:
                actor.read_ahead(work)
