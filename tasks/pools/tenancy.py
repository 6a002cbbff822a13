"""Whose a stage actor is: of the run that uses it, or of nobody, and then for how long it still waits for another run."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("magicvideo_core", "tasks")
# How often what waits warm asks itself whether it has waited for long enough.
_LOOK_EVERY_S = 1.0
_LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "av")


@dataclass(frozen=True)
class WarmTerms:
    """What an actor needs to know to outlive its run: what it can be taken over as, and how long it waits for that.

    `key` says what it has loaded, and by what code (`warm.warm_key`). After `idle_s` without a run it ends itself, after
    `hang_s` also where it is still at work for a driver that is gone. A run that is not heard of for `lease_s` has lost its
    driver; it is heard of several times as often.
    """

    key: str
    idle_s: float
    hang_s: float
    lease_s: float


@cache
def code_version() -> str:
    """Return a hash of this process's code: its own sources, and the versions of what computes."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.submodule_search_locations
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    for library in _LIBRARIES:
        digest.update(f"{library}={metadata.version(library)}".encode())
    return digest.hexdigest()[:16]


class Tenancy:
    """Who has an actor. Thread-safe; `clock` counts seconds."""

    def __init__(self, owner: str, terms: WarmTerms | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Without `terms` it is its first owner's for good."""
        self._lock = threading.Lock()
        self._clock = clock
        self._owner: str | None = owner
        self._terms = terms
        self._heard_s = clock()
        self._at_work = 0
        self._ended = False

    def claim(self, owner: str, terms: WarmTerms) -> bool:
        """Make the actor that of a run, where it fits and nobody has it: neither a live run nor work of a dead one."""
        with self._lock:
            if self._terms is None or terms.key != self._terms.key or not self._is_free():
                return False
            self._owner, self._terms, self._heard_s = owner, terms, self._clock()
            return True

    def hear(self, owner: str) -> None:
        """Note that the run lives."""
        with self._lock:
            if owner == self._owner:
                self._heard_s = self._clock()

    def release(self, owner: str) -> None:
        """Make it nobody's, to wait for another run."""
        with self._lock:
            if owner == self._owner:
                self._owner, self._heard_s = None, self._clock()

    def end_if_free(self) -> bool:
        """Let nobody take the actor any more, where nobody has it; tells whether that is so."""
        with self._lock:
            is_free = self._is_free()
            self._ended = self._ended or is_free
            return is_free

    def end_if_over(self) -> bool:
        """Let nobody take the actor any more, where it has waited for long enough; tells whether it is to end."""
        with self._lock:
            self._ended = self._ended or self._is_over()
            return self._ended

    def wait_until_over(self) -> None:
        """Wait until `end_if_over`."""
        while not self.end_if_over():
            time.sleep(_LOOK_EVERY_S)

    @contextmanager
    def at_work_for(self, owner: str) -> Iterator[bool]:
        """Tell whether a run has the actor; if so the time inside is work, during which nobody takes it over."""
        with self._lock:
            is_owner = owner == self._owner
            self._at_work += is_owner
        try:
            yield is_owner
        finally:
            with self._lock:
                self._at_work -= is_owner
                if is_owner:
                    # The run may be gone since: from here on it waits.
                    self._heard_s = self._clock()

    def is_free(self) -> bool:
        """Tell whether a run may take the actor."""
        with self._lock:
            return self._is_free()

    def idle_s(self) -> float:
        """Return the seconds since the actor worked, or its run was heard of."""
        with self._lock:
            return self._clock() - self._heard_s

    def idle_limit_s(self) -> float:
        """Return for how long it waits for a run."""
        return self._terms.idle_s if self._terms is not None else 0.0

    def _is_free(self) -> bool:
        if self._terms is None or self._at_work or self._ended:
            return False
        return self._owner is None or self._clock() - self._heard_s > self._terms.lease_s

    def _is_over(self) -> bool:
        if self._terms is None:
            return False
        silent_s = self._clock() - self._heard_s
        if self._at_work:
            return silent_s > self._terms.lease_s + self._terms.hang_s
        return self._is_free() and silent_s > self._terms.idle_s
