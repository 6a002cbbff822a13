"""Waiting for storage that does not answer: nothing is computed that could not be kept, and no clip is blamed."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from magicvideo_core.errors import StorageLostError, TransientError

logger = logging.getLogger(__name__)

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0

T = TypeVar("T")


def backoff_s(failures: int) -> float:
    """Return how long to wait after this many failures in a row: 1 s, doubling to 30 s."""
    return min(_FIRST_DELAY_S * 2 ** min(failures - 1, 10), _LONGEST_DELAY_S)


class StorageGate:
    """Open while storage works. Thread-safe; the first thread that finds it shut looks after storage for all."""

    def __init__(self, probe: Callable[[], object], patience_s: float, stopping: Callable[[float], bool]) -> None:
        """`probe` raises while storage does not work; `stopping` waits so many seconds and says whether to give up."""
        self._probe = probe
        self._patience_s = patience_s
        self._stopping = stopping
        self._shut = False
        self._one_looks = threading.Lock()

    def shut(self) -> None:
        """Note that storage failed."""
        self._shut = True

    def answers(self) -> bool:
        """Look after storage once; where it does not work, the gate is shut."""
        try:
            self._probe()
        except (TransientError, OSError):
            self.shut()
            return False
        return True

    def wait(self) -> None:
        """Wait until storage answers, or the pool stops. Raises StorageLostError when the patience has ended."""
        if self._shut:
            with self._one_looks:
                if self._shut:
                    self.persist(self._probe)
                    self._shut = False

    def persist(self, call: Callable[[], T]) -> T | None:
        """Return what `call` returns, trying again while storage fails it; None where the pool stops meanwhile.

        Raises StorageLostError when the patience has ended.
        """
        started_s, failures = time.monotonic(), 0
        while True:
            try:
                return call()
            except (TransientError, OSError) as error:
                failures += 1
                waited_s = time.monotonic() - started_s
                delay_s = min(backoff_s(failures), self._patience_s - waited_s)
                logger.warning("waiting for storage for %.0f s: %s: %s", waited_s, type(error).__name__, error)
                if delay_s <= 0:
                    raise StorageLostError(
                        f"Storage did not come back within {self._patience_s:g} s (pool.storage_patience_s): {error}"
                    ) from error
                if self._stopping(delay_s):
                    return None
