"""What Prometheus scrapes from Ray while a run works: counts of each clip as it ends, and samples of pools and board.

docs/observability.md lists the names; Ray puts `ray_` before them and `_total` behind counters. All come from the
driver's process, so a clip counts once whatever its actor reports or dies of.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from magicvideo_core.logs import event
from magicvideo_core.manifest.schema import ManifestRow
from tasks.pools.slot import PoolLoad
from tasks.progress import STATES, ProgressBoard, StageLoad

# From a cached image to a clip of several minutes.
_DURATION_BUCKETS_S = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0]
_SAMPLE_EVERY_S = 0.5
# What "busy now" goes by.
_BUSY_WINDOW_S = 10.0


class RunMetrics:
    """The metrics of one run, in Ray's registry of this process; make it once Ray is connected."""

    def __init__(self, run_id: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        self._run = {"run_id": run_id}

        def counter(name: str, description: str, *tags: str) -> Any:
            return Counter(f"magicvideo_{name}", description, ("run_id", "stage", *tags))

        def gauge(name: str, description: str, *tags: str) -> Any:
            return Gauge(f"magicvideo_{name}", description, ("run_id", "stage", *tags))

        self._finished = counter("clips_finished", "Clips that an actor brought to a terminal row.", "status")
        self._failures = counter("failures", "Failed tries at a clip, those that were tried again included.", "type")
        self._gpu = counter("gpu_seconds", "GPU-seconds that terminal rows record.")
        self._busy_s = counter("actor_busy_seconds", "Seconds that loaded actors had a clip.")
        self._loaded_s = counter("actor_loaded_seconds", "Seconds that actors were loaded, busy or not.")
        self._clips = gauge("clips", "Clips of the run by state.", "state")
        self._queue = gauge("queue_clips", "Clips that wait for an actor.")
        self._actors = gauge("actors", "Loaded actors.")
        self._busy = gauge("busy_fraction", f"Share of the loaded actors at work, over {_BUSY_WINDOW_S:g} s.")
        self._duration = Histogram(
            "magicvideo_clip_duration_seconds",
            "Seconds that a clip took in a stage, where it succeeded.",
            _DURATION_BUCKETS_S,
            ("run_id", "stage"),
        )

    def finished(self, row: ManifestRow) -> None:
        """Count a clip that an actor is done with."""
        tags = {**self._run, "stage": row.stage}
        self._finished.inc(1, {**tags, "status": row.status})
        if row.gpu_s:
            self._gpu.inc(row.gpu_s, tags)
        if row.status == "succeeded" and row.duration_s is not None:
            self._duration.observe(row.duration_s, tags)

    def failed(self, stage: str, error_type: str) -> None:
        """Count a failed try."""
        self._failures.inc(1, {**self._run, "stage": stage, "type": error_type})

    def sample(self, board: ProgressBoard, loads: Mapping[str, StageLoad]) -> None:
        """Set the gauges to what board and pools say."""
        for stage, counts in board.snapshot().items():
            for state in STATES:
                self._clips.set(getattr(counts, state), {**self._run, "stage": stage, "state": state})
        for stage, load in loads.items():
            tags = {**self._run, "stage": stage}
            self._queue.set(load.queue, tags)
            self._actors.set(load.actors, tags)
            self._busy.set(load.busy_fraction or 0.0, tags)

    def worked(self, stage: str, busy_s: float, loaded_s: float) -> None:
        """Add to the seconds that actors were busy and loaded."""
        tags = {**self._run, "stage": stage}
        for counter, seconds in ((self._busy_s, busy_s), (self._loaded_s, loaded_s)):
            if seconds > 0:
                counter.inc(seconds, tags)


class MeteredBoard(ProgressBoard):
    """A board that also counts for Prometheus, once it has `metrics`, and writes what finished to the log."""

    def __init__(self, stages: Sequence[str], num_clips: int) -> None:
        super().__init__(stages, num_clips)
        self.metrics: RunMetrics | None = None

    def finish(self, row: ManifestRow, *, was_running: bool) -> None:
        super().finish(row, was_running=was_running)
        # Others were durable before, taken over or skipped: no actor had them.
        if not was_running:
            return
        if self.metrics is not None:
            self.metrics.finished(row)
        event(
            "clip finished",
            stage=row.stage,
            shard=row.shard_id,
            clip=row.clip_id,
            attempt=row.attempt,
            status=row.status,
            duration_s=row.duration_s and round(row.duration_s, 4),
            error_type=row.error_type,
            actor=row.actor_id,
        )

    def note_failure(self, stage: str, error_type: str) -> None:
        if self.metrics is not None:
            self.metrics.failed(stage, error_type)


class LoadMeter:
    """Samples how busy the pools are, onto the board and into the metrics, in a thread of its own."""

    def __init__(self, board: ProgressBoard, loads: Mapping[str, Callable[[], PoolLoad]], metrics: RunMetrics) -> None:
        self._board = board
        self._loads = loads
        self._metrics = metrics
        self._seen: dict[str, deque[tuple[float, PoolLoad]]] = {stage: deque() for stage in loads}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sample_often, name="load-meter", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the last sample and end."""
        self._ending.set()
        self._thread.join()

    def _sample_often(self) -> None:
        while not self._ending.wait(_SAMPLE_EVERY_S):
            self._sample()
        self._sample()

    def _sample(self) -> None:
        loads = {}
        for stage, load in self._loads.items():
            seen, now, at_s = self._seen[stage], load(), time.monotonic()
            before = seen[-1][1] if seen else PoolLoad(0, 0, 0.0, 0.0)
            self._metrics.worked(stage, now.busy_s - before.busy_s, now.loaded_s - before.loaded_s)
            seen.append((at_s, now))
            while len(seen) > 2 and at_s - seen[1][0] >= _BUSY_WINDOW_S:
                seen.popleft()
            loads[stage] = StageLoad(now.waiting, now.actors, _busy_fraction(seen[0][1], now))
            self._board.note_load(stage, loads[stage])
        self._metrics.sample(self._board, loads)


def _busy_fraction(before: PoolLoad, now: PoolLoad) -> float | None:
    """Return which share of the loaded actors' time was work between two samples; None where none was loaded."""
    loaded_s = now.loaded_s - before.loaded_s
    return min(1.0, (now.busy_s - before.busy_s) / loaded_s) if loaded_s > 0 else None
