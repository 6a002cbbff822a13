"""The taxonomy of Ray's errors, and how many actors fit where."""

import inspect
import re
from pathlib import Path

import pytest
import ray.exceptions
import torch

from magicvideo_core.config import PoolConfig
from magicvideo_core.errors import (
    ActorDiedError,
    ClipTimeoutError,
    ConfigError,
    GateError,
    GivenMediaError,
    PoolExhaustedError,
    StorageUnavailableError,
    UpstreamLostError,
    WeightsError,
)
from tasks.pools.failures import APPLICATION_ERRORS, RAY_ERRORS, Action, application_action, classify
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
        (ray.exceptions.RayTaskError("run", "trace", MemoryError("all")), Action.REPLACE_ACTOR, MemoryError),
        (ray.exceptions.RuntimeEnvSetupError("env"), Action.STOP_POOL, PoolExhaustedError),
        (KeyError("a bug of ours"), Action.STOP_POOL, KeyError),
    ],
)
def test_what_follows_from_an_error(error: Exception, action: Action, kind: type[Exception]) -> None:
    failure = classify(error, "t2i actor 0, clip abc")
    assert failure.action is action
    assert isinstance(failure.error, kind)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (GateError("black"), Action.RETRY_CLIP),
        (KeyError("a bug of a stage"), Action.RETRY_CLIP),
        (GivenMediaError("no such image"), Action.FAIL_CLIP),
        (UpstreamLostError("gone", "t2i"), Action.REMAKE_UPSTREAM),
        (StorageUnavailableError("503"), Action.AWAIT_STORAGE),
        (torch.OutOfMemoryError("CUDA"), Action.REPLACE_ACTOR),
        (ConfigError("wrong"), Action.STOP_POOL),
    ],
)
def test_what_follows_from_an_error_in_an_actor(error: Exception, action: Action) -> None:
    assert application_action(error) is action


def test_the_written_taxonomy_says_what_the_code_does() -> None:
    text = (Path(__file__).parents[2] / "docs" / "failures.md").read_text()
    application, _, rays = text.partition("## Errors of Ray")
    assert _table(application) == {name: action.value for name, action in APPLICATION_ERRORS.items()}
    assert list(_table(rays).items()) == [(name, action.value) for name, action in RAY_ERRORS]
    assert {action.value for action in Action} == set(re.findall(r"^\| ([a-z ]+) \| [^|]+ \|$", text, re.M)) - {
        "action"
    }


def _table(text: str) -> dict[str, str]:
    """Return class and action of every row whose first cell is code."""
    return dict(re.findall(r"^\| `(\w+)` \| ([a-z ]+) \|", text, re.M))


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
