"""The life of the actors in a pool's slots: started, asked whether they live, replaced, buried, and ended in peace."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import PoolExhaustedError
from magicvideo_core.logs import event
from tasks.pools.failures import Action, classify
from tasks.pools.remote import PoolActor
from tasks.pools.slot import ActorSlot
from tasks.pools.slots import Slots
from tasks.pools.work import WorkQueue

logger = logging.getLogger(__name__)

_FIRST_RESTART_DELAY_S = 0.5
_LONGEST_RESTART_DELAY_S = 10.0


@dataclass(frozen=True)
class Keeper:
    """What lives need of their pool: `start_actor` starts the actor of a slot, `on_loaded` hears that it has loaded."""

    stage: str
    config: PoolConfig
    work: WorkQueue
    slots: Slots
    start_actor: Callable[[int], PoolActor]
    on_loaded: Callable[[], object]
    stop: Callable[[BaseException], None]


class Lives:
    """Starts and ends the actors of one pool. Methods are called by the thread of the slot that they get."""

    def __init__(self, keeper: Keeper) -> None:
        self._stage, self._config, self._work, self._slots = keeper.stage, keeper.config, keeper.work, keeper.slots
        self._start_actor, self._on_loaded, self._stop = keeper.start_actor, keeper.on_loaded, keeper.stop
        # What the latest actor took to load.
        self.load_s = 0.0

    def start(self, slot: ActorSlot) -> None:
        """Fill a slot with an actor that has loaded its stage; where that fails the slot is empty after."""
        slot.starts += 1
        what = f"{self._stage} actor {slot.number}, start {slot.starts}"
        actor = self._start_actor(slot.number)
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
            self.load_s = max(info.load_s, time.monotonic() - placed_s)
        except Exception as error:
            if self._work.is_stopped() or slot.leaving:
                return
            failure = classify(error, what)
            self.bury(slot, str(failure.error), what)
            if failure.action is Action.STOP_POOL:
                self._stop(failure.error)
            elif not slot.retired:
                self._work.stopping_within(
                    min(_FIRST_RESTART_DELAY_S * 2 ** (slot.starts - 1), _LONGEST_RESTART_DELAY_S)
                )
            return
        with self._slots.lock:
            slot.fill(info)
            slot.seat.device = info.turns_at
        self._on_loaded()
        event("actor loaded", actor=info.actor_id, node=info.node_id, device=info.device, start=slot.starts)

    def answers(self, slot: ActorSlot, actor: PoolActor) -> bool:
        """Tell whether an idle actor still lives; one that does not is buried without blame on any clip."""
        try:
            actor.ping()
        except Exception as error:
            if not self._work.is_stopped():
                failure = classify(error, f"{self._stage} actor {slot.number}, idle")
                self.bury(slot, str(failure.error), None if actor.was_cut_off() else f"idle, start {slot.starts}")
            return False
        return True

    def recycle(self, slot: ActorSlot) -> None:
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

    def bury(self, slot: ActorSlot, error: str, strike: str | None) -> None:
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
                self._stop(PoolExhaustedError(f"The {self._stage} pool has no live actor left: {reason}"))

    def end(self, slot: ActorSlot) -> None:
        """End the actor of a slot that ends, or leave it warm; a slot that was given up leaves its pool."""
        if slot.leaving and not self._work.is_stopped():
            slot.wait_until_stored()
        if slot.actor is not None:
            # One that is wanted elsewhere makes room.
            slot.actor.close() if slot.leaving or slot.needs_care() or slot.info is None else slot.actor.leave()
        slot.collector.shutdown(wait=False)
        if slot.leaving:
            self._work.forget_read(slot.seat)
            self._slots.remove(slot)

    def _go_without_place(self, slot: ActorSlot, actor: PoolActor) -> None:
        """Give up waiting for room; the pool lives as long as another of its actors has some."""
        actor.kill()
        with self._slots.lock:
            slot.empty()
        if self._work.num_waiting() and not self._slots.is_any_placed():
            taken = {"CPU": self._config.num_cpus, "GPU": self._config.num_gpus, **self._config.resources}
            demand = ", ".join(f"{amount:g} {name}" for name, amount in taken.items() if amount)
            self._stop(
                PoolExhaustedError(
                    f"The {self._stage} pool has work, and in {self._config.placement_timeout_s:g} s "
                    f"(pool.placement_timeout_s) Ray found no room for an actor that takes {demand or 'nothing'}."
                )
            )
