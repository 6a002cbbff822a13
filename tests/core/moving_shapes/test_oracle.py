"""The oracle: says yes to rendered truth, and no to each single word that does not hold."""

import dataclasses
import random

import numpy as np
import pytest

from magicvideo_core.media import decode_video, encode_mp4
from magicvideo_core.moving_shapes.oracle import ATTRIBUTES, Judgement, judge
from magicvideo_core.moving_shapes.renderer import keyframe_times, render
from magicvideo_core.moving_shapes.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    SceneSpec,
    parse_prompt,
    sample_scene,
)

VALUES = {"shape": SHAPES, "colour": tuple(COLOURS), "size": tuple(SIZES), "texture": TEXTURES, "motion": MOTIONS}


def _scenes(count: int, seed: int, num_objects: int = 1) -> list[SceneSpec]:
    rng = random.Random(seed)
    return [sample_scene(rng, num_objects=num_objects, held_out=None) for _ in range(count)]


def _wrong(judgement: Judgement) -> list[str]:
    return [name for name in ATTRIBUTES if judgement.holds(name) is False]


@pytest.mark.parametrize(("num_objects", "size", "count"), [(1, 64, 40), (1, 128, 20), (2, 64, 15)])
def test_rendered_keyframes_are_right_in_everything(num_objects: int, size: int, count: int) -> None:
    for scene in _scenes(count, 4, num_objects):
        judgement = judge(render(scene, keyframe_times(), size), scene.prompt)
        assert not _wrong(judgement), (scene.prompt, judgement)
        assert judgement.all_correct and judgement.num_blobs == num_objects


def test_finished_videos_survive_their_encoding() -> None:
    for scene in _scenes(8, 5):
        frames = render(scene, [index / 45 for index in range(46)], 128)
        decoded = decode_video(encode_mp4(frames, 24.0)).frames_THWC_u8
        assert not _wrong(judge(decoded, scene.prompt)), scene.prompt


def test_a_still_image_is_judged_without_its_motion() -> None:
    for scene in _scenes(15, 6):
        judgement = judge(render(scene, [0.0], 64), scene.prompt)
        assert judgement.holds("motion") is None
        assert judgement.all_correct, (scene.prompt, judgement)


@pytest.mark.parametrize("attribute", VALUES)
def test_one_wrong_word_is_wrong_in_that_attribute(attribute: str) -> None:
    rng = random.Random(7)
    for scene in _scenes(12, 7):
        spec = scene.objects[0]
        other = rng.choice([value for value in VALUES[attribute] if value != getattr(spec, attribute)])
        asked = SceneSpec((dataclasses.replace(spec, **{attribute: other}),), scene.background)
        judgement = judge(render(scene, keyframe_times(), 64), asked.prompt)
        assert judgement.holds(attribute) is False, (scene.prompt, other)


def test_a_wrong_background_is_wrong() -> None:
    for scene in _scenes(8, 8):
        other = next(name for name in BACKGROUNDS if name != scene.background)
        assert _wrong(judge(render(scene, [0.0], 64), SceneSpec(scene.objects, other).prompt)) == ["background"]


def test_frozen_reversed_and_jumping_clips_have_the_wrong_motion() -> None:
    for scene in _scenes(16, 9):
        if scene.objects[0].motion == "standing still":
            continue
        frames = render(scene, keyframe_times(), 64)
        frozen = np.repeat(frames[:1], 16, axis=0)
        jumping = np.concatenate([np.repeat(frames[:1], 8, axis=0), np.repeat(frames[-1:], 8, axis=0)])
        for cheat in (frozen, frames[::-1], jumping):
            assert judge(cheat, scene.prompt).holds("motion") is False, scene.prompt


def test_a_faint_smear_and_an_empty_canvas_are_nothing() -> None:
    scene = _scenes(1, 10)[0]
    frames = render(scene, keyframe_times(), 64)
    background = np.array(BACKGROUNDS[scene.background])
    faint = (0.35 * frames + 0.65 * background).astype(np.uint8)
    assert judge(faint, scene.prompt).holds("colour") is False
    empty = np.broadcast_to(background.astype(np.uint8), frames.shape).copy()
    assert _wrong(judge(empty, scene.prompt)) == ["colour", "shape", "size", "texture", "motion"]


def test_a_second_object_that_nobody_asked_for_costs_the_shape() -> None:
    scene = parse_prompt("a big red circle standing still and a small blue star standing still on a gray background")
    assert scene is not None
    first, second = scene.objects
    crowd = SceneSpec((dataclasses.replace(first, x=0.3), dataclasses.replace(second, x=0.75)), "gray")
    asked = SceneSpec((first,), "gray").prompt
    judgement = judge(render(crowd, keyframe_times(), 64), asked)
    assert judgement.holds("shape") is False
    assert judgement.num_blobs == 2


def test_words_of_two_objects_are_not_interchangeable() -> None:
    rng = random.Random(11)
    scene = sample_scene(rng, num_objects=2, held_out=None)
    first, second = scene.objects
    swapped = SceneSpec(
        (dataclasses.replace(first, colour=second.colour), dataclasses.replace(second, colour=first.colour)),
        scene.background,
    )
    frames = render(scene, keyframe_times(), 64)
    assert judge(frames, scene.prompt).all_correct
    assert not judge(frames, swapped.prompt).all_correct


@pytest.mark.parametrize(
    ("shape", "dtype", "prompt"),
    [
        ((4, 32, 32, 3), np.uint8, "a dog on a beach"),
        ((4, 32, 40, 3), np.uint8, "a big red circle growing on a gray background"),
        ((4, 32, 32, 3), np.float32, "a big red circle growing on a gray background"),
        ((0, 32, 32, 3), np.uint8, "a big red circle growing on a gray background"),
    ],
)
def test_what_cannot_be_judged_is_refused(shape: tuple[int, ...], dtype: type, prompt: str) -> None:
    with pytest.raises(ValueError):
        judge(np.zeros(shape, dtype=dtype), prompt)
