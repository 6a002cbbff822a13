"""Asks the autoscaler of a Ray cluster for the nodes that a run may use; where there is none, nobody reads it.

Pools are no larger than the cluster, so they never wait for what is not there, and Ray would see no demand for more nodes.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

from magicvideo_core.config import RunConfig
from tasks.pools.sizing import needed_resources

logger = logging.getLogger(__name__)


@contextmanager
def requested_room(config: RunConfig, num_clips: int) -> Iterator[None]:
    """Ask for room for `max_actors` of every stage, for no more than it has batches; at the end, for nothing any more.

    Where this process dies the request stays until another run makes its own.
    """
    _request(actor_bundles(config, num_clips))
    try:
        yield
    finally:
        _request([])


def actor_bundles(config: RunConfig, num_clips: int) -> list[dict[str, float]]:
    """Return what each actor takes of Ray's resources, one entry an actor."""
    bundles = []
    for stage in config.stages:
        pool = config.stage(stage).pool
        count = max(min(pool.max_actors, math.ceil(num_clips / pool.batch_size)), pool.min_actors)
        each = {name: amount for name, amount in needed_resources({stage: pool}, {stage: 1}).items() if amount}
        bundles += [each] * count
    return bundles


def _request(bundles: list[dict[str, float]]) -> None:
    import ray

    # Asking would start one.
    if not ray.is_initialized():
        return
    from ray.autoscaler.sdk import request_resources

    try:
        request_resources(bundles=bundles)
    # A boundary: a run does without more nodes.
    except Exception:
        logger.warning("the autoscaler could not be asked for nodes", exc_info=True)
