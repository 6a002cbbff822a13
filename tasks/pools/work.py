"""The clips that wait for an actor of one pool: what is known of each, and which come next."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import ClipWork, UpstreamLost


@dataclass
class Call:
    """One call of `StagePool.run`: its results so far, how many clips have none, and how many are with an actor."""

    remaining: int
    in_flight: int = 0
    results: list[ManifestRow | UpstreamLost] = field(default_factory=list)


@dataclass
class Pending:
    """A clip without a result. After a failure whose culprit is unknown it goes alone.

    `attempts` counts the tries that speak against the clip. Times are those of `time.monotonic`: nothing is done with
    the clip before `not_before_s`, and storage has failed it since `storage_failing_since_s`.
    """

    work: ClipWork
    call: Call
    attempts: int = 0
    alone: bool = False
    node_losses: int = 0
    storage_failures: int = 0
    storage_failing_since_s: float | None = None
    not_before_s: float = 0.0


class WorkQueue:
    """Clips in the order in which actors get them. Not thread-safe: the pool's lock guards it."""

    def __init__(self) -> None:
        self._waiting: deque[Pending] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def extend(self, pendings: Iterable[Pending]) -> None:
        """Add clips behind all others."""
        self._waiting.extend(pendings)

    def put_back(self, pending: Pending, *, first: bool) -> None:
        """Add a clip that was with an actor, before or behind all others."""
        (self._waiting.appendleft if first else self._waiting.append)(pending)

    def clear(self) -> None:
        """Forget every clip."""
        self._waiting.clear()

    def delay_s(self, now_s: float) -> float | None:
        """Return how long it is until a clip may be taken, 0 where one may be now, None where none waits."""
        if not self._waiting:
            return None
        return max(0.0, min(pending.not_before_s for pending in self._waiting) - now_s)

    def take(self, batch_size: int, now_s: float) -> list[Pending]:
        """Remove and return the next batch: the clips whose time has come, one alone where it has to be."""
        batch: list[Pending] = []
        for pending in [pending for pending in self._waiting if pending.not_before_s <= now_s]:
            if batch and pending.alone:
                break
            batch.append(pending)
            if pending.alone or len(batch) == batch_size:
                break
        for pending in batch:
            self._waiting.remove(pending)
        return batch
