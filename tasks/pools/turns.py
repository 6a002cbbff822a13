"""Who computes next: actors that share a device take turns on it, a batch each, the last stage that has work first.

Every actor that shares a GPU holds its weights there; with a turn it has the whole device. No device idles while any of
its stages has work, so no sizes have to fit the stages' speeds: whoever gets slower simply gets more of the time.
"""

import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol


class Waiting(Protocol):
    """What turns ask of the clips that wait for a stage."""

    def may_start(self, number: int, seat: "Seat", *, any_seat: bool) -> bool:
        """Tell whether so many clips may start now; without `any_seat`, none whose inputs another seat has read."""

    def delay_s(self) -> float | None:
        """Return in how many seconds the next clip may start that may not yet; None where there is none."""

    def is_stopped(self) -> bool:
        """Tell whether no more turns are wanted."""


@dataclass(eq=False)
class Seat:
    """One actor's place at a device. `rank` grows with the stage; without a `device` it has one of its own."""

    rank: int
    waiting: Waiting
    changed: threading.Condition
    device: Hashable = None
    # Its turn; whether it has yet to take the clips that the turn is for; whether it is wanted elsewhere.
    granted: bool = False
    about_to_take: bool = False
    called: bool = False

    def key(self) -> Hashable:
        """Return what names the device."""
        return self if self.device is None else self.device


class Turns:
    """The devices of one run and the seats that wait for them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[Hashable, Seat] = {}
        self._waiting: list[Seat] = []
        self._about_to_take: Counter[Waiting] = Counter()

    def new_seat(self, rank: int, waiting: Waiting) -> Seat:
        """Return a seat for an actor."""
        return Seat(rank, waiting, threading.Condition(self._lock))

    def wait(self, seat: Seat) -> bool:
        """Wait until it is the seat's turn and there is work for it; False where it was called, or all was stopped."""
        with self._lock:
            self._waiting.append(seat)
            try:
                while not seat.granted and not seat.called and not seat.waiting.is_stopped():
                    # Before looking: what may start between the two is not missed.
                    delay_s = seat.waiting.delay_s()
                    self._match()
                    if not seat.granted:
                        seat.changed.wait(delay_s)
                return seat.granted
            finally:
                self._waiting.remove(seat)
                seat.called = False

    def taken(self, seat: Seat) -> None:
        """Note that the seat has taken what its turn is for, or found nothing; twice is fine."""
        with self._lock:
            self._taken(seat)
            self._match()

    def release(self, seat: Seat) -> None:
        """End a seat's turn; twice is fine."""
        with self._lock:
            if seat.granted:
                self._taken(seat)
                seat.granted = False
                del self._holders[seat.key()]
                self._match()

    def look(self) -> None:
        """Grant what can be granted: work has come, or room for what is made of it."""
        with self._lock:
            self._match()

    def call(self, seat: Seat) -> None:
        """Call a seat that waits back to its actor, or the next time that it would wait."""
        with self._lock:
            seat.called = True
            seat.changed.notify_all()

    def wake_all(self) -> None:
        """Let every seat look for itself: its stage was stopped, or a clip waits for a later time."""
        with self._lock:
            for seat in self._waiting:
                seat.changed.notify_all()

    def is_busy(self, seat: Seat) -> bool:
        """Tell whether the seat's device is at work."""
        return seat.key() in self._holders

    def _taken(self, seat: Seat) -> None:
        self._about_to_take[seat.waiting] -= seat.about_to_take
        seat.about_to_take = False

    def _match(self) -> None:
        free = [seat for seat in self._waiting if seat.key() not in self._holders and not seat.called]
        if not free:
            return
        free.sort(key=lambda seat: -seat.rank)
        # What another seat has read ahead is taken over only where there is nothing else to do.
        for any_seat in (False, True):
            for seat in free:
                if seat.key() in self._holders:
                    continue
                if seat.waiting.may_start(self._about_to_take[seat.waiting] + 1, seat, any_seat=any_seat):
                    seat.granted = seat.about_to_take = True
                    self._holders[seat.key()] = seat
                    self._about_to_take[seat.waiting] += 1
                    seat.changed.notify_all()
