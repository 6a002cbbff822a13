"""The places of one pool's actors together: which there are, what they add up to, and which to give up. Thread-safe."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from tasks.pools.process import ActorInfo
from tasks.pools.remote import PoolActor
from tasks.pools.scaler import Which
from tasks.pools.slot import ActorSlot, PoolLoad
from tasks.pools.turns import Seat


class Slots:
    """The slots of a pool. `lock` guards what other threads than a slot's own see of it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._slots: list[ActorSlot] = []
        # Of those that were given up.
        self._past_busy_s = 0.0
        self._past_loaded_s = 0.0

    def add(self, stage: str, seat: Seat) -> ActorSlot:
        """Return a new slot with the lowest number that is free: on shared GPUs it names the GPU."""
        with self.lock:
            taken = {slot.number for slot in self._slots}
            number = next(number for number in count() if number not in taken)
            slot = ActorSlot(number, seat, ThreadPoolExecutor(1, thread_name_prefix=f"{stage}-slot-{number}-stored"))
            self._slots.append(slot)
            return slot

    def remove(self, slot: ActorSlot) -> None:
        """Forget a slot that was given up, but for how busy it was."""
        with self.lock:
            slot.empty()
            self._slots.remove(slot)
            self._past_busy_s += slot.busy_s()
            self._past_loaded_s += slot.loaded_s()

    def all(self) -> list[ActorSlot]:
        """Return every slot, those that are broken or about to end included."""
        with self.lock:
            return list(self._slots)

    def staying(self) -> list[ActorSlot]:
        """Return the slots that are neither broken nor about to end."""
        with self.lock:
            return [slot for slot in self._slots if not slot.leaving and not slot.retired]

    def actors(self, *, still_loading: bool = False) -> list[PoolActor]:
        """Return the actors there are, or only those that have not loaded."""
        with self.lock:
            return [slot.actor for slot in self._slots if slot.actor is not None and not (still_loading and slot.info)]

    def infos(self) -> list[ActorInfo]:
        """Return where the loaded actors run."""
        with self.lock:
            return [slot.info for slot in self._slots if slot.info is not None]

    def gpu_s(self) -> float:
        """Return the GPU-seconds of the batches that compute now."""
        with self.lock:
            return sum(slot.batch_gpu_s() for slot in self._slots)

    def is_any_placed(self) -> bool:
        """Tell whether Ray has found room for one of the actors."""
        with self.lock:
            return any(slot.placed for slot in self._slots)

    def load(self, waiting: int) -> PoolLoad:
        """Return how busy they are."""
        with self.lock:
            actors = sum(slot.info is not None for slot in self._slots)
            busy_s = self._past_busy_s + sum(slot.busy_s() for slot in self._slots)
            loaded_s = self._past_loaded_s + sum(slot.loaded_s() for slot in self._slots)
        return PoolLoad(waiting, actors, busy_s, loaded_s)

    def give_up(self, which: Which) -> ActorSlot | None:
        """Mark a slot as about to end: one that idles, one that has found no room yet, or any; None where none is so."""
        staying = self.staying()
        idle = [slot for slot in staying if slot.idle_since_s is not None]
        unplaced = [slot for slot in staying if not slot.placed]
        found = {"idle": idle, "unplaced": unplaced, "any": unplaced + idle + staying}[which]
        if not found:
            return None
        found[0].leaving = True
        return found[0]

    def num_idle_for(self, at_least_s: float, loaded_for_s: float) -> tuple[int, int]:
        """Return how many were loaded so long ago, and how many of those have been idle for so long."""
        now_s = time.monotonic()
        loaded = [s for s in self.staying() if s.loaded_at_s is not None and now_s - s.loaded_at_s >= loaded_for_s]
        idle = [s for s in loaded if s.idle_since_s is not None and now_s - s.idle_since_s >= at_least_s]
        return len(loaded), len(idle)
