"""The place of one actor in a pool, what is remembered of the actors that have filled it, and how busy a pool is."""

import time
from dataclasses import dataclass, field

from tasks.pools.remote import ActorInfo, PoolActor


@dataclass(frozen=True)
class PoolLoad:
    """How busy a pool is: clips that wait, loaded actors, and since it began the seconds that these had work or not."""

    waiting: int
    actors: int
    busy_s: float
    loaded_s: float


@dataclass
class ActorSlot:
    """The place of one actor; its strikes outlive the actors that fill it. Only its own thread writes to it."""

    number: int
    actor: PoolActor | None = None
    placed: bool = False
    info: ActorInfo | None = None
    clips_done: int = 0
    starts: int = 0
    strikes: set[str] = field(default_factory=set)
    retired: bool = False
    batch_started_s: float | None = None
    loaded_at_s: float | None = None
    # Of the actors and batches before.
    past_loaded_s: float = 0.0
    past_busy_s: float = 0.0

    def fill(self, info: ActorInfo) -> None:
        """Note that the actor has loaded its stage."""
        self.info, self.clips_done, self.loaded_at_s = info, 0, time.monotonic()

    def loaded_s(self) -> float:
        """Return for how long the place had a loaded actor, all that filled it added up."""
        return self.past_loaded_s + (0.0 if self.loaded_at_s is None else time.monotonic() - self.loaded_at_s)

    def busy_s(self) -> float:
        """Return for how long an actor had a batch."""
        return self.past_busy_s + (0.0 if self.batch_started_s is None else time.monotonic() - self.batch_started_s)

    def end_batch(self) -> None:
        """Note that the actor has no batch any more."""
        self.past_busy_s, self.batch_started_s = self.busy_s(), None

    def batch_gpu_s(self) -> float:
        """Return the GPU-seconds that the batch in the actor has taken."""
        if self.batch_started_s is None or self.info is None:
            return 0.0
        return (time.monotonic() - self.batch_started_s) * self.info.gpu_share

    def empty(self) -> None:
        """Forget the actor."""
        self.past_loaded_s, self.loaded_at_s = self.loaded_s(), None
        self.actor, self.info, self.placed = None, None, False
