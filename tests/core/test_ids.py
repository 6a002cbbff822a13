"""Ids and seeds: the same on every machine and in every version, and different where they must be."""

import re
from typing import Any

import pytest

from magicvideo_core import ids

CLIP: dict[str, Any] = {
    "prompt": "a big red circle moving right on a navy background",
    "negative_prompt": "",
    "seed": 7,
    "image": None,
    "video": None,
    "source_id": None,
    "replica": 0,
}


def test_ids_and_seeds_keep_their_values() -> None:
    # A change here orphans every finished run: it needs a new schema version, not a new expectation.
    assert ids.clip_id(**CLIP) == "60dfba2ffa947614"
    assert ids.clip_id(**{**CLIP, "prompt": "ein roter Kreis, größer"}) == "b4fc0a9f08c968dc"
    assert ids.default_seed("a cat", 0, 0) == 96198593
    assert ids.stage_seed(7, "t2i") == 7098605269852086378
    assert ids.recipe_hash({"a": 1, "b": 0.5}, "digest", "") == "22a56858e1b458ea"


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "another"},
        {"negative_prompt": "blur"},
        {"seed": 8},
        {"image": "a.png"},
        {"video": "a.mp4"},
        {"source_id": "row-1"},
        {"replica": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_that_defines_a_clip_changes_its_id(change: dict[str, Any]) -> None:
    assert ids.clip_id(**{**CLIP, **change}) != ids.clip_id(**CLIP)


def test_seeds_stay_in_their_range_and_differ_between_stages() -> None:
    assert all(0 <= ids.default_seed("a cat", replica, 3) < 2**31 for replica in range(200))
    seeds = {ids.stage_seed(clip_seed, stage) for clip_seed in range(50) for stage in ids.STAGES}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_recipe_hashes_chain_but_ignore_the_order_of_settings() -> None:
    base = ids.recipe_hash({"a": 1, "b": 2}, "digest", "up")
    assert base == ids.recipe_hash({"b": 2, "a": 1}, "digest", "up")
    assert len({base, ids.recipe_hash({"a": 1, "b": 3}, "digest", "up")}) == 2
    assert len({base, ids.recipe_hash({"a": 1, "b": 2}, "other", "up")}) == 2
    assert len({base, ids.recipe_hash({"a": 1, "b": 2}, "digest", "other")}) == 2


def test_run_ids_sort_by_time_and_name_a_folder() -> None:
    first, second = ids.new_run_id(), ids.new_run_id()
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", first)
    assert first[:15] <= second[:15]
