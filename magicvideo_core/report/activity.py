"""When a run's clips were in work and for how long, per stage: a few bytes a row, so that a million clips fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.manifest.scan import has_status

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageActivity:
    """One stage's rows that this run computed: start in seconds of the epoch, seconds, and whether each failed."""

    started_s: Floats
    duration_s: Floats
    has_failed: npt.NDArray[np.bool_]

    def succeeded_s(self) -> Floats:
        """Return the seconds of the clips that succeeded."""
        return self.duration_s[~self.has_failed]


@dataclass(slots=True)
class Activity:
    """The rows of a run that took time, by stage, on an axis that has only the times in which the run was worked on.

    `spans` are (start, end) of those times in seconds of the epoch, in order and disjoint; they are laid end to end.
    """

    spans: list[tuple[float, float]] = field(default_factory=list)
    _parts: dict[str, list[StageActivity]] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Take rows with the columns stage, status, started_at, duration_s and reused_from."""
        # What was taken over keeps the times of the run that made it; what was skipped took none.
        computed = pc.and_(pc.is_null(rows["reused_from"]), pc.invert(has_status(rows, "skipped")))
        rows = rows.filter(pc.and_(computed, pc.is_valid(rows["started_at"])))
        for stage in cast(list[str], rows["stage"].unique().to_pylist()):
            own = rows.filter(pc.equal(rows["stage"], pa.scalar(stage)))
            part = StageActivity(
                own["started_at"].cast(pa.int64()).to_numpy() / 1e6,
                np.nan_to_num(own["duration_s"].to_numpy()),
                np.array(pc.invert(has_status(own, "succeeded")).to_numpy(), dtype=bool),
            )
            self._parts.setdefault(stage, []).append(part)

    def finish(self, sessions: Sequence[tuple[datetime, datetime]]) -> None:
        """Set the axis from when the sessions of the run computed."""
        second = timedelta(seconds=1)
        ordered = sorted(((start - _EPOCH) / second, (end - _EPOCH) / second) for start, end in sessions)
        for start_s, end_s in ordered:
            if self.spans and start_s <= self.spans[-1][1]:
                self.spans[-1] = self.spans[-1][0], max(end_s, self.spans[-1][1])
            else:
                self.spans.append((start_s, end_s))

    def stage(self, name: str) -> StageActivity:
        """Return the rows of a stage."""
        parts = self._parts.get(name) or [StageActivity(np.empty(0), np.empty(0), np.empty(0, bool))]
        return StageActivity(
            np.concatenate([part.started_s for part in parts]),
            np.concatenate([part.duration_s for part in parts]),
            np.concatenate([part.has_failed for part in parts]),
        )

    @property
    def length_s(self) -> float:
        """The seconds in which the run was worked on."""
        return sum(end - start for start, end in self.spans)

    def position(self, at_s: Floats) -> Floats:
        """Return where times lie on the axis, in seconds from its beginning."""
        found = np.zeros_like(at_s)
        for start_s, end_s in self.spans:
            found += np.clip(at_s - start_s, 0.0, end_s - start_s)
        return found

    def in_work(self, stage: str, num_bins: int) -> Floats:
        """Return how many of a stage's clips were in work at once, as the mean of each of `num_bins` parts of the axis."""
        own = self.stage(stage)
        if not self.length_s or not own.started_s.size:
            return np.zeros(num_bins)
        edges = np.linspace(0.0, self.length_s, num_bins + 1)
        starts = self.position(own.started_s)
        ends = self.position(own.started_s + own.duration_s)
        worked = _integral(edges, starts) - _integral(edges, ends)
        return np.clip(np.diff(worked) / (self.length_s / num_bins), 0.0, None)

    def failures(self, stage: str, num_bins: int) -> npt.NDArray[np.int64]:
        """Return how many of a stage's clips failed, by the part of the axis in which they ended."""
        own = self.stage(stage)
        ends = self.position((own.started_s + own.duration_s)[own.has_failed])
        counts, _ = np.histogram(ends, num_bins, (0.0, self.length_s or 1.0))
        return counts.astype(np.int64)


def _integral(edges: Floats, begins: Floats) -> Floats:
    """Return, at each edge, the sum over `begins` of the time since then."""
    begins = np.sort(begins)
    sums = np.concatenate([[0.0], np.cumsum(begins)])
    number = np.searchsorted(begins, edges)
    return number * edges - sums[number]
