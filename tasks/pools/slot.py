"""The place of one actor in a pool, what it has in hand and remembers of those before, and how busy a pool is."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

from tasks.pools.clip_work import Raised
from tasks.pools.process import ActorInfo
from tasks.pools.remote import PoolActor
from tasks.pools.turns import Seat
from tasks.pools.work import Pending


@dataclass(frozen=True)
class PoolLoad:
    """How busy a pool is: clips that wait, loaded actors, and since it began the seconds that these had work or not."""

    waiting: int
    actors: int
    busy_s: float
    loaded_s: float


@dataclass(eq=False)
class Flight:
    """A batch in an actor, from its way in until its results are there; `error` is what its call raised."""

    number: int
    batch: list[Pending]
    started_at: datetime
    started_s: float
    error: Exception | None = None
    stored: Future[None] | None = None


@dataclass(eq=False)
class ActorSlot:
    """The place of one actor; its strikes outlive the actors that fill it. Only its own thread writes to it, but for
    what its collector notes: the error of a flight, `worn_out`, and that strikes are forgiven.
    """

    number: int
    seat: Seat
    # Waits for the results of a batch while the next one computes.
    collector: ThreadPoolExecutor
    actor: PoolActor | None = None
    placed: bool = False
    info: ActorInfo | None = None
    clips_started: int = 0
    starts: int = 0
    # While it has a loaded actor and waits for work, or for its turn.
    idle_since_s: float | None = None
    strikes: set[str] = field(default_factory=set)
    # Given up as broken; wanted elsewhere.
    retired: bool = False
    leaving: bool = False
    flights: list[Flight] = field(default_factory=list)
    # The clip that used up what the actor has.
    worn_out: Raised | None = None
    batch_started_s: float | None = None
    loaded_at_s: float | None = None
    # Of the actors and batches before.
    past_loaded_s: float = 0.0
    past_busy_s: float = 0.0

    def fill(self, info: ActorInfo) -> None:
        """Note that the actor has loaded its stage."""
        self.info, self.clips_started, self.loaded_at_s = info, info.num_clips, time.monotonic()

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

    def needs_care(self) -> bool:
        """Tell whether something is wrong with its actor."""
        return self.worn_out is not None or any(flight.error is not None for flight in self.flights)

    def wait_until_stored(self, but: int = 0) -> None:
        """Wait until no more than so many batches are without results, or have met an error."""
        for flight in self.flights[: len(self.flights) - but]:
            if flight.stored is not None:
                flight.stored.result()

    def empty(self) -> None:
        """Forget the actor."""
        self.past_loaded_s, self.loaded_at_s = self.loaded_s(), None
        self.actor, self.info, self.placed = None, None, False
        self.flights, self.worn_out = [], None
