"""What becomes of a clip that came back without an artifact: another try, a row that says why, or its caller again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import StorageLostError
from magicvideo_core.manifest.schema import ManifestRow, Status
from tasks.pools.clip_work import ClipWork, Effort, Raised, Reason, UpstreamLost
from tasks.pools.failures import Action
from tasks.pools.storage_gate import StorageGate, backoff_s
from tasks.pools.work import Pending, WorkQueue

# A clip that outlives this many lost machines begins to be suspected of having a part in it.
_MAX_CUTS = 10

# Fewer failures in a row may be the same hiccup, met by several actors.
_MIN_FAILURES_IN_A_ROW = 3

# Makes the terminal row of a clip that the pool gives up, and makes it durable.
GiveUp = Callable[[ClipWork, Status, Reason, Effort | None], ManifestRow]


class Verdicts:
    """Decides over the clips of one pool. Every method ends a clip's stay with its actor."""

    def __init__(self, config: PoolConfig, work: WorkQueue, storage: StorageGate, give_up: GiveUp) -> None:
        self._config = config
        self._work = work
        self._storage = storage
        self._give_up_hook = give_up
        self._last_success_s = time.monotonic()
        # Since the last success: when storage first failed a clip, and how often it did.
        self._failing_since_s: float | None = None
        self._failures_in_a_row = 0

    def succeeded(self, rows: Sequence[tuple[Pending, ManifestRow]]) -> None:
        """Pass on rows that are durable."""
        self._last_success_s = time.monotonic()
        self._failing_since_s, self._failures_in_a_row = None, 0
        self._work.finish(rows)

    def raised(self, pending: Pending, raised: Raised, *, in_company: bool) -> None:
        """Do what follows from an error; `in_company` says that a batch-mate may be to blame for it.

        Raises StorageLostError where the patience with storage has ended.
        """
        self._work.note_failure(pending, raised)
        match raised.action:
            case Action.FAIL_CLIP:
                self._give_up(pending, "failed", raised.reason, raised.effort)
            case Action.REMAKE_UPSTREAM:
                assert raised.lost_stage is not None
                self._work.hand_back(pending, UpstreamLost(raised.clip_id, raised.lost_stage, raised.reason))
            case Action.AWAIT_STORAGE:
                self._await_storage(pending, raised)
            case _:
                self._try_again(pending, raised, in_company=in_company)

    def cut_off(self, pending: Pending, raised: Raised, *, in_company: bool) -> None:
        """Put a clip back whose machine, network or storage is gone; too often speaks against it all the same."""
        pending.cuts += 1
        if pending.cuts <= _MAX_CUTS:
            self._work.note_failure(pending, raised)
            self._work.put_back(pending, first=True)
        else:
            self.raised(pending, raised, in_company=in_company)

    def _try_again(self, pending: Pending, raised: Raised, *, in_company: bool) -> None:
        """Put a clip back into the queue, or give it up after its last attempt.

        Nobody in a larger batch is blamed: each goes alone from then on. A clip that took its actor with it goes
        first: it is quarantined before the pool meets enough other poison clips to take the machine for bad, so every
        run of the same clips gets further than the last.
        """
        pending.attempts += 0 if in_company else 1
        if pending.attempts < self._config.max_clip_attempts:
            pending.alone = True
            self._work.put_back(pending, first=raised.action is Action.REPLACE_ACTOR)
            return
        message = f"given up after {pending.attempts} attempts: {raised.reason.error_message}"
        self._give_up(pending, "quarantined", replace(raised.reason, error_message=message), raised.effort)

    def _await_storage(self, pending: Pending, raised: Raised) -> None:
        """Put a clip back unblamed, for when storage answers; where it does for all others, the clip fails."""
        now_s = time.monotonic()
        self._check_patience(now_s, raised)
        pending.storage_failures += 1
        if pending.storage_failing_since_s is None:
            pending.storage_failing_since_s = now_s
        failing_s = now_s - pending.storage_failing_since_s
        if failing_s <= self._config.storage_patience_s:
            self._storage.shut()
            pending.not_before_s = now_s + backoff_s(pending.storage_failures)
            self._work.put_back(pending, first=False)
        elif self._last_success_s > pending.storage_failing_since_s:
            self._give_up(pending, "failed", raised.reason, raised.effort)
        else:
            raise StorageLostError(
                f"Storage has failed clip {raised.clip_id} for {failing_s:.0f} s (pool.storage_patience_s): "
                f"{raised.reason.error_message}"
            )

    def _check_patience(self, now_s: float, raised: Raised) -> None:
        """Raise StorageLostError where storage answers and takes nothing, one clip after the other: a disk is full."""
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        self._failures_in_a_row += 1
        failing_s = now_s - self._failing_since_s
        if failing_s > self._config.storage_patience_s and self._failures_in_a_row >= _MIN_FAILURES_IN_A_ROW:
            raise StorageLostError(
                f"Storage has taken nothing for {failing_s:.0f} s (pool.storage_patience_s), {self._failures_in_a_row} "
                f"clips in a row: {raised.reason.error_message}"
            )

    def _give_up(self, pending: Pending, status: Status, reason: Reason, effort: Effort) -> None:
        row = self._storage.persist(lambda: self._give_up_hook(pending.work, status, reason, effort))
        if row is not None:
            self._work.finish([(pending, row)])
