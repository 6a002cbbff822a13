"""Taking over finished stages of another run: same clip, same recipe, same bytes upstream."""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from magicvideo_core.clips import Clip
from magicvideo_core.manifest.artifacts import artifact_key_of
from magicvideo_core.manifest.durable import read_latest
from magicvideo_core.manifest.journal import write_records
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.redact import redact
from magicvideo_core.stages.given import is_given
from magicvideo_core.storage import Storage
from tasks.pools.clip_work import ClipWork, StageJob, terminal_row

logger = logging.getLogger(__name__)

# Copies wait for storage, not for this machine.
_NUM_COPIES = 8


class ReuseSource:
    """The finished stages of another run, read when first asked for; thread-safe."""

    def __init__(self, uri: str, recipe_hashes: Mapping[str, str]) -> None:
        self._storage = Storage(uri)
        self._recipe_hashes = recipe_hashes
        self._lock = threading.Lock()
        self._rows: Mapping[tuple[str, str], ManifestRow] | None = None

    def take(
        self, job: StageJob, works: Sequence[ClipWork], upstream: Mapping[str, Mapping[str, ManifestRow]]
    ) -> list[ManifestRow]:
        """Copy what the other run made of these clips in the job's stage; returns the rows, durable in the journal.

        `upstream` are this run's rows of the stages that this one reads, by clip id. A clip is left out, to be
        computed, where the other run's artifact comes from other bytes, or is gone or not of its size.
        """
        rows = self._load()
        found = [
            (work, row)
            for work in works
            if (row := rows.get((job.stage, work.clip.clip_id))) is not None
            and row.recipe_hash == job.recipe_hash
            # Cheap to make again, and the object at its URI may be another one by now.
            and not is_given(work.clip, job.stage)
            and all(_same_bytes(rows, before[work.clip.clip_id]) for before in upstream.values())
        ]
        with ThreadPoolExecutor(_NUM_COPIES) as executor:
            taken = [row for row in executor.map(lambda pair: self._take_one(job, *pair), found) if row is not None]
        write_records(job.storage, taken)
        return taken

    def count(self, stage: str, clips: Iterable[Clip]) -> int:
        """Return how many of these clips the other run has done by the same recipe; bytes are not looked at."""
        rows = self._load()
        return sum(1 for clip in clips if (stage, clip.clip_id) in rows and not is_given(clip, stage))

    def _load(self) -> Mapping[tuple[str, str], ManifestRow]:
        with self._lock:
            if self._rows is None:
                latest = read_latest(self._storage)
                self._rows = {
                    key: row
                    for key, row in latest.items()
                    if row.status == "succeeded" and row.recipe_hash == self._recipe_hashes.get(row.stage)
                }
            return self._rows

    def _take_one(self, job: StageJob, work: ClipWork, row: ManifestRow) -> ManifestRow | None:
        """Copy one artifact; returns its row, which is not in the journal yet, None where there is no such artifact."""
        key = artifact_key_of(row)
        if key is None:
            return None
        try:
            size_bytes = self._storage.size_bytes(key)
            if size_bytes == row.size_bytes:
                size_bytes = job.storage.copy_from(self._storage.join(key), key)
        except FileNotFoundError:
            size_bytes = -1
        if size_bytes != row.size_bytes:
            logger.warning("clip %s is computed: %s of %s is gone or cut", row.clip_id, key, redact(self._storage.uri))
            return None
        return terminal_row(
            job,
            work,
            "succeeded",
            artifact_uri=job.storage.join(key),
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            width=row.width,
            height=row.height,
            num_frames=row.num_frames,
            fps=row.fps,
            started_at=row.started_at,
            duration_s=row.duration_s,
            gpu_s=row.gpu_s,
            device=row.device,
            actor_id=row.actor_id,
            reused_from=redact(self._storage.uri),
        )


def _same_bytes(rows: Mapping[tuple[str, str], ManifestRow], row: ManifestRow) -> bool:
    """Tell whether the other run had the same artifact as this run's `row` names."""
    other = rows.get((row.stage, row.clip_id))
    return other is not None and other.sha256 == row.sha256
