"""The work of one pool: clips that wait for an actor or are with one, and the callers that wait for their results.

Everything that several threads of a pool share about clips is here, behind one lock.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.actor import ClipWork, UpstreamLost
from tasks.progress import ProgressBoard


@dataclass
class _Call:
    """One caller's clips: the results so far, how many have none, and how many are with an actor."""

    on_row: Callable[[ManifestRow], object]
    remaining: int = 0
    in_flight: int = 0
    results: list[ManifestRow | UpstreamLost] = field(default_factory=list)


@dataclass
class Pending:
    """A clip without a result. After a failure whose culprit is unknown it goes alone.

    `attempts` counts the tries that speak against the clip, `cuts` those that its machine or the network ended. Times
    are those of `time.monotonic`: nothing is done with the clip before `not_before_s`, and storage has failed it since
    `storage_failing_since_s`.
    """

    work: ClipWork
    call: _Call
    attempts: int = 0
    alone: bool = False
    cuts: int = 0
    storage_failures: int = 0
    storage_failing_since_s: float | None = None
    not_before_s: float = 0.0


class WorkQueue:
    """Clips on their way from callers to actors and back. Thread-safe."""

    def __init__(self, stage: str, board: ProgressBoard) -> None:
        self._stage = stage
        self._board = board
        # Guards all of the below; notified when work or results arrive, and when it drains or stops.
        self._changed = threading.Condition()
        self._waiting: deque[Pending] = deque()
        self._in_flight = 0
        self._stop_reason: BaseException | None = None
        self._drain_reason: BaseException | None = None

    def is_stopped(self) -> bool:
        """Tell whether `stop` was called."""
        return self._stop_reason is not None

    def do(
        self, batches: Iterable[Sequence[ClipWork]], on_row: Callable[[ManifestRow], object]
    ) -> list[ManifestRow | UpstreamLost]:
        """Take in clips as `batches` gives them; return one result per clip, in any order, when all are there.

        `on_row` is called with each row as soon as it is there, from the threads of the pool. Raises what `stop` was
        given, at once, or what `drain` was, when none of the clips is in flight any more; and what `batches` raises.
        """
        call = _Call(on_row)
        for works in batches:
            with self._changed:
                call.remaining += len(works)
                if self._stop_reason is not None or self._drain_reason is not None:
                    break
                self._waiting.extend(Pending(work, call) for work in works)
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    call.remaining == 0
                    or self._stop_reason is not None
                    or (self._drain_reason is not None and call.in_flight == 0)
                )
            )
            reason = self._stop_reason or self._drain_reason
            if call.remaining and reason is not None:
                raise reason
        return call.results

    def drain(self, reason: BaseException) -> None:
        """Hand out no more clips; also none that comes back."""
        with self._changed:
            self._drain_reason = self._drain_reason or reason
            self._waiting.clear()
            self._changed.notify_all()

    def stop(self, reason: BaseException) -> None:
        """Give up all work; the first reason is what callers get."""
        with self._changed:
            self._stop_reason = self._stop_reason or reason
            self._waiting.clear()
            self._changed.notify_all()

    def stopping_within(self, timeout_s: float) -> bool:
        """Wait so long for `stop`; returns whether it was called."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stop_reason is not None, timeout=timeout_s)

    def wait_until_idle(self) -> None:
        """Wait until no clip is with an actor."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0 or self._stop_reason is not None)

    def wait_for_work(self) -> bool:
        """Wait until a clip may be taken; False where all was stopped."""
        with self._changed:
            while self._stop_reason is None:
                now_s = time.monotonic()
                delays_s = [pending.not_before_s - now_s for pending in self._waiting]
                if delays_s and min(delays_s) <= 0:
                    return True
                self._changed.wait(min(delays_s, default=None))
            return False

    def has_work(self) -> bool:
        """Tell whether a clip waits for an actor."""
        with self._changed:
            return bool(self._waiting)

    def num_waiting(self) -> int:
        """Return how many clips wait for an actor."""
        with self._changed:
            return len(self._waiting)

    def note_failure(self, error_type: str) -> None:
        """Note that a try at a clip failed, whatever becomes of the clip."""
        self._board.note_failure(self._stage, error_type)

    def take(self, batch_size: int) -> list[Pending]:
        """Take the next batch: clips whose time has come, one alone where it has to be; empty where there are none."""
        batch: list[Pending] = []
        with self._changed:
            now_s = time.monotonic()
            for pending in [pending for pending in self._waiting if pending.not_before_s <= now_s]:
                if batch and pending.alone:
                    break
                batch.append(pending)
                if pending.alone or len(batch) == batch_size:
                    break
            for pending in batch:
                self._waiting.remove(pending)
                pending.call.in_flight += 1
            self._in_flight += len(batch)
        self._board.start(self._stage, len(batch))
        return batch

    def put_back(self, pending: Pending, *, first: bool) -> None:
        """Let a clip wait for another try, before or behind all others; where nothing is handed out, it is left."""
        self._board.put_back(self._stage, 1)
        with self._changed:
            self._leave_flight(pending)
            if self._stop_reason is None and self._drain_reason is None:
                (self._waiting.appendleft if first else self._waiting.append)(pending)

    def finish(self, pending: Pending, result: ManifestRow | UpstreamLost) -> None:
        """Give a clip its result."""
        if isinstance(result, ManifestRow):
            self._board.finish(result, was_running=True)
            pending.call.on_row(result)
        else:
            self._board.put_back(self._stage, 1)
        with self._changed:
            self._leave_flight(pending)
            pending.call.results.append(result)
            pending.call.remaining -= 1

    def _leave_flight(self, pending: Pending) -> None:
        pending.call.in_flight -= 1
        self._in_flight -= 1
        self._changed.notify_all()
