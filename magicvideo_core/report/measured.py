"""What was measured of a run's clips, where it was: the numbers and verdicts of its last stage, by name and clip."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.dataset.measurements import FACTS, read_measurements
from magicvideo_core.storage import Storage


@dataclass(frozen=True, slots=True)
class Measured:
    """Values by name and clip id: numbers, and verdicts (True or False); without names where nothing was measured."""

    values: Mapping[str, Mapping[str, float | bool]] = field(default_factory=dict)

    def columns(self, clip_ids: Sequence[str]) -> dict[str, list[float | bool | None]]:
        """Return the values by name in the order of `clip_ids`, None where a clip has none."""
        return {name: [own.get(clip_id) for clip_id in clip_ids] for name, own in self.values.items()}


def read_measured(storage: Storage, stage: str, shard_ids: Collection[int], sha256s: Mapping[str, str]) -> Measured:
    """Read what was measured in a stage's shards; `sha256s` are the hashes of the clips' artifacts there.

    What was measured of another artifact than a clip has now is left out.
    """
    values: dict[str, dict[str, float | bool]] = {name: {} for name in FACTS}
    tables = map_concurrently(lambda i: read_measurements(storage, stage, i), shard_ids, storage.num_readers)
    for table in tables:
        for row in table.select(["clip_id", "sha256", *FACTS]).to_pylist():
            if sha256s.get(row["clip_id"]) == row["sha256"]:
                for name, own in values.items():
                    _add(own, row["clip_id"], row[name])
    return Measured({name: own for name, own in values.items() if own})


def _add(own: dict[str, float | bool], clip_id: str, value: Any) -> None:
    if isinstance(value, bool):
        own[clip_id] = value
    elif value is not None and math.isfinite(value):
        own[clip_id] = float(f"{value:.4g}")
