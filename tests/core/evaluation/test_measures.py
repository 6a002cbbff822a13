"""Measures: what is rendered is nominal; what is frozen, bleached, faded or shifted shows in its measure alone."""

import numpy as np
import pytest

from magicvideo_core.evaluation.fidelity import upscaled
from magicvideo_core.evaluation.measures import MEASURES, rendered_contrast
from magicvideo_core.evaluation.scoring import judge_sample
from magicvideo_core.moving_shapes.renderer import keyframe_times, render
from magicvideo_core.moving_shapes.world import ObjectSpec, SceneSpec


def _measured(frames: np.ndarray, scene: SceneSpec, reference: np.ndarray) -> dict[str, float]:
    result = judge_sample(scene.prompt, frames, "", reference)
    assert result is not None and set(result.measures) <= set(MEASURES)
    return result.measures


def _scene(texture: str = "striped", motion: str = "moving right") -> SceneSpec:
    return SceneSpec((ObjectSpec("square", "red", "big", texture, motion, 0.3, 0.5),), "navy")


def test_a_frozen_copy_keeps_the_reference_and_does_not_move() -> None:
    scene = _scene()
    frames = render(scene, keyframe_times(), 64)
    found = _measured(np.repeat(frames[:1], 16, axis=0), scene, frames[0])
    assert found["first_frame_psnr"] == 60 and found["colour_drift"] == 0 and found["flicker"] == 0
    assert found["displacement_of_nominal"] == pytest.approx(0, abs=0.02) and found["direction_right"] == 0
    assert "displacement_where_right" not in found


def test_a_wrong_direction_counts_against_the_displacement() -> None:
    scene = _scene(motion="moving left")
    right = SceneSpec((ObjectSpec("square", "red", "big", "striped", "moving right", 0.3, 0.5),), "navy")
    frames = render(right, keyframe_times(), 64)
    assert _measured(frames, scene, frames[0])["displacement_of_nominal"] == pytest.approx(-1, abs=0.05)


@pytest.mark.parametrize("texture", ["striped", "dotted"])
def test_texture_is_measured_against_the_rendered_truth(texture: str) -> None:
    scene = _scene(texture)
    sharp = render(scene, keyframe_times(), 128)
    assert _measured(sharp, scene, sharp[0])["texture_of_truth"] == pytest.approx(1, abs=0.05)
    small = render(scene, keyframe_times(), 32)
    blurred = _measured(upscaled(small, (128, 128)), scene, sharp[0])
    assert blurred["texture_of_truth"] < 0.7
    assert rendered_contrast(texture, 128) == pytest.approx(1, abs=0.05)


def test_another_colour_and_place_than_the_references_show() -> None:
    scene = _scene("none", "standing still")
    frames = render(scene, keyframe_times(), 64)
    paler = (frames * 0.9).astype(np.uint8)
    assert _measured(paler, scene, frames[0])["colour_drift"] > 10
    shifted = _measured(np.roll(frames, 6, axis=2), scene, frames[0])
    assert 0.3 < shifted["first_frame_iou"] < 0.9 and shifted["first_frame_psnr"] < 30
    blinking = frames.copy()
    blinking[::2] = paler[::2]
    assert _measured(blinking, scene, frames[0])["object_flicker"] > 5
    vanishing = frames.copy()
    vanishing[8:] = frames[0, 0, 0]
    assert _measured(vanishing, scene, frames[0])["colour_drift"] > 50


def test_a_still_image_has_no_measures_of_motion() -> None:
    scene = _scene()
    found = _measured(render(scene, [0.0], 64), scene, render(scene, [0.0], 64)[0])
    assert set(found) == {"texture_of_truth", "stripes_of_truth", "one_blob_per_object"}
