"""Clips on their way from stage to stage inside one driver: a stage takes up each clip as soon as the one before has it.

Manifests stay per shard and stage and say the same; this only saves the wait for the rest of a shard.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from magicvideo_core.manifest.schema import ManifestRow


@dataclass
class _OpenShard:
    """A shard that is being worked on: its rows by stage and clip id, and the stages that have all of theirs."""

    changed: threading.Condition
    rows: dict[str, dict[str, ManifestRow]] = field(default_factory=lambda: defaultdict(dict))
    closed: set[str] = field(default_factory=set)

    def ready(self, stages: Sequence[str], waiting: Collection[str]) -> list[str]:
        """Return the clips that have a row in each of the stages."""
        found = [self.rows[name] for name in stages]
        return [clip_id for clip_id in waiting if all(clip_id in rows for rows in found)]


class Handover:
    """The rows of the shards that are being worked on. Thread-safe; holds nothing of a shard that is done."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = frozenset(stages)
        self._lock = threading.Lock()
        self._shards: dict[int, _OpenShard] = {}
        self._stop_reason: BaseException | None = None

    def publish(self, rows: Collection[ManifestRow]) -> None:
        """Pass on terminal rows to the stages that read theirs."""
        with self._lock:
            for row in rows:
                shard = self._shard(row.shard_id)
                shard.rows[row.stage][row.clip_id] = row
                shard.changed.notify_all()

    def close(self, stage: str, shard_id: int) -> None:
        """Note that a shard has its manifest in a stage; forgets it where it has those of every stage."""
        with self._lock:
            shard = self._shard(shard_id)
            shard.closed.add(stage)
            if shard.closed >= self._stages:
                del self._shards[shard_id]
            shard.changed.notify_all()

    def stop(self, reason: BaseException) -> None:
        """Let whoever waits for rows have `reason`; the first one counts."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason
            for shard in self._shards.values():
                shard.changed.notify_all()

    def follow(
        self, stages: Sequence[str], shard_id: int, clip_ids: Sequence[str]
    ) -> Iterator[tuple[list[str], Mapping[str, Mapping[str, ManifestRow]]]]:
        """Give clips when they have a row in each of these stages, with their rows by stage and clip id.

        As they come, each clip once, until all have been given. Raises what `stop` was given where some are to come.
        """
        waiting = dict.fromkeys(clip_ids)
        with self._lock:
            shard = self._shard(shard_id)
        while waiting:
            with self._lock:
                self._wait(shard, lambda: shard.ready(stages, waiting))
                ready = shard.ready(stages, waiting)
                rows = {name: {clip_id: shard.rows[name][clip_id] for clip_id in ready} for name in stages}
            for clip_id in ready:
                del waiting[clip_id]
            yield ready, rows

    def wait_until_closed(self, stages: Sequence[str], shard_id: int) -> None:
        """Wait until a shard has its manifests in these stages. Raises what `stop` was given meanwhile."""
        with self._lock:
            shard = self._shard(shard_id)
            self._wait(shard, lambda: shard.closed.issuperset(stages))

    def _shard(self, shard_id: int) -> _OpenShard:
        return self._shards.setdefault(shard_id, _OpenShard(threading.Condition(self._lock)))

    def _wait(self, shard: _OpenShard, ready: Callable[[], object]) -> None:
        shard.changed.wait_for(lambda: self._stop_reason is not None or ready())
        if not ready() and self._stop_reason is not None:
            raise self._stop_reason
