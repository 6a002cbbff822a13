"""Which artifacts are there: one listing per stage, so that a continued run trusts no row whose object is gone."""

import threading
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.storage import Storage


class Inventory:
    """Sizes of a run's artifacts, listed when first asked for, some fifty bytes each; thread-safe.

    A cheap check of every row: an object of the right size with other bytes is found by the stage that reads it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        # By stage: keys in their order, and the sizes in bytes that go with them.
        self._listed: dict[str, tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]]] = {}

    def without_artifact(self, stage: str, rows: Iterable[ManifestRow]) -> set[str]:
        """Return the clips among succeeded `rows` of one stage whose artifact is not there, or not with its size."""
        succeeded = [row for row in rows if row.status == "succeeded"]
        if not succeeded:
            return set()
        with self._lock:
            if stage not in self._listed:
                self._list(stage)
            elif self._missing(stage, succeeded):
                # Written since the listing, perhaps: only a fresh one says that an object is gone.
                self._list(stage)
            return self._missing(stage, succeeded)

    def _list(self, stage: str) -> None:
        sizes = self._storage.list_sizes(f"artifacts/{stage}")
        keys = np.array([key.encode() for key in sizes], "S") if sizes else np.empty(0, "S1")
        order = np.argsort(keys)
        self._listed[stage] = keys[order], np.fromiter(sizes.values(), np.int64, len(sizes))[order]

    def _missing(self, stage: str, rows: Sequence[ManifestRow]) -> set[str]:
        keys, sizes = self._listed[stage]
        wanted = [(artifact_key_of(row) or "").encode() for row in rows]
        places = np.searchsorted(keys, np.array(wanted, "S"))
        return {
            row.clip_id
            for row, key, place in zip(rows, wanted, places, strict=True)
            if place == len(keys) or keys[place] != key or sizes[place] != row.size_bytes
        }
