"""CPU time of a process and all that it has started, at any moment of the past: sampled from /proc, in a thread."""

import os
import threading
import time
from bisect import bisect_left
from pathlib import Path

_EVERY_S = 0.25
_TICKS = os.sysconf("SC_CLK_TCK")


class CpuTime:
    """Samples the CPU seconds of this process's descendants and itself from its making to `close`."""

    def __init__(self) -> None:
        # By pid: what ended stays counted.
        self._seconds: dict[int, float] = {}
        self._at_s: list[float] = []
        self._total_s: list[float] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more samples."""
        self._ending.set()
        self._thread.join()

    def between(self, start_s: float, end_s: float) -> float:
        """Return the CPU seconds between two times (seconds since 1970), to a sample's distance."""
        last = len(self._at_s) - 1
        first, second = (min(bisect_left(self._at_s, at_s), last) for at_s in (start_s, end_s))
        return self._total_s[second] - self._total_s[first]

    def _sample(self) -> None:
        while not self._ending.wait(_EVERY_S):
            self._seconds.update(_tree_seconds(os.getpid()))
            self._at_s.append(time.time())
            self._total_s.append(sum(self._seconds.values()))


def _tree_seconds(root: int) -> dict[int, float]:
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # After the name, which may hold anything, in parentheses.
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(folder.name)
        parents[pid], seconds[pid] = int(words[1]), (int(words[11]) + int(words[12])) / _TICKS
    found: dict[int, float] = {}
    for pid in parents:
        above = pid
        while above not in (root, 0, 1) and above in parents:
            above = parents[above]
        if above == root:
            found[pid] = seconds[pid]
    return found
