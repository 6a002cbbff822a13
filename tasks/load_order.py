"""In what order the stages' actors load on one machine: the first stage's first, since the others have nothing to do yet.

Loading is mostly importing, which takes a core: four actors at once would each take as long as all. On a cluster,
where each has its own machine, nobody waits.
"""

import threading
from collections.abc import Callable, Sequence

# A stage that does not load keeps the others from theirs so long: then each tries for itself.
_PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.2


class LoadOrder:
    """Lets a stage's actors start when each stage before it has loaded one. Thread-safe."""

    def __init__(self, stages: Sequence[str], is_over: Callable[[], bool]) -> None:
        """`is_over` says that nobody need wait any more."""
        self._loaded = {stage: threading.Event() for stage in stages}
        self._is_over = is_over

    def loaded(self, stage: str) -> None:
        """Note that a stage has an actor that has loaded it."""
        self._loaded[stage].set()

    def wait_for_turn(self, stage: str) -> None:
        """Wait until the stages before this one have loaded, for a minute at most."""
        waited_s = 0.0
        before = list(self._loaded)[: list(self._loaded).index(stage)]
        while waited_s < _PATIENCE_S and not self._is_over():
            waiting_for = [name for name in before if not self._loaded[name].is_set()]
            if not waiting_for:
                return
            self._loaded[waiting_for[0]].wait(_LOOK_EVERY_S)
            waited_s += _LOOK_EVERY_S
