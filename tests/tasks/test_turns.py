"""Who computes next where actors share a device."""

import threading

from tasks.pools.turns import Seat, Turns


class Clips:
    """So many clips that wait for a stage; some of them have been read by the actor of a seat."""

    def __init__(self, number: int, read_by: Seat | None = None) -> None:
        self.number, self.read_by, self.stopped = number, read_by, False

    def may_start(self, number: int, seat: Seat, *, any_seat: bool) -> bool:
        own = any_seat or self.read_by in (None, seat)
        return own and self.number >= number

    def delay_s(self) -> float | None:
        return None

    def is_stopped(self) -> bool:
        return self.stopped


def seats(turns: Turns, *clips: Clips, device: str = "gpu") -> list[Seat]:
    found = [turns.new_seat(rank, waiting) for rank, waiting in enumerate(clips)]
    for seat in found:
        seat.device = device
    return found


def waiting(turns: Turns, *waiting_seats: Seat) -> list[threading.Thread]:
    """Let seats wait in threads of their own, until all of them do or one has its turn."""
    threads = [threading.Thread(target=turns.wait, args=(seat,), daemon=True) for seat in waiting_seats]
    for thread in threads:
        thread.start()
    while any(seat not in turns._waiting and not seat.granted for seat in waiting_seats):
        pass
    return threads


def test_one_at_a_time_the_last_stage_that_has_work_first() -> None:
    turns = Turns()
    first, second, third = seats(turns, Clips(1), Clips(1), Clips(0))
    [busy] = seats(turns, Clips(1))
    assert turns.wait(busy)
    threads = waiting(turns, first, second, third)
    assert not second.granted
    turns.release(busy)
    assert (first.granted, second.granted, third.granted) == (False, True, False)
    third.waiting.number = 1  # type: ignore[attr-defined]
    threads[1].join(timeout=20)
    turns.taken(second)
    turns.release(second)
    assert third.granted
    threads[2].join(timeout=20)
    turns.release(third)
    assert first.granted


def test_seats_at_other_devices_do_not_wait_and_one_clip_gives_one_turn() -> None:
    turns, clips = Turns(), Clips(1)
    [first], [second] = seats(turns, clips, device="one"), seats(turns, clips, device="two")
    alone = turns.new_seat(0, Clips(1))
    assert turns.wait(first) and turns.wait(alone)
    waiting(turns, second)
    turns.look()
    assert not second.granted
    turns.call(second)


def test_what_another_seat_has_read_is_taken_only_by_one_that_has_nothing_else() -> None:
    turns = Turns()
    elsewhere = turns.new_seat(1, Clips(0))
    clips = Clips(1, read_by=elsewhere)
    low, high = seats(turns, Clips(1), clips)
    [busy] = seats(turns, Clips(1))
    assert turns.wait(busy)
    threads = waiting(turns, low, high)
    turns.release(busy)
    assert (low.granted, high.granted) == (True, False)
    threads[0].join(timeout=20)
    low.waiting.number = 0  # type: ignore[attr-defined]
    turns.release(low)
    assert high.granted


def test_whoever_is_called_or_stopped_gets_no_turn() -> None:
    turns, clips = Turns(), Clips(0)
    [seat] = seats(turns, clips)
    turns.call(seat)
    assert not turns.wait(seat)
    [thread] = waiting(turns, seat)
    clips.stopped = True
    turns.wake_all()
    thread.join(timeout=20)
    assert not thread.is_alive()
