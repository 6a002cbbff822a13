"""The taxonomy of Ray's errors, and how many actors fit where."""

import inspect

import pytest
import ray.exceptions

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import ActorDiedError, ClipTimeoutError, ConfigError, PoolExhaustedError, WeightsError
from tasks.pools.failures import RAY_ERRORS, Action, classify
from tasks.pools.sizing import actor_options, size_pools


def test_every_named_class_is_one_of_rays_and_stands_before_its_bases() -> None:
    kinds = [getattr(ray.exceptions, name) for name, _ in RAY_ERRORS]
    for place, kind in enumerate(kinds):
        assert not any(issubclass(kind, earlier) for earlier in kinds[:place]), kind


def test_every_error_of_ray_has_an_action() -> None:
    for name, kind in inspect.getmembers(ray.exceptions, inspect.isclass):
        if issubclass(kind, ray.exceptions.RayError):
            assert any(issubclass(kind, getattr(ray.exceptions, known)) for known, _ in RAY_ERRORS), name


@pytest.mark.parametrize(
    ("error", "action", "kind"),
    [
        (ray.exceptions.ActorDiedError(), Action.REPLACE_ACTOR, ActorDiedError),
        (ray.exceptions.ActorUnavailableError("gone", None), Action.REPLACE_ACTOR, ActorDiedError),
        (ray.exceptions.OutOfMemoryError("memory"), Action.REPLACE_ACTOR, ActorDiedError),
        (ray.exceptions.GetTimeoutError("time"), Action.REPLACE_ACTOR, ClipTimeoutError),
        (ray.exceptions.RayTaskError("run", "trace", ValueError("code")), Action.RETRY_CLIP, ValueError),
        (ray.exceptions.RayTaskError("load", "trace", WeightsError("no file")), Action.STOP_POOL, WeightsError),
        (ray.exceptions.RuntimeEnvSetupError("env"), Action.STOP_POOL, PoolExhaustedError),
        (KeyError("a bug of ours"), Action.STOP_POOL, KeyError),
    ],
)
def test_what_follows_from_an_error(error: Exception, action: Action, kind: type[Exception]) -> None:
    failure = classify(error, "t2i actor 0, clip abc")
    assert failure.action is action
    assert isinstance(failure.error, kind)


def test_floors_first_then_one_each_in_turn() -> None:
    pools = {
        "t2i": PoolConfig(num_cpus=1, max_actors=8),
        "i2v": PoolConfig(num_cpus=1, min_actors=2, max_actors=3),
        "vfi": PoolConfig(num_cpus=0.5, max_actors=8),
    }
    assert size_pools(pools, {"CPU": 3.5}) == {"t2i": 1, "i2v": 2, "vfi": 1}
    assert size_pools(pools, {"CPU": 6}) == {"t2i": 2, "i2v": 3, "vfi": 2}
    assert size_pools(pools, {"CPU": 100}) == {"t2i": 8, "i2v": 3, "vfi": 8}
    assert size_pools(pools, {"CPU": 100}, num_clips=2) == {"t2i": 2, "i2v": 2, "vfi": 2}


def test_thirds_of_a_gpu_fill_it() -> None:
    pools = {stage: PoolConfig(num_cpus=0, num_gpus=1 / 3) for stage in ("t2i", "i2v", "v2v")}
    assert size_pools(pools, {"GPU": 1.0}) == {"t2i": 1, "i2v": 1, "v2v": 1}


def test_a_cluster_that_is_too_small_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"need 2 GPU at least and the cluster has 1: lower t2i\.pool\.num_gpus=2"):
        size_pools({"t2i": PoolConfig(num_gpus=2)}, {"CPU": 8, "GPU": 1})
    with pytest.raises(ConfigError, match=r"need 1 fast_disk"):
        size_pools({"vfi": PoolConfig(resources={"fast_disk": 1})}, {"CPU": 8})


def test_ray_never_retries_by_itself() -> None:
    options = actor_options(PoolConfig(resources={"fast_disk": 1}))
    assert (options["max_restarts"], options["max_task_retries"], options["max_concurrency"]) == (0, 0, 1)
    assert options["resources"] == {"fast_disk": 1}
