"""Pools on clusters that lose nodes or run out of memory, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from magicvideo_core.errors import ActorDiedError
from tasks.environment import set_environment

DRILLS = Path(__file__).with_name("cluster_drills.py")


def drill(name: str, folder: Path) -> dict[str, Any]:
    set_environment()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(DRILLS), name, str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert found.returncode == 0, found.stderr
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def test_actors_of_a_lost_node_are_replaced_on_another_and_without_any_the_pool_raises(tmp_path: Path) -> None:
    found = drill("node_loss", tmp_path)
    # One attempt a clip is allowed: losing the machine is none.
    assert found["statuses"] == ["succeeded"] * 3
    assert found["num_actors"] == 2
    assert found["moved"]
    assert "found no room for an actor that takes 1 CPU" in found["stopped_by"]
    # Ray may take some seconds to notice the loss; the rest is `placement_timeout_s`, not half an hour.
    assert found["waited_s"] < 60
    assert not found["ray_after_all"]


@pytest.mark.alone
def test_a_node_that_comes_raises_the_speed_and_one_that_goes_loses_nothing(tmp_path: Path) -> None:
    found = drill("nodes_come_and_go", tmp_path)
    # One attempt a clip is allowed, as above.
    assert (found["rows"], found["statuses"]) == (found["expected"], ["succeeded"])
    assert found["together"] > 1.5 * found["alone"], found


def test_the_warm_actor_of_a_dead_driver_is_taken_over(tmp_path: Path) -> None:
    found = drill("driver_dies", tmp_path)
    assert found["held_by"] == ["run"]
    assert found["after"] == found["before"]
    assert found["ended"] == 1


def test_shared_gpus_stay_reserved_for_the_warm_actors_on_them(tmp_path: Path) -> None:
    found = drill("shared_gpus_stay_warm", tmp_path)
    first, second, third = map(set, found["actors"])
    assert found["kept"]
    # Another recipe in one stage: the other stage's actors stay, on the same GPUs.
    assert len(first) == len(second) == 4 and len(first & second) == 2
    assert second == third
    assert found["given_back"]


# What others take meanwhile would count as this one's.
@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="needs to know how much memory is free")
def test_the_memory_monitor_takes_one_clip_and_no_other(tmp_path: Path) -> None:
    found = drill("memory", tmp_path)
    assert [found["one"][0], found["two"][0]] == ["succeeded", "succeeded"]
    status, error_type, message = found["greedy"]
    assert (status, error_type) == ("quarantined", ActorDiedError.__name__)
    assert "OutOfMemoryError" in message
