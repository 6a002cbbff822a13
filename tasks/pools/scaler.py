"""Moves room between the pools of a run while it works: to where clips wait, from where none are left or actors idle.

Stages that share GPUs need none of this but an actor on every GPU that comes: they take turns (`turns.py`).
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from magicvideo_core.config import PoolConfig
from tasks.pools.sizing import fits, sharing_stages

logger = logging.getLogger(__name__)

Which = Literal["idle", "unplaced", "any"]

# An actor has to be of use for so many times as long as it took to load, before its room may go to another stage.
_USE_OVER_LOAD = 2.0
# A stage has to have so many times the work of another, per actor, before that one gives up an actor that is not idle.
_MORE_WORK = 3.0
# Of a stage that has not made a clip yet.
_UNKNOWN_S = 1.0


@dataclass(frozen=True)
class PoolView:
    """A pool as the scaler sees it. `spare` actors were loaded long enough ago to be given up; `idle` are those of them
    that have had nothing to do for as long as they took to load.
    """

    actors: int
    starting: int
    placed: int
    # Clips that wait for an actor, and those that have no row yet, here or further up.
    waiting: int
    left: int
    seconds_per_clip: float | None
    load_s: float
    spare: int
    idle: int
    # Actors that have nothing to do now.
    free: int

    @property
    def backlog_s(self) -> float:
        """How long the clips that wait take the actors there are."""
        return self.waiting * (self.seconds_per_clip or _UNKNOWN_S) / max(self.actors, 1)


class ScaledPool(Protocol):
    """What the scaler asks of a pool."""

    def view(self, use_over_load: float) -> PoolView:
        """Return how the pool stands; an actor counts as spare after so many times what it took to load."""

    def grow(self) -> None:
        """Start one more actor."""

    def shrink(self, which: Which) -> None:
        """Give up an actor after its batch: one that idles, one that has found no room yet, or any."""


class Scaler:
    """Looks after the pools of one run; `look` is called every second or so, by one thread."""

    def __init__(self, configs: Mapping[str, PoolConfig], pools: Mapping[str, ScaledPool]) -> None:
        self._configs = configs
        self._pools = pools
        self._sharing = sharing_stages(configs)

    def look(self, resources: Mapping[str, float]) -> None:
        """Grow and shrink pools by what waits for them, and by what the cluster has now (Ray's resources)."""
        views = {stage: pool.view(_USE_OVER_LOAD) for stage, pool in self._pools.items()}
        sizes = {stage: view.actors for stage, view in views.items()}
        if not fits(self._configs, sizes, resources):
            self._make_do_with_less(views)
            return
        for stage in self._wanting(views):
            larger = {**sizes, stage: sizes[stage] + 1}
            if fits(self._configs, larger, resources):
                logger.info("%s: another actor, for %d clips that wait", stage, views[stage].waiting)
                self._pools[stage].grow()
                sizes = larger
            elif (donor := self._donor(stage, views, larger, resources)) is not None:
                logger.info("%s: another actor in place of one of %s", stage, donor)
                self._pools[donor].shrink("any" if views[donor].left == 0 or not views[donor].idle else "idle")
                self._pools[stage].grow()
                # The next look sees what came of it.
                return
            elif views[stage].actors == 0:
                # It waits for room, as long as its pool allows.
                self._pools[stage].grow()

    def _wanting(self, views: Mapping[str, PoolView]) -> list[str]:
        """Return the stages that need another actor, the one with the most work for each of its actors first."""
        wanting = []
        for stage, view in views.items():
            config = self._configs[stage]
            if view.actors >= min(config.max_actors, math.ceil(view.left / config.batch_size)):
                continue
            # Whoever loads is about to take some of it, and what is done before another has loaded needs none.
            is_behind = view.waiting and not view.starting and not view.free and view.backlog_s > view.load_s
            if stage in self._sharing or is_behind or (view.waiting and view.actors == 0):
                wanting.append(stage)
        return sorted(wanting, key=lambda stage: (views[stage].actors > 0, -views[stage].backlog_s))

    def _donor(
        self, stage: str, views: Mapping[str, PoolView], larger: Mapping[str, int], resources: Mapping[str, float]
    ) -> str | None:
        """Return the stage that can best do without one of its actors, None where none can."""
        found: list[tuple[int, float, str]] = []
        for donor, view in views.items():
            if donor == stage or stage in self._sharing or not view.actors:
                continue
            if not fits(self._configs, {**larger, donor: larger[donor] - 1}, resources):
                continue
            is_above_floor = view.actors > self._configs[donor].min_actors
            if view.left == 0:
                found.append((0, 0.0, donor))
            elif is_above_floor and view.idle:
                found.append((1, view.backlog_s, donor))
            elif is_above_floor and (views[stage].actors == 0 or (view.spare and self._needs_more(views[stage], view))):
                found.append((2, view.backlog_s, donor))
        return min(found)[2] if found else None

    @staticmethod
    def _needs_more(stage: PoolView, donor: PoolView) -> bool:
        return stage.backlog_s > _MORE_WORK * donor.backlog_s + stage.load_s

    def _make_do_with_less(self, views: Mapping[str, PoolView]) -> None:
        """Give up what has no room any more since a machine went; whoever has no actor left gets another's place."""
        for stage, view in views.items():
            if stage not in self._sharing and view.actors > max(view.placed, self._configs[stage].min_actors):
                self._pools[stage].shrink("unplaced")
                return
        for stage, view in views.items():
            if view.placed or not view.waiting:
                continue
            donors = [
                (other.left > 0, other.backlog_s, name)
                for name, other in views.items()
                if name != stage and other.placed > self._configs[name].min_actors * (other.left > 0)
            ]
            if donors:
                logger.info("%s gives up an actor for %s, which has none", min(donors)[2], stage)
                self._pools[min(donors)[2]].shrink("any")
                return
