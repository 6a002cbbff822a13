"""What is measured of a judged clip besides right and wrong: amounts of motion, texture, flicker, fidelity."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np

from magicvideo_core.evaluation.fidelity import reference_fidelity
from magicvideo_core.moving_shapes.oracle import Judgement, Seen, judge
from magicvideo_core.moving_shapes.renderer import render
from magicvideo_core.moving_shapes.world import GROWTH, MOVE_DISTANCE, MOVES, SPIN_RADIANS, ObjectSpec, SceneSpec


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure: what it is, with its unit; which direction is better; decimals to show."""

    text: str
    better: Literal["more", "less"]
    decimals: int = 2


# Every motion at its nominal amount is 1: what freezes loses, what jumps shows.
MEASURES: dict[str, Measure] = {
    "first_frame_psnr": Measure("first frame against the reference image, PSNR in dB", "more", 1),
    "first_frame_iou": Measure("objects of the first frame against the reference's, IoU", "more"),
    "colour_drift": Measure("objects' colour away from the reference's, all frames, 0..255", "less", 1),
    "displacement_of_nominal": Measure("displacement along the asked direction, 1 = nominal", "more"),
    "direction_right": Measure("share of moving objects that go in the asked direction", "more"),
    "displacement_where_right": Measure("displacement of those, 1 = nominal", "more"),
    "growth_of_nominal": Measure("growth or shrinkage as asked, 1 = nominal", "more"),
    "rotation_of_nominal": Measure("rotation as asked, 1 = nominal", "more"),
    "drift_of_still": Measure("displacement where stillness is asked, 1 = a nominal move", "less"),
    "flicker": Measure("background flicker, 0..255", "less"),
    "object_flicker": Measure("objects' colour flicker, 0..255", "less"),
    "one_blob_per_object": Measure("share of samples with one blob per object", "more"),
    "texture_of_truth": Measure("texture contrast, 1 = rendered", "more"),
    "stripes_of_truth": Measure("texture contrast of stripes, 1 = rendered", "more"),
    "dots_of_truth": Measure("texture contrast of dots, 1 = rendered", "more"),
    "texture_where_lost": Measure("texture contrast of clips of which bicubic upscaling keeps under 0.4", "more"),
}
# Of a texture's contrast: less than this in the upscaled keyframes, and it counts as lost to the low resolution.
LOST_TEXTURE = 0.4


def measure_sample(
    scene: SceneSpec, judgement: Judgement, frames_THWC_u8: np.ndarray, reference_HWC_u8: np.ndarray | None = None
) -> dict[str, float]:
    """The measures of one judged sample, by the names in MEASURES; what does not apply to it is left out.

    Args:
        reference_HWC_u8: the clip's reference image; without it nothing is said of fidelity and of the objects' flicker.
    """
    moving = len(frames_THWC_u8) > 1
    found: dict[str, list[float]] = defaultdict(list)
    for spec, judged in zip(scene.objects, judgement.objects, strict=True):
        if judged.seen is None:
            continue
        for name, value in _texture(spec, judged.seen, frames_THWC_u8.shape[1]):
            found[name].append(value)
        for name, value in _motion(spec, judged.seen) if moving else ():
            found[name].append(value)
    values = {name: float(np.mean(each)) for name, each in found.items()}
    values["one_blob_per_object"] = float(judgement.num_blobs == len(judgement.objects))
    if moving:
        values["flicker"] = judgement.flicker
        if reference_HWC_u8 is not None:
            values |= reference_fidelity(frames_THWC_u8, reference_HWC_u8, len(scene.objects))
    return values


def note_lost_texture(measures: Mapping[str, dict[str, float]]) -> None:
    """Add `texture_where_lost` to the measures of one clip's stages where those of "bicubic" have lost the texture."""
    if measures.get("bicubic", {}).get("texture_of_truth", 1.0) < LOST_TEXTURE:
        for each in measures.values():
            if "texture_of_truth" in each:
                each["texture_where_lost"] = each["texture_of_truth"]


def _motion(spec: ObjectSpec, seen: Seen) -> Iterator[tuple[str, float]]:
    dx, dy = seen.displacement
    if spec.motion in MOVES:
        ahead_x, ahead_y = MOVES[spec.motion]
        along, sideways = dx * ahead_x + dy * ahead_y, dx * ahead_y - dy * ahead_x
        yield "displacement_of_nominal", along / MOVE_DISTANCE
        # The nearest of the four directions, and more than a tremble.
        right = along > abs(sideways) and along > 0.1 * MOVE_DISTANCE
        yield "direction_right", float(right)
        if right:
            yield "displacement_where_right", along / MOVE_DISTANCE
    elif spec.motion in ("growing", "shrinking"):
        growth = math.log(max(seen.growth, 1e-3)) / math.log(GROWTH[1] / GROWTH[0])
        yield "growth_of_nominal", growth if spec.motion == "growing" else -growth
    elif spec.motion == "spinning":
        yield "rotation_of_nominal", seen.rotation / SPIN_RADIANS
    else:
        yield "drift_of_still", math.hypot(dx, dy) / MOVE_DISTANCE


def _texture(spec: ObjectSpec, seen: Seen, pixels: int) -> Iterator[tuple[str, float]]:
    if spec.texture == "none":
        return
    value = seen.texture_contrast / rendered_contrast(spec.texture, pixels)
    yield "texture_of_truth", value
    yield ("stripes_of_truth" if spec.texture == "striped" else "dots_of_truth"), value


@cache
def rendered_contrast(texture: str, pixels: int) -> float:
    """The contrast that the oracle finds in a rendered texture on a canvas of `pixels`, 1 = the drawn one.

    It hardly depends on the object, whose outline the oracle leaves out: 0.98 for stripes and 0.99 for dots at 128 pixels.
    """
    contrasts = []
    # Where the pattern falls between pixels it measures a little less: the mean over a few places.
    for shift in (0.0, 0.25, 0.5, 0.75):
        place = 0.5 + shift / pixels
        scene = SceneSpec((ObjectSpec("square", "white", "big", texture, "standing still", place, place),), "black")
        seen = judge(render(scene, [0.0], pixels), scene.prompt).objects[0].seen
        contrasts.append(seen.texture_contrast if seen else 0.0)
    # Where a canvas has too few pixels for the pattern, contrast stays relative to the drawn one.
    contrast = float(np.mean(contrasts))
    return contrast if contrast > 0.2 else 1.0
