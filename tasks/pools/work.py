"""The work of one pool: clips that wait for an actor or are with one, and the callers that wait for their results.

Everything that several threads of a pool share about clips is here, behind one lock. No call goes from here to the
turns while it is held.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from magicvideo_core.logs import event
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.clip_work import ClipWork, Raised, UpstreamLost
from tasks.pools.turns import Seat, Turns
from tasks.progress import ProgressBoard


@dataclass(eq=False)
class _Call:
    """One caller's clips: the results so far, how many have none, and how many are with an actor."""

    changed: threading.Condition
    on_rows: Callable[[Sequence[ManifestRow]], object]
    remaining: int = 0
    in_flight: int = 0
    results: list[ManifestRow | UpstreamLost] = field(default_factory=list)


@dataclass(eq=False)
class Pending:
    """A clip without a result. After a failure whose culprit is unknown it goes alone.

    `attempts` counts the tries that speak against the clip, `cuts` those that its machine or the network ended. Times
    are those of `time.monotonic`: nothing is done with the clip before `not_before_s`, and storage has failed it since
    `storage_failing_since_s`. `read_by` is the seat whose actor reads its inputs ahead.
    """

    work: ClipWork
    call: _Call
    attempts: int = 0
    alone: bool = False
    cuts: int = 0
    storage_failures: int = 0
    storage_failing_since_s: float | None = None
    not_before_s: float = 0.0
    read_by: Seat | None = None


class WorkQueue:
    """Clips on their way from callers to actors and back. Thread-safe."""

    def __init__(
        self, stage: str, board: ProgressBoard, turns: Turns, may_run_ahead: Callable[[], bool] = lambda: True
    ) -> None:
        """`may_run_ahead` tells whether the stage that reads what this one makes has not too much waiting already."""
        self._stage = stage
        self._board = board
        self._turns = turns
        self._may_run_ahead = may_run_ahead
        self._lock = threading.Lock()
        # Notified when work arrives, when none is in flight any more, and when it drains or stops.
        self._changed = threading.Condition(self._lock)
        self._calls: set[_Call] = set()
        self._waiting: deque[Pending] = deque()
        # Of those that wait: what the actor of a seat reads ahead.
        self._read: dict[Seat, Pending] = {}
        self._in_flight = 0
        self._stop_reason: BaseException | None = None
        self._drain_reason: BaseException | None = None

    # 1. For callers

    def do(
        self,
        batches: Iterable[Sequence[ClipWork]],
        on_rows: Callable[[Sequence[ManifestRow]], object],
        on_arrival: Callable[[], object],
    ) -> list[ManifestRow | UpstreamLost]:
        """Take in clips as `batches` gives them; return one result per clip, in any order, when all are there.

        `on_rows` is called with rows as soon as they are there, from the threads of the pool, `on_arrival` when clips
        have come. Raises what `stop` was given, at once, or what `drain` was, when none of the clips is in flight any
        more; and what `batches` raises.
        """
        call = _Call(threading.Condition(self._lock), on_rows)
        with self._changed:
            self._calls.add(call)
        try:
            for works in batches:
                with self._changed:
                    call.remaining += len(works)
                    if self._stop_reason is not None or self._drain_reason is not None:
                        break
                    self._waiting.extend(Pending(work, call) for work in works)
                    self._changed.notify_all()
                self._turns.look()
                on_arrival()
            with self._changed:
                call.changed.wait_for(lambda: call.remaining == 0 or self._gives_up(call))
                reason = self._stop_reason or self._drain_reason
                if call.remaining and reason is not None:
                    raise reason
        finally:
            with self._changed:
                self._calls.discard(call)
        return call.results

    def _gives_up(self, call: _Call) -> bool:
        return self._stop_reason is not None or (self._drain_reason is not None and call.in_flight == 0)

    def drain(self, reason: BaseException) -> None:
        """Hand out no more clips; also none that comes back."""
        with self._changed:
            self._drain_reason = self._drain_reason or reason
            self._hand_out_nothing()

    def stop(self, reason: BaseException) -> None:
        """Give up all work; the first reason is what callers get."""
        with self._changed:
            self._stop_reason = self._stop_reason or reason
            self._hand_out_nothing()
        self._turns.wake_all()

    def _hand_out_nothing(self) -> None:
        self._waiting.clear()
        self._read.clear()
        self._changed.notify_all()
        for call in self._calls:
            call.changed.notify_all()

    def is_stopped(self) -> bool:
        """Tell whether `stop` was called."""
        return self._stop_reason is not None

    def stopping_within(self, timeout_s: float) -> bool:
        """Wait so long for `stop`; returns whether it was called."""
        with self._changed:
            return self._changed.wait_for(self.is_stopped, timeout=timeout_s)

    def wait_until_idle(self) -> None:
        """Wait until no clip is with an actor."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0 or self.is_stopped())

    # 2. What waits

    def num_waiting(self) -> int:
        """Return how many clips wait for an actor."""
        return len(self._waiting)

    def num_left(self) -> int:
        """Return how many clips have no row yet: here, or on their way here."""
        return self._board.num_left(self._stage)

    def wait_for_work(self, unless: Callable[[], bool] = lambda: False) -> bool:
        """Wait until a clip may be taken; False where all was stopped, or where `unless` says so after a `wake`."""
        with self._changed:
            while not self.is_stopped() and not unless():
                # Before looking: what may start between the two is not missed.
                delay_s = self._delay_s()
                if next(self._startable(), None) is not None:
                    return True
                self._changed.wait(delay_s)
            return False

    def wake(self) -> None:
        """Let whoever waits for work look again."""
        with self._changed:
            self._changed.notify_all()

    def may_start(self, number: int, seat: Seat, *, any_seat: bool) -> bool:
        """Tell whether so many clips may start now; without `any_seat`, none whose inputs another seat has read."""
        if not self._waiting or not self._may_run_ahead():
            return False
        with self._changed:
            for pending in self._startable():
                number -= any_seat or pending.read_by in (None, seat)
                if number <= 0:
                    return True
            return False

    def delay_s(self) -> float | None:
        """Return in how many seconds the next clip may start that may not yet; None where there is none."""
        with self._changed:
            return self._delay_s()

    def _delay_s(self) -> float | None:
        now_s = time.monotonic()
        delays_s = (pending.not_before_s - now_s for pending in self._waiting if pending.not_before_s)
        return min((delay_s for delay_s in delays_s if delay_s > 0), default=None)

    def _startable(self) -> Iterator[Pending]:
        now_s = time.monotonic()
        return (pending for pending in self._waiting if pending.not_before_s <= now_s)

    # 3. For actors

    def note_failure(self, pending: Pending, raised: Raised) -> None:
        """Note that a try at a clip failed, whatever becomes of the clip."""
        self._board.note_failure(self._stage, raised.reason.error_type)
        work, reason, effort = pending.work, raised.reason, raised.effort
        event(
            "try failed",
            clip=work.clip.clip_id,
            shard=work.shard_id,
            attempt=work.attempt,
            tries_before=pending.attempts,
            action=raised.action.value,
            error_type=reason.error_type,
            error_message=reason.error_message,
            actor=effort.actor_id,
            duration_s=round(effort.duration_s, 4),
        )

    def take(self, batch_size: int, seat: Seat) -> list[Pending]:
        """Take the next batch: clips whose time has come, one alone where it has to be; empty where there are none.

        What the seat's own actor has read comes first, what another has read last.
        """
        batch: list[Pending] = []
        with self._changed:
            for pending in self._best(seat, batch_size):
                if batch and pending.alone:
                    break
                batch.append(pending)
                if pending.alone or len(batch) == batch_size:
                    break
            for pending in batch:
                self._waiting.remove(pending)
                if pending.read_by is not None:
                    del self._read[pending.read_by]
                    pending.read_by = None
                pending.call.in_flight += 1
            self._in_flight += len(batch)
        self._board.start(self._stage, len(batch))
        return batch

    def _best(self, seat: Seat, batch_size: int) -> Iterable[Pending]:
        if batch_size > 1:
            return self._startable()
        if seat in self._read:
            return [self._read[seat]]
        unread = (pending for pending in self._startable() if pending.read_by is None)
        best = next(unread, None) or next(self._startable(), None)
        return [] if best is None else [best]

    def read_ahead(self, seat: Seat, may: Callable[[ClipWork], bool]) -> ClipWork | None:
        """Return a clip whose inputs the seat's actor may read now, None where it has one or there is none."""
        with self._changed:
            if seat in self._read:
                return None
            for pending in self._startable():
                if pending.read_by is None and not pending.alone and may(pending.work):
                    pending.read_by = seat
                    self._read[seat] = pending
                    return pending.work
            return None

    def forget_read(self, seat: Seat) -> None:
        """Note that what a seat's actor has read is gone with it."""
        with self._changed:
            if (pending := self._read.pop(seat, None)) is not None:
                pending.read_by = None

    def put_back(self, pending: Pending, *, first: bool) -> None:
        """Let a clip wait for another try, before or behind all others; where nothing is handed out, it is left."""
        self._board.put_back(self._stage, 1)
        with self._changed:
            self._leave_flight(pending)
            if self._stop_reason is None and self._drain_reason is None:
                (self._waiting.appendleft if first else self._waiting.append)(pending)
                self._changed.notify_all()
        if pending.not_before_s > time.monotonic():
            self._turns.wake_all()
        else:
            self._turns.look()

    def finish(self, rows: Sequence[tuple[Pending, ManifestRow]]) -> None:
        """Give clips their rows; those of one caller together, since each time that it is told wakes who reads them."""
        by_call: dict[_Call, list[ManifestRow]] = {}
        for pending, row in rows:
            self._board.finish(row, was_running=True)
            by_call.setdefault(pending.call, []).append(row)
        for call, its_rows in by_call.items():
            call.on_rows(its_rows)
        self._give_results(rows)

    def hand_back(self, pending: Pending, lost: UpstreamLost) -> None:
        """Give a clip back to its caller without a row."""
        self._board.put_back(self._stage, 1)
        self._give_results([(pending, lost)])

    def _give_results(self, results: Sequence[tuple[Pending, ManifestRow | UpstreamLost]]) -> None:
        with self._changed:
            for pending, result in results:
                pending.call.results.append(result)
                pending.call.remaining -= 1
                self._leave_flight(pending)

    def _leave_flight(self, pending: Pending) -> None:
        pending.call.in_flight -= 1
        self._in_flight -= 1
        if pending.call.remaining == 0 or self._gives_up(pending.call):
            pending.call.changed.notify_all()
        if self._in_flight == 0:
            self._changed.notify_all()
