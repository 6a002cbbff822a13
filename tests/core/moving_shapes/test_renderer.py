"""The renderer: palette, sizes, positions and turning sense, read off the pixels."""

from dataclasses import replace

import numpy as np
import pytest

from magicvideo_core.moving_shapes.renderer import keyframe_times, render
from magicvideo_core.moving_shapes.world import BACKGROUNDS, COLOURS, SceneSpec, parse_prompt


def _scene(prompt: str) -> SceneSpec:
    scene = parse_prompt(prompt)
    assert scene is not None
    return scene


def _mask(frame: np.ndarray, background: str) -> np.ndarray:
    return np.abs(frame.astype(int) - BACKGROUNDS[background]).sum(axis=-1) > 60


def test_frames_are_uint8_rgb_with_palette_colours() -> None:
    frames = render(_scene("a big red circle standing still on a navy background"), [0.0, 1.0], 64)
    assert frames.shape == (2, 64, 64, 3) and frames.dtype == np.uint8
    assert tuple(frames[0, 32, 32]) == COLOURS["red"]
    assert tuple(frames[0, 0, 0]) == BACKGROUNDS["navy"]
    assert np.array_equal(frames[0], frames[1])


def test_every_third_video_frame_is_a_keyframe() -> None:
    scene = _scene("a small striped cyan star spinning on a brown background")
    keyframes = render(scene, keyframe_times(16), 32)
    video = render(scene, [index / 45 for index in range(46)], 32)
    assert np.array_equal(video[::3], keyframes)


def test_moving_left_moves_the_centroid_by_the_nominal_distance() -> None:
    scene = _scene("a small red square moving left on a gray background")
    inside = SceneSpec((replace(scene.objects[0], x=0.75),), "gray")
    frames = render(inside, [0.0, 1.0], 128)
    columns = [np.nonzero(_mask(frame, "gray"))[1].mean() for frame in frames]
    assert columns[1] - columns[0] == pytest.approx(-0.45 * 128, abs=1.0)


def test_area_follows_the_radius() -> None:
    frames = render(_scene("a small white circle growing on a black background"), [0.0, 1.0], 128)
    radii = [np.sqrt(_mask(frame, "black").sum() / np.pi) / 128 for frame in frames]
    assert radii == pytest.approx([0.09, 0.225], abs=0.008)


def test_dark_parts_have_0_55_of_the_colour_and_stripes_start_at_the_centre() -> None:
    frame = render(_scene("a big striped yellow square standing still on a black background"), [0.0], 128)[0]
    dark = np.round(0.55 * np.array(COLOURS["yellow"]))
    assert np.abs(frame[64, 66].astype(int) - dark).max() <= 1
    assert tuple(frame[64, 62]) == COLOURS["yellow"]


def test_spinning_is_clockwise() -> None:
    # After a quarter of the clip (45 degrees) the top corner of a triangle has gone to the upper right.
    frames = render(_scene("a big green triangle spinning on a black background"), [0.0, 0.25], 64)
    quarter = _mask(frames[1], "black")
    assert quarter[20, 43] and not quarter[20, 20]
