"""The world: prompts, the held-out rule and where objects may be."""

import math
import random

import pytest

from magicvideo_core.moving_shapes.world import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    in_reading_order,
    is_held_out,
    parse_prompt,
    sample_scene,
)


def test_47_of_the_320_triples_are_held_out() -> None:
    triples = [(colour, shape, motion) for colour in COLOURS for shape in SHAPES for motion in MOTIONS]
    assert len(triples) == 320
    assert sum(is_held_out(*triple) for triple in triples) == 47
    assert is_held_out("blue", "circle", "spinning")
    assert not is_held_out("red", "circle", "moving left")


@pytest.mark.parametrize("num_objects", [1, 2])
def test_a_scene_s_prompt_names_the_scene(num_objects: int) -> None:
    rng = random.Random(1)
    for _ in range(50):
        scene = sample_scene(rng, num_objects=num_objects, held_out=None)
        parsed = parse_prompt(scene.prompt)
        assert parsed is not None
        assert parsed.prompt == scene.prompt
        assert parsed.held_out == scene.held_out


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a dog on a beach",
        "a big red circle moving right",
        "a big red circle moving right on a pink background",
        "a big circle moving right on a gray background",
        "a big red circle flying on a gray background",
        "a big plaid red circle growing on a gray background",
    ],
)
def test_other_text_is_no_prompt_of_the_world(prompt: str) -> None:
    assert parse_prompt(prompt) is None


@pytest.mark.parametrize("num_objects", [1, 2])
def test_objects_stay_inside_and_apart(num_objects: int) -> None:
    rng = random.Random(2)
    for _ in range(100):
        scene = sample_scene(rng, num_objects=num_objects, held_out=False)
        assert not scene.held_out
        scene = in_reading_order(scene, rng) if num_objects == 2 else scene
        for spec in scene.objects:
            for u in (0.0, 0.5, 1.0):
                x, y, radius, _ = spec.at(u)
                assert radius - 1e-9 <= min(x, y) and max(x, y) <= 1 - radius + 1e-9
            assert not (spec.shape == "circle" and spec.motion == "spinning" and spec.texture == "none")
        if num_objects == 2:
            first, second = scene.objects
            assert first.colour != second.colour
            assert {first.size, second.size} != {"big"}
            for u in (0.0, 1.0):
                (ax, ay, ar, _), (bx, by, br, _) = first.at(u), second.at(u)
                assert math.hypot(ax - bx, ay - by) > ar + br


def test_in_reading_order_the_first_object_is_nearer_to_the_upper_left() -> None:
    rng = random.Random(3)
    drawn = [sample_scene(rng, num_objects=2) for _ in range(200)]
    ordered = [in_reading_order(scene, rng, margin=0.4) for scene in drawn]
    assert [scene.prompt for scene in ordered] == [scene.prompt for scene in drawn]
    leads = [second.x + second.y - first.x - first.y for first, second in (scene.objects for scene in ordered)]
    # An object that moves up begins low, one that moves right begins at the left: that pair hardly fits in order.
    assert sum(lead > 0 for lead in leads) > 180
    assert sum(lead >= 0.4 for lead in leads) > 150


def test_held_out_scenes_can_be_asked_for() -> None:
    rng = random.Random(3)
    assert all(sample_scene(rng, held_out=True).held_out for _ in range(20))


def test_growing_runs_from_0_6_to_1_5_of_the_radius() -> None:
    scene = parse_prompt("a small red star growing on a gray background")
    assert scene is not None
    spec = scene.objects[0]
    assert spec.at(0.0)[2] == pytest.approx(0.6 * SIZES["small"])
    assert spec.at(1.0)[2] == pytest.approx(1.5 * SIZES["small"])
