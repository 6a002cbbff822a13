"""What the scaler does with the room of a cluster, by what waits for each stage."""

from collections.abc import Sequence
from typing import Any

from magicvideo_core.config import PoolConfig
from tasks.pools.scaler import PoolView, Scaler, Which

BUSY = PoolView(
    actors=1, starting=0, placed=1, waiting=0, left=100, seconds_per_clip=1.0, load_s=5.0, spare=1, idle=0, free=0
)


class Pool:
    """A pool that only says how it stands, and notes what is asked of it."""

    def __init__(self, **values: Any) -> None:
        self.state = PoolView(**{**vars(BUSY), **values})
        self.asked: list[str] = []

    def view(self, use_over_load: float) -> PoolView:
        return self.state

    def grow(self) -> None:
        self.asked.append("grow")

    def shrink(self, which: Which) -> None:
        self.asked.append(which)


def look(pools: dict[str, Pool], gpus: float, **config: Any) -> dict[str, Sequence[str]]:
    """Let the scaler look once; returns what it asked of which pool."""
    settings = PoolConfig(**{"num_cpus": 0, "num_gpus": 1, "max_actors": 8, **config})
    Scaler(dict.fromkeys(pools, settings), pools).look({"GPU": gpus})
    return {stage: pool.asked for stage, pool in pools.items() if pool.asked}


def test_free_room_goes_to_the_stage_with_the_most_work_for_each_actor() -> None:
    def pools() -> dict[str, Pool]:
        return {"t2i": Pool(waiting=50), "i2v": Pool(waiting=30, actors=2, placed=2, seconds_per_clip=6.0)}

    assert look(pools(), gpus=3) == {}
    assert look(pools(), gpus=4) == {"i2v": ["grow"]}
    assert look(pools(), gpus=5) == {"t2i": ["grow"], "i2v": ["grow"]}


def test_a_stage_grows_only_as_far_as_it_is_allowed_and_has_use_for_it() -> None:
    assert look({"t2i": Pool(waiting=50)}, gpus=8, max_actors=1) == {}
    assert look({"t2i": Pool(waiting=50, starting=1)}, gpus=8) == {}
    assert look({"t2i": Pool(waiting=50, free=1)}, gpus=8) == {}
    assert look({"t2i": Pool(waiting=3, left=1)}, gpus=8) == {}
    # What waits is done before another actor has loaded.
    assert look({"t2i": Pool(waiting=4)}, gpus=8) == {}


def test_a_stage_that_has_done_all_its_clips_gives_its_room_away() -> None:
    pools = {"t2i": Pool(left=0), "i2v": Pool(waiting=30), "v2v": Pool(waiting=20)}
    assert look(pools, gpus=3) == {"t2i": ["any"], "i2v": ["grow"]}
    # Nobody needs it: whoever comes next may.
    assert look({"t2i": Pool(left=0), "i2v": Pool(waiting=0)}, gpus=2) == {}


def test_only_idle_actors_that_were_of_use_give_way_and_never_below_the_floor() -> None:
    behind = {"waiting": 60, "seconds_per_clip": 10.0}
    assert look({"t2i": Pool(actors=2, placed=2, idle=1), "i2v": Pool(**behind)}, gpus=3) == {
        "t2i": ["idle"],
        "i2v": ["grow"],
    }
    assert look({"t2i": Pool(idle=1), "i2v": Pool(**behind)}, gpus=2) == {}
    # Just loaded.
    assert look({"t2i": Pool(actors=2, placed=2, spare=0), "i2v": Pool(**behind)}, gpus=3) == {}


def test_a_busy_actor_gives_way_where_another_stage_has_far_more_to_do() -> None:
    def pools(waiting: int) -> dict[str, Pool]:
        return {"t2i": Pool(actors=2, placed=2, waiting=20), "i2v": Pool(waiting=waiting)}

    assert look(pools(waiting=30), gpus=3) == {}
    assert look(pools(waiting=60), gpus=3) == {"t2i": ["any"], "i2v": ["grow"]}


def test_stages_that_share_gpus_get_an_actor_on_every_gpu_that_comes() -> None:
    pools = {"t2i": Pool(actors=2, placed=2), "i2v": Pool(actors=2, placed=2)}
    assert look(pools, gpus=2, num_gpus=0.5) == {}
    assert look(pools, gpus=3, num_gpus=0.5) == {"t2i": ["grow"], "i2v": ["grow"]}


def test_where_a_machine_went_what_has_no_room_is_given_up_and_no_stage_is_left_without_an_actor() -> None:
    waits = {"waiting": 5, "placed": 0}
    assert look({"t2i": Pool(actors=3, placed=2, waiting=5), "i2v": Pool()}, gpus=3) == {"t2i": ["unplaced"]}
    assert look({"t2i": Pool(actors=2, placed=2), "i2v": Pool(**waits)}, gpus=2) == {"t2i": ["any"]}
    assert look({"t2i": Pool(left=0), "i2v": Pool(**waits)}, gpus=1) == {"t2i": ["any"]}
    # Each has its last one: the pool that has none raises in time.
    assert look({"t2i": Pool(), "i2v": Pool(**waits)}, gpus=1) == {}
