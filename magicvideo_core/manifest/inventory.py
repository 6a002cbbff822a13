"""Which artifacts are there: one listing per stage, so that a continued run trusts no row whose object is gone."""

import threading
from collections.abc import Iterable

from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.storage import Storage


class Inventory:
    """Sizes of a run's artifacts, listed when first asked for; thread-safe.

    A cheap check of every row: an object of the right size with other bytes is found by the stage that reads it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._sizes: dict[str, dict[str, int]] = {}

    def without_artifact(self, stage: str, rows: Iterable[ManifestRow]) -> set[str]:
        """Return the clips among succeeded `rows` of one stage whose artifact is not there, or not with its size."""
        succeeded = [row for row in rows if row.status == "succeeded"]
        if not succeeded:
            return set()
        with self._lock:
            if stage not in self._sizes:
                self._list(stage)
            elif any(self._differs(row) for row in succeeded):
                # Written since the listing, perhaps: only a fresh one says that an object is gone.
                self._list(stage)
            return {row.clip_id for row in succeeded if self._differs(row)}

    def _list(self, stage: str) -> None:
        self._sizes[stage] = self._storage.list_sizes(f"artifacts/{stage}")

    def _differs(self, row: ManifestRow) -> bool:
        key = artifact_key_of(row)
        return key is None or self._sizes[row.stage].get(key) != row.size_bytes
