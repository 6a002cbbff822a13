"""Clips on their way from stage to stage inside one driver: a stage takes up each clip as soon as the one before has it.

Manifests stay per shard and stage and say the same; this only saves the wait for the rest of a shard.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from magicvideo_core.manifest.schema import ManifestRow


@dataclass(eq=False)
class _Follower:
    """Who waits for clips that have a row in each of some stages; `ready` are those that it has not been given yet."""

    stages: Sequence[str]
    waiting: set[str]
    changed: threading.Condition
    ready: list[str] = field(default_factory=list)

    def look(self, clip_ids: Iterable[str], rows: Mapping[str, Mapping[str, ManifestRow]]) -> None:
        """Take clips up where they have all their rows."""
        num_ready = len(self.ready)
        for clip_id in clip_ids:
            if clip_id in self.waiting and all(clip_id in rows[name] for name in self.stages):
                self.waiting.remove(clip_id)
                self.ready.append(clip_id)
        if len(self.ready) > num_ready:
            self.changed.notify_all()


@dataclass
class _OpenShard:
    """A shard that is being worked on: its rows by stage and clip id, and the stages that have all of theirs."""

    # Notified when a stage has all of its rows.
    changed: threading.Condition
    rows: dict[str, dict[str, ManifestRow]] = field(default_factory=lambda: defaultdict(dict))
    closed: set[str] = field(default_factory=set)
    followers: list[_Follower] = field(default_factory=list)


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
            new: dict[tuple[int, str], list[str]] = {}
            for row in rows:
                self._shard(row.shard_id).rows[row.stage][row.clip_id] = row
                new.setdefault((row.shard_id, row.stage), []).append(row.clip_id)
            # Only those who read them: all stages of all open shards wait, and each that wakes takes the driver's time.
            for (shard_id, stage), clip_ids in new.items():
                shard = self._shards[shard_id]
                for follower in shard.followers:
                    if stage in follower.stages:
                        follower.look(clip_ids, shard.rows)

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
                for follower in shard.followers:
                    follower.changed.notify_all()

    def follow(
        self, stages: Sequence[str], shard_id: int, clip_ids: Sequence[str]
    ) -> Iterator[tuple[list[str], Mapping[str, Mapping[str, ManifestRow]]]]:
        """Give clips when they have a row in each of these stages, with their rows by stage and clip id.

        As they come, each clip once, until all have been given. Raises what `stop` was given where some are to come.
        """
        with self._lock:
            shard = self._shard(shard_id)
            follower = _Follower(stages, set(clip_ids), threading.Condition(self._lock))
            shard.followers.append(follower)
            follower.look(clip_ids, shard.rows)
        num_left = len(follower.waiting) + len(follower.ready)
        try:
            while num_left:
                with self._lock:
                    self._wait(follower.changed, lambda: follower.ready)
                    ready, follower.ready = follower.ready, []
                    rows = {name: {clip_id: shard.rows[name][clip_id] for clip_id in ready} for name in stages}
                num_left -= len(ready)
                yield ready, rows
        finally:
            with self._lock:
                shard.followers.remove(follower)

    def wait_until_closed(self, stages: Sequence[str], shard_id: int) -> None:
        """Wait until a shard has its manifests in these stages. Raises what `stop` was given meanwhile."""
        with self._lock:
            shard = self._shard(shard_id)
            self._wait(shard.changed, lambda: shard.closed.issuperset(stages))

    def _shard(self, shard_id: int) -> _OpenShard:
        return self._shards.setdefault(shard_id, _OpenShard(threading.Condition(self._lock)))

    def _wait(self, changed: threading.Condition, ready: Callable[[], object]) -> None:
        changed.wait_for(lambda: self._stop_reason is not None or ready())
        if not ready() and self._stop_reason is not None:
            raise self._stop_reason
