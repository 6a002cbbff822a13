"""The oracle of the Moving Shapes world: judges frames against the words of their prompt, from measured facts alone.

Every attribute is classified over all of its values and must also be good enough to count (a grey smear is no circle).
Coordinates are canvas units (0..1, y down), angles clockwise radians, time u runs from 0 to 1; N sampled frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from magicvideo_core.moving_shapes.judgement import ATTRIBUTES, Judgement, ObjectJudgement, Seen
from magicvideo_core.moving_shapes.oracle_masks import (
    SeenColour,
    components,
    fill,
    object_masks,
    see_background,
    see_colours,
)
from magicvideo_core.moving_shapes.oracle_shapes import (
    SYMMETRY,
    Blob,
    Pose,
    fit,
    line,
    measure,
    moment_pose,
    turning,
)
from magicvideo_core.moving_shapes.oracle_textures import see_texture, texture_turn
from magicvideo_core.moving_shapes.world import (
    GROWTH,
    MOTIONS,
    MOVE_DISTANCE,
    MOVES,
    SHAPES,
    SIZES,
    SPIN_RADIANS,
    ObjectSpec,
    parse_prompt,
)

__all__ = ["ATTRIBUTES", "Judgement", "ObjectJudgement", "Seen", "judge"]

MIN_SHAPE_IOU = 0.7
# Of an object's pixels outside its largest blob: a second object that nobody asked for has more.
MAX_STRAY = 0.1
MIN_MOTION = 0.5
MAX_STILL = 0.3
_FRAMES_SINGLE, _FRAMES_TWO, _FITTED_FRAMES = 10, 16, 5
_SIZE_BAND = math.sqrt(SIZES["big"] / SIZES["small"])


@dataclass(frozen=True, slots=True)
class _Track:
    """One object over the sampled frames: masks as found, filled main blobs, their moments, and where it is `free`."""

    masks: np.ndarray
    blobs: list[Blob | None]
    filled: np.ndarray
    free: np.ndarray


def judge(frames_THWC_u8: np.ndarray, prompt: str) -> Judgement:
    """Judge a video, its keyframes or one still image (T = 1, motion not judged) against a canonical prompt.

    Args:
        frames_THWC_u8: uint8 RGB, square; the first frame is u = 0 and the last u = 1.

    Raises:
        ValueError: the prompt is not one of the world's two forms, or the frames are not square uint8 RGB.
    """
    scene = parse_prompt(prompt)
    if scene is None:
        raise ValueError(f"not a canonical Moving Shapes prompt: {prompt!r}")
    if frames_THWC_u8.ndim != 4 or frames_THWC_u8.shape[1] != frames_THWC_u8.shape[2] or frames_THWC_u8.shape[3] != 3:
        raise ValueError(f"frames must be square THWC RGB, not {frames_THWC_u8.shape}")
    if frames_THWC_u8.dtype != np.uint8 or len(frames_THWC_u8) == 0:
        raise ValueError("frames must be uint8 and at least one")
    count = len(frames_THWC_u8)
    wanted = _FRAMES_SINGLE if len(scene.objects) == 1 else _FRAMES_TWO
    chosen = np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))
    frames_NHWC = at_most_160_pixels(frames_THWC_u8[chosen]).astype(np.float32)
    times_u = chosen / max(count - 1, 1)

    background = see_background(frames_NHWC)
    colours = see_colours(frames_NHWC, background.rgb)
    found = _assign(scene.objects, colours)
    names = [each.name for each in found if each is not None]
    masks = object_masks(frames_NHWC, background.rgb, names) if names else []
    tracks = iter(_tracks(masks))
    objects = []
    num_blobs = 0
    for spec, colour in zip(scene.objects, found, strict=True):
        if colour is None:
            objects.append(ObjectJudgement(False, False, False, False, False if count > 1 else None, None))
            continue
        track = next(tracks)
        num_blobs += max(_count_blobs(mask) for mask in track.masks[track.free])
        objects.append(_judge_object(spec, colour, track, frames_NHWC, times_u))
    return Judgement(
        background=background.clean and background.name == scene.background,
        objects=tuple(objects),
        background_seen=background.name,
        flicker=_flicker(frames_THWC_u8, background.rgb),
        num_blobs=num_blobs,
    )


def at_most_160_pixels(frames_NHWC: np.ndarray) -> np.ndarray:
    """Square frames averaged over blocks of pixels, so that a side has at most 160: more says nothing of this world."""
    factor = math.ceil(frames_NHWC.shape[1] / 160)
    if factor == 1:
        return frames_NHWC
    side = frames_NHWC.shape[1] // factor
    cropped = frames_NHWC[:, : side * factor, : side * factor]
    return cropped.reshape(len(cropped), side, factor, side, factor, 3).mean(axis=(2, 4))


def _assign(objects: tuple[ObjectSpec, ...], colours: list[SeenColour]) -> list[SeenColour | None]:
    """The seen colour of each object: its own where that is among the strongest, else one that nobody asked for."""
    strongest = [each for each in colours[: len(objects)] if each.share >= 0.08]
    by_name = {each.name: each for each in strongest}
    asked = {spec.colour for spec in objects}
    spare = [each for each in strongest if each.name not in asked]
    return [by_name.get(spec.colour) or (spare.pop(0) if spare else None) for spec in objects]


def _tracks(masks: list[np.ndarray]) -> list[_Track]:
    tracks = []
    for mask_NHW in masks:
        main = np.stack([components(mask)[0] for mask in mask_NHW])
        filled = fill(main)
        tracks.append(_Track(mask_NHW, [measure(each) for each in filled], filled, np.ones(len(main), dtype=bool)))
    if len(tracks) == 2:
        first, second = tracks
        touch = 2 / first.filled.shape[1]
        for n, (a, b) in enumerate(zip(first.blobs, second.blobs, strict=True)):
            if a is not None and b is not None:
                apart = math.hypot(a.x - b.x, a.y - b.y) > a.reach + b.reach - touch
                first.free[n] = second.free[n] = apart or n in (0, len(first.blobs) - 1)
        if first.free.sum() < min(4, len(first.free)):
            first.free[:] = second.free[:] = True
    return tracks


def _count_blobs(mask_HW: np.ndarray) -> int:
    areas = components(mask_HW)[1]
    return sum(1 for area in areas if area >= max(4, 0.05 * areas[0]))


def _judge_object(
    spec: ObjectSpec, colour: SeenColour, track: _Track, frames_NHWC: np.ndarray, times_u: np.ndarray
) -> ObjectJudgement:
    usable = [n for n in range(len(times_u)) if track.free[n] and track.blobs[n] is not None]
    if not usable:
        return ObjectJudgement(False, False, False, False, False if len(times_u) > 1 else None, None)

    # 1. Shape: the template with the best mean IoU; a frame without the object counts as zero.
    free = np.flatnonzero(track.free)
    fitted = free[np.unique(np.linspace(0, len(free) - 1, min(len(free), _FITTED_FRAMES)).round().astype(int))]
    ious = {shape: np.zeros(len(fitted)) for shape in SHAPES}
    poses: dict[tuple[str, int], Pose] = {}
    strays: list[float] = []
    for position, n in enumerate(fitted):
        blob = track.blobs[n]
        if blob is None:
            continue
        whole = track.masks[n] | track.filled[n]
        total = int(np.count_nonzero(whole))
        strays.append(1 - np.count_nonzero(track.filled[n]) / total)
        for shape in SHAPES:
            poses[shape, n], ious[shape][position] = fit(shape, blob, whole, total)
    shape = max(SHAPES, key=lambda each: float(ious[each].mean()))
    shape_iou = float(ious[shape].mean())

    # 2. Position, radius and rotation over time.
    times = times_u[usable]
    blobs = [track.blobs[n] for n in usable]
    measured = [
        poses.get((shape, n)) or moment_pose(shape, blob) for n, blob in zip(usable, blobs, strict=True) if blob
    ]
    x0, x1, x_linear = line(np.array([pose.x for pose in measured]), times)
    y0, y1, y_linear = line(np.array([pose.y for pose in measured]), times)
    r0, r1, r_linear = line(np.array([pose.radius for pose in measured]), times)
    turn_shape = spec.shape if shape == "circle" else shape
    order = SYMMETRY[turn_shape]
    rotation, steady = 0.0, 0.0
    if order:
        phases = np.array([blob.harmonics[order] for blob in blobs if blob])
        if float(np.abs(phases).mean()) > 0.08:
            rotation, steady = turning(phases, times, order)

    # 3. Texture in the frames where the object is largest.
    largest = sorted((n for n in fitted if (shape, n) in poses), key=lambda n: -poses[shape, n].radius)[:3]
    views = [(frames_NHWC[n], poses[shape, n]) for n in largest]
    texture, contrasts = see_texture(views, shape, colour.name)
    named = spec.texture if spec.texture != "none" else max(contrasts, key=lambda each: contrasts[each])
    if shape == "circle" and texture != "none":
        every = [(frames_NHWC[n], pose) for n, pose in zip(usable, measured, strict=True)]
        rotation, steady = texture_turn(every, colour.name, texture, times)

    # 4. Verdicts.
    motion = _motion(
        {"x": (x1 - x0, x_linear), "y": (y1 - y0, y_linear), "r": (_log_growth(r0, r1), r_linear)}, (rotation, steady)
    )
    start = {"growing": GROWTH[0], "shrinking": GROWTH[1]}.get(spec.motion, 1.0)
    nominal = {name: start * radius for name, radius in SIZES.items()}
    size = min(nominal, key=lambda name: abs(math.log(max(r0, 1e-3) / nominal[name])))
    off = abs(math.log(max(r0, 1e-3) / nominal[size]))
    seen = Seen(
        colour=colour.name,
        shape=shape,
        size=size,
        texture=texture,
        motion=motion,
        shape_iou=shape_iou,
        radius_start=r0,
        displacement=(x1 - x0, y1 - y0),
        growth=max(r1, 1e-3) / max(r0, 1e-3),
        rotation=rotation,
        texture_contrast=contrasts[named],
    )
    return ObjectJudgement(
        colour=colour.clean and colour.name == spec.colour,
        shape=shape == spec.shape and shape_iou >= MIN_SHAPE_IOU and float(np.median(strays)) <= MAX_STRAY,
        size=size == spec.size and off <= math.log(_SIZE_BAND),
        texture=texture == spec.texture,
        motion=motion == spec.motion if len(times_u) > 1 else None,
        seen=seen,
    )


def _log_growth(start: float, end: float) -> float:
    return math.log(max(end, 1e-3) / max(start, 1e-3)) / math.log(GROWTH[1] / GROWTH[0])


def _motion(tracks: dict[str, tuple[float, float]], turn: tuple[float, float]) -> str:
    """The motion whose amount reaches half of the nominal one while no other does; a jump is not a motion."""
    amounts = {}
    for motion, (dx, dy) in MOVES.items():
        amount, linear = tracks["x"] if dx else tracks["y"]
        amounts[motion] = (amount * (dx + dy) / MOVE_DISTANCE, linear >= 0.85)
    growth, linear = tracks["r"]
    amounts["growing"], amounts["shrinking"] = (growth, linear >= 0.85), (-growth, linear >= 0.85)
    rotation, steady = turn
    amounts["spinning"] = (rotation / SPIN_RADIANS, steady >= 0.7)
    if rotation < 0 and steady >= 0.7:
        amounts["turning back"] = (-rotation / SPIN_RADIANS, True)
    full = [motion for motion, (amount, steadily) in amounts.items() if amount >= MIN_MOTION and steadily]
    if len(full) == 1:
        return full[0] if full[0] in MOTIONS else "unclear"
    if not full and all(
        amount < MAX_STILL for motion, (amount, steadily) in amounts.items() if steadily or motion != "spinning"
    ):
        return "standing still"
    return "unclear"


def _flicker(frames_THWC_u8: np.ndarray, background_rgb: np.ndarray) -> float:
    if len(frames_THWC_u8) < 2:
        return 0.0
    stride = max(1, frames_THWC_u8.shape[1] // 32)
    small = frames_THWC_u8[:, ::stride, ::stride].astype(np.float32)
    plain = np.linalg.norm(small - background_rgb, axis=-1) < 60
    both = plain[1:] & plain[:-1]
    return float(np.abs(np.diff(small, axis=0))[both].mean()) if both.any() else 0.0
