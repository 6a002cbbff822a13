"""What a run asks of a cluster's autoscaler: its actors' room, no more than it has use for, and nothing once it is over."""

import json

import pytest

from magicvideo_core.config import load_config
from tasks.autoscaling import actor_bundles, requested_room


def test_a_run_asks_for_what_its_actors_take(fake_overrides: tuple[str, ...]) -> None:
    pool = ["i2v.pool.num_gpus=1", "i2v.pool.max_actors=8", "i2v.pool.resources.stage_i2v=1", "vfi.pool.batch_size=4"]
    config = load_config("tiny", None, [*fake_overrides, *pool, "vfi.pool.max_actors=3"])
    bundles = actor_bundles(config, num_clips=5)
    assert bundles.count({"CPU": 0.1, "GPU": 1.0, "stage_i2v": 1.0}) == 5
    assert bundles.count({"CPU": 0.1}) == 1 + 1 + 2


@pytest.mark.usefixtures("local_ray")
def test_ray_knows_it_while_the_run_lasts(fake_overrides: tuple[str, ...]) -> None:
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    def asked() -> list[dict[str, float]]:
        found = _internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL)
        return list(json.loads(found or b"[]"))

    with requested_room(load_config("tiny", None, fake_overrides), num_clips=2):
        assert len(asked()) == 4
    assert asked() == []
