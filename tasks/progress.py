"""How far a run is: live counts per stage while it works, and the same counts read back from its manifests."""

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.session import FoundDone
from magicvideo_core.manifest.tally import Tally, tally_run
from magicvideo_core.storage import Storage

# Where a clip can be in a stage; the fields of `StageCounts` that count clips.
STATES = ("pending", "running", "succeeded", "failed", "quarantined", "skipped")
# Of all failures a board remembers the latest.
_NUM_REMEMBERED = 50


@dataclass
class StageCounts:
    """Clips of one stage by where they are; `clip_s` is the time of those that succeeded, added up."""

    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    quarantined: int = 0
    skipped: int = 0
    clip_s: float = 0.0

    @property
    def seconds_per_clip(self) -> float | None:
        """Mean seconds that one clip took in this stage, or None while none has succeeded."""
        return self.clip_s / self.succeeded if self.succeeded else None

    @property
    def unsuccessful(self) -> int:
        """Clips that ended in any other way than success."""
        return self.failed + self.quarantined + self.skipped

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values, seconds per clip included."""
        counts = asdict(self)
        del counts["clip_s"]
        seconds = self.seconds_per_clip
        return {**counts, "seconds_per_clip": None if seconds is None else round(seconds, 4)}


@dataclass(frozen=True)
class StageLoad:
    """How busy a stage's pool is now: clips that wait for an actor, loaded actors, and the share of these (0..1) at work.

    `busy_fraction` is None while no actor is loaded.
    """

    queue: int
    actors: int
    busy_fraction: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the load as plain JSON values."""
        busy = self.busy_fraction
        return {"queue": self.queue, "actors": self.actors, "busy": None if busy is None else round(busy, 3)}


class ProgressBoard:
    """Live counts of every stage of one run; written by pools and tasks, read by whoever shows progress."""

    def __init__(self, stages: Sequence[str], num_clips: int) -> None:
        self._lock = threading.Lock()
        self._counts = {stage: StageCounts(pending=num_clips) for stage in stages}
        # By (stage, shard): the clips whose rows were counted; of a shard that is `settled`, those that were not.
        self._counted: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._settled: dict[tuple[str, int], set[str]] = {}
        self._loads: dict[str, StageLoad] = {}
        self._failures: deque[ManifestRow] = deque(maxlen=_NUM_REMEMBERED)

    def num_left(self, stage: str) -> int:
        """Return how many clips have no row yet in a stage."""
        with self._lock:
            return self._counts[stage].pending + self._counts[stage].running

    def start(self, stage: str, num_clips: int) -> None:
        """Note that clips went to an actor."""
        with self._lock:
            self._counts[stage].pending -= num_clips
            self._counts[stage].running += num_clips

    def put_back(self, stage: str, num_clips: int) -> None:
        """Note that clips left an actor without a result."""
        self.start(stage, -num_clips)

    def finish(self, row: ManifestRow, *, was_running: bool) -> None:
        """Note a terminal row; `was_running` says whether `start` was called for its clip.

        A row counts once, also where a task that is tried again reads it back.
        """
        with self._lock:
            if not self._note(row):
                return
            counts = self._counts[row.stage]
            if was_running:
                counts.running -= 1
            else:
                counts.pending -= 1
            _add(counts, row)
            if row.status in ("failed", "quarantined"):
                self._failures.append(row)

    def reopen(self, row: ManifestRow) -> None:
        """Note that a clip which had a terminal row is to be made again; one that was not counted stays pending."""
        shard = (row.stage, row.shard_id)
        with self._lock:
            if shard in self._settled:
                was_counted = row.clip_id not in self._settled[shard]
                self._settled[shard].add(row.clip_id)
            else:
                was_counted = row.clip_id in self._counted[shard]
                self._counted[shard].discard(row.clip_id)
            if was_counted:
                self._counts[row.stage].pending += 1
                _add(self._counts[row.stage], row, -1)

    def settle(self, stage: str, shard_id: int) -> None:
        """Note that every clip of a shard has its row: from here on nothing is remembered of each."""
        with self._lock:
            self._counted.pop((stage, shard_id), None)
            self._settled[stage, shard_id] = set()

    def note_failure(self, stage: str, error_type: str) -> None:
        """Note that a try at a clip failed; most clips are tried again, so this is no row."""

    def note_load(self, stage: str, load: StageLoad) -> None:
        """Note how busy a stage's pool is."""
        with self._lock:
            self._loads[stage] = load

    def loads(self) -> dict[str, StageLoad]:
        """Return how busy the pools are, by stage; empty before they are there."""
        with self._lock:
            return dict(self._loads)

    def failures(self) -> list[ManifestRow]:
        """Return the rows of the latest clips that failed or were quarantined."""
        with self._lock:
            return list(self._failures)

    def _note(self, row: ManifestRow) -> bool:
        """Remember that a row was counted; False where it had been."""
        shard = (row.stage, row.shard_id)
        if shard in self._settled:
            was_missing = row.clip_id in self._settled[shard]
            self._settled[shard].discard(row.clip_id)
            return was_missing
        if row.clip_id in self._counted[shard]:
            return False
        self._counted[shard].add(row.clip_id)
        return True

    def snapshot(self) -> dict[str, StageCounts]:
        """Return a copy of the counts."""
        with self._lock:
            return {stage: StageCounts(**asdict(counts)) for stage, counts in self._counts.items()}


def found_done(storage: Storage) -> FoundDone:
    """Return how much of a run has succeeded so far, in all its stages: what a session that continues it need not do.

    What was taken over from another run is not counted: reuse has saved it, not this run's own work.
    """
    done = tally_run(storage, STAGES).select(status="succeeded", is_reused=False)
    return FoundDone(done.num_clips, done.duration_s, done.gpu_s)


def count_tally(stages: Sequence[str], num_clips: int, tally: Tally) -> dict[str, StageCounts]:
    """Return the counts of a run from the tally of its terminal rows; what has no row yet is pending."""
    counts = {stage: StageCounts(pending=num_clips) for stage in stages}
    for kind, total in tally.sums.items():
        stage = counts[kind.stage]
        stage.pending -= total.num_clips
        setattr(stage, kind.status, getattr(stage, kind.status) + total.num_clips)
        stage.clip_s += total.duration_s if kind.status == "succeeded" else 0.0
    return counts


def count_rows(stages: Sequence[str], num_clips: int, rows: Iterable[ManifestRow]) -> dict[str, StageCounts]:
    """Count terminal rows per stage; what has no row yet is pending."""
    counts = {stage: StageCounts(pending=num_clips) for stage in stages}
    for row in rows:
        counts[row.stage].pending -= 1
        _add(counts[row.stage], row)
    return counts


def all_succeeded(counts: Mapping[str, StageCounts]) -> bool:
    """Tell whether every clip succeeded in every stage."""
    return not any(stage.pending + stage.running + stage.unsuccessful for stage in counts.values())


def _add(counts: StageCounts, row: ManifestRow, times: int = 1) -> None:
    setattr(counts, row.status, getattr(counts, row.status) + times)
    if row.status == "succeeded":
        counts.clip_s += times * (row.duration_s or 0.0)
