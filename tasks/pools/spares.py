"""Spare worker processes: an idle one on each node that has actors, for the actor that replaces one that died.

Ray gives an actor only a process that has run nothing yet, and starts one when it is asked for. A spare is what a node started
before that: it holds no CPU and no GPU (Ray tells a process its GPUs when it gets its actor), and ends with the driver.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Protocol

from magicvideo_core.logs import event
from tasks.pools.process import ActorInfo
from tasks.pools.scaler import PoolView

logger = logging.getLogger(__name__)

# Nothing has to have come or gone for so long, and at the pace since then there has to be work for longer than that: a start
# takes a core for a second.
SETTLED_S = 5.0
WORTH_IT_S = 10.0
# Unasked, Ray ends an idle process after a second where a node has fewer idle CPUs than idle processes.
_KEEP_ALIVE_S = 7 * 24 * 3600
_ANSWER_TIMEOUT_S = 2.0


class WatchedPool(Protocol):
    """What is asked of a pool."""

    def actors(self) -> list[ActorInfo]:
        """Return where the loaded actors run."""

    def view(self, use_over_load: float) -> PoolView:
        """Return how the pool stands."""


def start_worker(node_id: str) -> None:
    """Let a node start a process that waits for an actor of this driver; does not wait for it. Raises any of Ray's errors.

    Ray has no public call for it: this is its own to a node, and the version of Ray is pinned.
    """
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2, node_manager_pb2_grpc

    context = ray.get_runtime_context()
    if context.get_runtime_env_string() not in ("", "{}"):
        raise RuntimeError("the job has a runtime_env, which this process would be without")
    [node] = [node for node in ray.nodes() if node["NodeID"] == node_id and node["Alive"]]
    request = node_manager_pb2.PrestartWorkersRequest(
        language=common_pb2.PYTHON,
        job_id=bytes.fromhex(context.get_job_id()),
        num_workers=1,
        keep_alive_duration_secs=_KEEP_ALIVE_S,
    )
    with init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}") as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=_ANSWER_TIMEOUT_S)


class Spares:
    """The spare processes of one run; `look` is called every second or so, by one thread."""

    def __init__(self, pools: Mapping[str, WatchedPool], start: Callable[[str], object] = start_worker) -> None:
        self._pools, self._start = pools, start
        self._actors: set[str] = set()
        # When an actor came or went, or was awaited, and how many clips had no row in a stage then.
        self._changed_s, self._left_then = time.monotonic(), 0
        # Who was there when a node got its latest spare: somebody else may have taken it since.
        self._had_spare: dict[str, set[str]] = {}

    def look(self) -> None:
        """Start a spare on each node that has had none since its latest actor came, once all have loaded. Never raises.

        None is started for a run that is about to end.
        """
        on_node: defaultdict[str, set[str]] = defaultdict(set)
        for pool in self._pools.values():
            for info in pool.actors():
                on_node[info.node_id].add(info.actor_id)
        actors = set().union(*on_node.values())
        # Of a stage that has nothing left to do, none is waited for.
        views = [pool.view(0.0) for pool in self._pools.values()]
        left, now_s = sum(view.left for view in views), time.monotonic()
        if actors != self._actors or any(view.starting and view.left for view in views):
            self._actors, self._changed_s, self._left_then = actors, now_s, left
        settled_s = now_s - self._changed_s
        # In proportion: as long as what is left takes at the pace of what was done.
        if settled_s < SETTLED_S or left * settled_s <= WORTH_IT_S * (self._left_then - left):
            return
        for node_id, there in on_node.items():
            if there <= self._had_spare.get(node_id, set()):
                continue
            self._had_spare[node_id] = there
            try:
                self._start(node_id)
                event("spare process asked for", node=node_id)
            # A boundary: without a spare, Ray starts a process when it is needed.
            except Exception:
                logger.info("node %s gets no spare process", node_id, exc_info=True)
