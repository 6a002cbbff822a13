"""The place of one actor in a pool, and what is remembered of the actors that have filled it."""

import time
from dataclasses import dataclass, field

from tasks.pools.remote import ActorInfo, PoolActor


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

    def batch_gpu_s(self) -> float:
        """Return the GPU-seconds that the batch in the actor has taken."""
        if self.batch_started_s is None or self.info is None:
            return 0.0
        return (time.monotonic() - self.batch_started_s) * self.info.gpu_share

    def empty(self) -> None:
        """Forget the actor."""
        self.actor, self.info, self.placed = None, None, False
