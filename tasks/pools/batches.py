"""Batches in the actors of a pool: one computes while the one before is stored, and what follows when either fails."""

import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import ClipTimeoutError
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.clip_work import Effort, Raised, Reason, Spent
from tasks.pools.failures import Action, classify
from tasks.pools.remote import PoolActor
from tasks.pools.slot import ActorSlot, Flight
from tasks.pools.storage_gate import StorageGate
from tasks.pools.turns import Turns
from tasks.pools.verdicts import Verdicts
from tasks.pools.work import Pending, WorkQueue

# The newest of what clips took counts for so much of their mean.
_NEWEST = 0.3
# A call to an actor takes milliseconds. Where clips do too, as many go into one call as compute in so long, once the
# first few have shown it. What a call waits for the batch before to be stored does not count: with it, busy cores would
# make for small calls, of which there are more, which keeps the cores busier.
_CALL_S = 0.15
_FIRST_FEW = 8


@dataclass(frozen=True)
class Crew:
    """What batches need of their pool; `bury` ends the actor of a slot: its error, and what speaks against the slot."""

    stage: str
    config: PoolConfig
    work: WorkQueue
    turns: Turns
    storage: StorageGate
    verdicts: Verdicts
    bury: Callable[[ActorSlot, str, str | None], None]
    stop: Callable[[BaseException], None]


class Batches:
    """Runs the batches of one pool. Methods are called by the thread of the slot that they get, but for `_collect`."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._lock = threading.Lock()
        self._gpu_s = 0.0
        self._number = 0
        self._num_clips = 0
        # As the pool sees it, and as the actors compute.
        self.seconds_per_clip: float | None = None
        self._compute_s_per_clip: float | None = None

    def gpu_s(self) -> float:
        """Return the GPU-seconds of the batches that have left their device."""
        return self._gpu_s

    def max_clips(self, slot: ActorSlot, num_actors: int) -> int:
        """Return how many clips may go to an actor in one call: a batch, or more where that takes next to no time."""
        config = self._crew.config
        # One by one after a death too: whose doing it was has to show.
        if self._compute_s_per_clip is None or self._num_clips < _FIRST_FEW or slot.strikes:
            return config.batch_size
        # What others could do meanwhile is not taken from them.
        share = ceil(self._crew.work.num_waiting() / max(num_actors, 1))
        left = config.recycle_after_clips - slot.clips_started if config.recycle_after_clips else share
        quick = int(_CALL_S / max(self._compute_s_per_clip, 1e-6))
        return max(config.batch_size, min(config.max_call_clips, quick, share, left))

    def run(self, slot: ActorSlot, batch: list[Pending]) -> None:
        """Compute a batch and give the device back. Its results come later; those of the batch before are there then.

        A clip that goes alone has the actor to itself, so that whatever happens there is its own doing.
        """
        actor, alone = slot.actor, batch[0].alone
        assert actor is not None
        if alone:
            slot.wait_until_stored()
        slot.flights = [flight for flight in slot.flights if flight.stored is None or not _is_settled(flight)]
        if slot.needs_care():
            for pending in reversed(batch):
                self._crew.work.put_back(pending, first=True)
            return
        flight = self._begin(batch)
        slot.flights.append(flight)
        slot.clips_started += len(batch)
        slot.batch_started_s = flight.started_s
        spent = None
        try:
            # What more than a batch goes in one call takes next to no time.
            timeout_s = self._crew.config.clip_timeout_s * min(len(batch), self._crew.config.batch_size)
            spent = actor.compute(flight.number, [pending.work for pending in batch], timeout_s)
        except Exception as error:
            flight.error = error
        finally:
            self._end(slot, flight, spent)
        if spent is None:
            self.mourn(slot)
            return
        flight.stored = slot.collector.submit(copy_context().run, self._collect, slot, actor, flight)
        # An actor that has nothing left to compute with gets no other batch: what is wrong with it is known once it is stored.
        slot.wait_until_stored(but=0 if alone or spent.has_worn_out else 1)

    def _begin(self, batch: list[Pending]) -> Flight:
        with self._lock:
            self._number += 1
            return Flight(self._number, batch, datetime.now(UTC), time.monotonic())

    def _end(self, slot: ActorSlot, flight: Flight, spent: Spent | None) -> None:
        took_s = time.monotonic() - flight.started_s
        with self._lock:
            self._gpu_s += slot.batch_gpu_s()
            self._num_clips += len(flight.batch)
            slot.end_batch()
            if spent is not None:
                self.seconds_per_clip = _mean(self.seconds_per_clip, took_s / len(flight.batch))
                self._compute_s_per_clip = _mean(self._compute_s_per_clip, spent.seconds / len(flight.batch))
        self._crew.turns.release(slot.seat)

    def _collect(self, slot: ActorSlot, actor: PoolActor, flight: Flight) -> None:
        """Wait for the results of a computed batch, in the slot's collector."""
        try:
            results = actor.collect(flight.number, self._crew.config.clip_timeout_s * len(flight.batch))
            self._settle(slot, flight, results)
        # A boundary: the slot's own thread sees to it.
        except Exception as error:
            flight.error = error
            self._crew.turns.call(slot.seat)

    def _settle(self, slot: ActorSlot, flight: Flight, results: list[ManifestRow | Raised]) -> None:
        """Take in what an actor returned."""
        batch, verdicts = flight.batch, self._crew.verdicts
        # Of a call with more than a batch, batches are computed one by one.
        in_company = min(len(batch), self._crew.config.batch_size) > 1
        by_id = {pending.work.clip.clip_id: pending for pending in batch}
        worn_out = next((r for r in results if isinstance(r, Raised) and r.action is Action.REPLACE_ACTOR), None)
        if worn_out is None:
            slot.strikes.clear()
        else:
            # Before the clip goes back: its next try is not for this actor.
            slot.worn_out = worn_out
            self._crew.turns.call(slot.seat)
        succeeded = [(by_id.pop(row.clip_id), row) for row in results if isinstance(row, ManifestRow)]
        if succeeded:
            verdicts.succeeded(succeeded)
        for result in results:
            if isinstance(result, Raised):
                verdicts.raised(by_id.pop(result.clip_id), result, in_company=in_company)
        if worn_out is not None:
            # With nothing left to compute with, the actor did not begin them.
            for pending in reversed(by_id.values()):
                self._crew.work.put_back(pending, first=True)
            return
        forgotten = Reason("RuntimeError", "the actor gave no result for the clip")
        for clip_id, pending in by_id.items():
            raised = Raised(clip_id, Action.RETRY_CLIP, forgotten, self._effort(slot, flight))
            verdicts.raised(pending, raised, in_company=in_company)

    def mourn(self, slot: ActorSlot) -> None:
        """Do what follows where an actor failed in a call: for the batch that computed, and the one being stored.

        Where both were in it, nobody knows whose doing it was: neither is blamed, and each goes alone from then on.
        """
        actor, crew = slot.actor, self._crew
        assert actor is not None
        # An actor that died answers at once, one that hangs has had the time by now.
        slot.wait_until_stored()
        lost = [flight for flight in slot.flights if flight.error is not None]
        if not lost or crew.work.is_stopped():
            return
        with self._lock:
            self._num_clips = 0
        # The last one has computed.
        batch = [pending for flight in lost for pending in flight.batch]
        suspect, error = lost[-1].batch[0].work.clip.clip_id, lost[-1].error
        assert error is not None
        clips = ", ".join(pending.work.clip.clip_id for pending in batch)
        failure = classify(error, f"{crew.stage} actor {slot.number}, clip {clips}")
        if failure.action is Action.STOP_POOL:
            crew.stop(failure.error)
            return
        efforts = {id(pending): self._effort(slot, flight) for flight in lost for pending in flight.batch}
        # Who waits for storage looks as if it hung.
        no_storage = isinstance(failure.error, ClipTimeoutError) and not crew.storage.answers()
        cut_off = failure.action is Action.REPLACE_ACTOR and (no_storage or actor.was_cut_off())
        slot.flights = []
        if failure.action is Action.REPLACE_ACTOR:
            # Before the clips go back, so that a pool without a live slot stops instead of taking them.
            # One poison clip strikes once however often it kills: only different clips speak against the machine.
            crew.bury(slot, str(failure.error), None if cut_off else suspect)
        settle = crew.verdicts.cut_off if cut_off else crew.verdicts.raised
        for pending in reversed(batch):
            reason = Reason.of(failure.error)
            raised = Raised(pending.work.clip.clip_id, failure.action, reason, efforts[id(pending)])
            settle(pending, raised, in_company=len(batch) > 1)

    def _effort(self, slot: ActorSlot, flight: Flight) -> Effort:
        info = slot.info
        share_s = (time.monotonic() - flight.started_s) / len(flight.batch)
        if info is None:
            return Effort(flight.started_at, share_s, 0.0, None, None)
        return Effort(flight.started_at, share_s, share_s * info.gpu_share, info.device, info.actor_id)


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + _NEWEST * (newest - before)


def _is_settled(flight: Flight) -> bool:
    return flight.error is None and flight.stored is not None and flight.stored.done()
