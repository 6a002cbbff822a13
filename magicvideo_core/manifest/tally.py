"""How many clips of a run ended how, and what they took: counted from its rows in one pass, a few numbers a stage."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.ids import STAGES
from magicvideo_core.manifest.scan import has_status, scan_run
from magicvideo_core.manifest.schema import MANIFEST_SCHEMA, ManifestRow
from magicvideo_core.manifest.session import SessionRecord
from magicvideo_core.storage import Storage

# What of a row is counted, beside its stage and status.
COLUMNS = ("error_type", "duration_s", "gpu_s", "size_bytes", "reused_from", "started_at")
# Counting one large table takes no longer than counting a small one.
_TABLES_AT_ONCE = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Kind:
    """What the rows that are counted together have in common."""

    stage: str
    status: str
    error_type: str | None
    is_reused: bool


@dataclass(slots=True)
class Sum:
    """How many rows were counted together, and their seconds, GPU-seconds and bytes added up."""

    num_clips: int = 0
    duration_s: float = 0.0
    gpu_s: float = 0.0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How many clips one type of error stopped in one stage; `status` is failed or quarantined."""

    stage: str
    error_type: str
    status: str
    num_clips: int


class Tally:
    """The sums of a run by kind of row, and which of its sessions computed something."""

    def __init__(self, sessions: Sequence[SessionRecord] = ()) -> None:
        self.sums: dict[Kind, Sum] = defaultdict(Sum)
        # By number of the session, from 0 (-1: before the first): start and end of what it computed.
        self.spans: dict[int, tuple[datetime, datetime]] = {}
        self._starts_us = np.array([_us(datetime.fromisoformat(each.started_at)) for each in sessions], np.int64)

    @classmethod
    def of_rows(cls, rows: Iterable[ManifestRow], sessions: Sequence[SessionRecord] = ()) -> "Tally":
        """Count rows that are there as objects."""
        schema = pa.schema([MANIFEST_SCHEMA.field(name) for name in ("stage", "status", *COLUMNS)])
        tally = cls(sessions)
        tally.add(pa.Table.from_pylist([row.to_dict() for row in rows], schema=schema))
        return tally

    def add(self, rows: pa.Table) -> None:
        """Count rows with the columns stage, status and `COLUMNS`."""
        is_reused = pc.is_valid(rows["reused_from"])
        keys = ["stage", "status", "error_type", "is_reused"]
        measures = ["duration_s", "gpu_s", "size_bytes"]
        groups = rows.append_column("is_reused", is_reused).group_by(keys, use_threads=False)
        for group in groups.aggregate([([], "count_all"), *((name, "sum") for name in measures)]).to_pylist():
            total = self.sums[Kind(*(group[key] for key in keys))]
            total.num_clips += group["count_all"]
            total.duration_s += group["duration_s_sum"] or 0.0
            total.gpu_s += group["gpu_s_sum"] or 0.0
            total.size_bytes += group["size_bytes_sum"] or 0
        # What was taken over keeps the times of the run that made it.
        is_computed = pc.and_(pc.invert(is_reused), pc.invert(has_status(rows, "skipped")))
        is_timed = pc.and_(is_computed, pc.is_valid(rows["started_at"]))
        timed = rows.select(["started_at", "duration_s"]).filter(is_timed)
        if timed.num_rows:
            self._add_times(timed)

    def select(self, stage: str | None = None, *, status: str | None = None, is_reused: bool | None = None) -> Sum:
        """Return the sum over kinds of a stage, status, and origin, each any where it is None."""
        total = Sum()
        for kind, each in self.sums.items():
            if stage in (None, kind.stage) and status in (None, kind.status) and is_reused in (None, kind.is_reused):
                total.num_clips += each.num_clips
                total.duration_s += each.duration_s
                total.gpu_s += each.gpu_s
                total.size_bytes += each.size_bytes
        return total

    def failures(self) -> list[FailureCount]:
        """Return the failures by stage, type and status; the most frequent of each stage first."""
        found = Counter[tuple[str, str, str]]()
        for kind, each in self.sums.items():
            if kind.status in ("failed", "quarantined"):
                found[kind.stage, kind.error_type or "unknown", kind.status] += each.num_clips
        counts = [FailureCount(*key, num_clips) for key, num_clips in found.items()]
        return sorted(
            counts, key=lambda each: (STAGES.index(each.stage), -each.num_clips, each.error_type, each.status)
        )

    def wall_s(self) -> float:
        """Return the seconds in which the sessions computed, from the first clip to the last of each."""
        return sum((last - first).total_seconds() for first, last in self.spans.values())

    def _add_times(self, rows: pa.Table) -> None:
        starts_us = rows["started_at"].cast(pa.int64()).to_numpy()
        ends_us = starts_us + (np.nan_to_num(rows["duration_s"].to_numpy()) * 1e6).astype(np.int64)
        # The session that a row was begun in: the last that had started by then.
        sessions = np.searchsorted(self._starts_us, starts_us, side="right") - 1
        for number in np.unique(sessions).tolist():
            own = sessions == number
            first, last = (
                _EPOCH + timedelta(microseconds=int(us)) for us in (starts_us[own].min(), ends_us[own].max())
            )
            before = self.spans.get(number, (first, last))
            self.spans[number] = min(first, before[0]), max(last, before[1])


def tally_run(storage: Storage, stages: Sequence[str], sessions: Sequence[SessionRecord] = ()) -> Tally:
    """Count the terminal rows of a run."""
    tally = Tally(sessions)
    tables = (rows for shard in scan_run(storage, stages, COLUMNS) for rows in shard.stages.values())
    while some := list(islice(tables, _TABLES_AT_ONCE)):
        tally.add(pa.concat_tables(some))
    return tally


def _us(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
