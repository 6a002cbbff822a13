"""Training pairs for the interpolator: rendered objects in small random motion, degraded the way generated frames are.

Shape suffixes: B pairs, T times between, N frames, C, H, W as usual. Frames are float32 in [0, 1].
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from magicvideo_core.moving_shapes.renderer import FrameParameters, frame_parameters, object_masks, render_batch
from magicvideo_core.moving_shapes.world import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    TEXTURES,
    SceneSpec,
    is_held_out,
    sample_scene,
)

CANVAS_PX = 128
KEYFRAME_GAP_U = 1 / 15
MAX_OBJECTS = 2
# Slightly more than the world's own motion between two keyframes: 0.03 of the canvas, 12 degrees, 6 % of the radius.
MAX_SHIFT = 0.036
MAX_TURN = math.radians(15)
MAX_GROWTH = 0.08


@dataclass(frozen=True, slots=True)
class FreeObject:
    """An object in uniform motion from time 0 to 1; canvas units, radians, colour 0..255."""

    shape: str
    texture: str
    colour: tuple[float, float, float]
    x: float
    y: float
    radius: float
    angle: float
    shift: tuple[float, float]
    growth: float
    turn: float

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Centre x, y, radius, angle."""
        x, y = self.x + self.shift[0] * time, self.y + self.shift[1] * time
        return x, y, self.radius * (1 + self.growth * time), self.angle + self.turn * time


def named_motions(shift: tuple[float, float], growth: float, turn: float) -> set[str]:
    """Every motion phrase of the world that describes some part of the movement."""
    words = set()
    if shift[0]:
        words.add("moving right" if shift[0] > 0 else "moving left")
    if shift[1]:
        words.add("moving down" if shift[1] > 0 else "moving up")
    if growth:
        words.add("growing" if growth > 0 else "shrinking")
    if turn:
        words.add("spinning")
    return words or {"standing still"}


def nearest_colour(rgb: tuple[float, float, float]) -> str:
    """The palette's name for a colour."""
    return min(COLOURS, key=lambda name: math.dist(COLOURS[name], rgb))


def sample_free_object(rng: random.Random) -> FreeObject:
    """An object in free motion, outside the held-out triples in every word that describes its movement."""
    while True:
        shape, texture = rng.choice(SHAPES), rng.choice(TEXTURES)
        colour = rng.choice(tuple(COLOURS.values())) if rng.random() < 0.5 else _random_colour(rng)
        length, heading = MAX_SHIFT * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        shift = (length * math.cos(heading), length * math.sin(heading)) if rng.random() < 0.7 else (0.0, 0.0)
        turn = rng.uniform(-MAX_TURN, MAX_TURN) if rng.random() < 0.4 else 0.0
        growth = rng.uniform(-MAX_GROWTH, MAX_GROWTH) if rng.random() < 0.3 else 0.0
        if any(is_held_out(nearest_colour(colour), shape, word) for word in named_motions(shift, growth, turn)):
            continue
        radius, angle = rng.uniform(0.08, 0.38), rng.uniform(0, 2 * math.pi)
        x, y = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9)
        return FreeObject(shape, texture, colour, x, y, radius, angle, shift, growth, turn)


def _random_colour(rng: random.Random) -> tuple[float, float, float]:
    return (rng.uniform(0, 255), rng.uniform(0, 255), rng.uniform(0, 255))


def _free_frames(rng: random.Random, times: Sequence[float]) -> FrameParameters:
    objects = [sample_free_object(rng) for _ in range(rng.choice((1, 1, 2)))]
    background = rng.choice(tuple(BACKGROUNDS.values())) if rng.random() < 0.7 else _random_colour(rng)
    x, y, radius, angle = torch.tensor([[each.at(time) for each in objects] for time in times]).unbind(-1)

    def repeat(rows: list[tuple[float, float, float]] | list[int]) -> torch.Tensor:
        return torch.tensor(rows)[None].expand(len(times), *torch.tensor(rows).shape)

    return FrameParameters(
        x,
        y,
        radius,
        angle,
        repeat([each.colour for each in objects]),
        repeat([SHAPES.index(each.shape) for each in objects]),
        repeat([TEXTURES.index(each.texture) for each in objects]),
        torch.ones(len(times), len(objects), dtype=torch.bool),
        torch.tensor(background, dtype=torch.float32).expand(len(times), 3),
    )


def _world_frames(rng: random.Random, times: Sequence[float]) -> FrameParameters:
    scene: SceneSpec = sample_scene(rng, num_objects=rng.choice((1, 1, 2)))
    start = rng.uniform(0, 1 - KEYFRAME_GAP_U)
    return frame_parameters([(scene, start + KEYFRAME_GAP_U * time) for time in times])


@dataclass(frozen=True, slots=True)
class MotionPairs:
    """Neighbouring frames and the one at time t between, BCHW each, and the motion B2HW seen there (`models.motion`)."""

    first_BCHW: torch.Tensor
    second_BCHW: torch.Tensor
    interp_time_B: torch.Tensor
    truth_BCHW: torch.Tensor
    motion_B2HW: torch.Tensor


def sample_motion_pairs(rng: random.Random, generator: torch.Generator, batch_size: int, crop_px: int) -> MotionPairs:
    """Random pairs of Moving Shapes with one time each, three in five at thirds; crops without motion are drawn again."""
    clips, times, motions = [], [], []
    for _ in range(batch_size):
        time = rng.choice((1 / 3, 2 / 3)) if rng.random() < 0.6 else rng.random()
        draw = _world_frames if rng.random() < 0.6 else _free_frames
        parameters = draw(rng, [0.0, 1.0, time])
        frames, motion_2HW = render_batch(parameters, CANVAS_PX) / 255, motion_seen(parameters, 2)
        for _ in range(3):
            top, left = (rng.randint(0, CANVAS_PX - crop_px) for _ in range(2))
            crop_2HW = motion_2HW[:, top : top + crop_px, left : left + crop_px]
            if crop_2HW.abs().amax() > 0.3:
                break
        frames = frames[:, :, top : top + crop_px, left : left + crop_px]
        clips.append(_degrade(frames, [0.0, 1.0, time], rng, generator))
        times.append(time)
        motions.append(crop_2HW)
    frames_BNCHW = torch.stack(clips)
    first, second, truth = frames_BNCHW.unbind(1)
    return MotionPairs(first, second, torch.tensor(times), truth, torch.stack(motions))


def motion_seen(parameters: FrameParameters, index: int) -> torch.Tensor:
    """Where each pixel's point goes from frame 0 to frame 1, seen in frame `index`: float32 2HW, pixels of the canvas."""
    grid = (torch.arange(CANVAS_PX) + 0.5) / CANVAS_PX
    motion_2HW = torch.zeros(2, CANVAS_PX, CANVAS_PX)
    for k in range(parameters.x_NK.shape[1]):
        alone = {
            name: getattr(parameters, name)[index : index + 1, k : k + 1]
            for name in FrameParameters.__dataclass_fields__
            if name != "background_NC"
        }
        covered_HW = object_masks(replace(parameters, **alone, background_NC=parameters.background_NC[:1]), CANVAS_PX)
        x, y = grid[None, :] - parameters.x_NK[index, k], grid[:, None] - parameters.y_NK[index, k]
        ends = []
        for end in (0, 1):
            turn = parameters.angle_NK[end, k] - parameters.angle_NK[index, k]
            scale = parameters.radius_NK[end, k] / parameters.radius_NK[index, k].clamp(min=1e-6)
            turned_x, turned_y = x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()
            centre_x, centre_y = parameters.x_NK[end, k], parameters.y_NK[end, k]
            ends.append(torch.stack([centre_x + scale * turned_x, centre_y + scale * turned_y]))
        motion_2HW = torch.where(covered_HW > 0.5, (ends[1] - ends[0]) * CANVAS_PX, motion_2HW)
    return motion_2HW


def _degrade(
    frames_NCHW: torch.Tensor, times: Sequence[float], rng: random.Random, generator: torch.Generator
) -> torch.Tensor:
    """Half of the clips as they are; the others blurred, with colours that waver slowly, and grain on the two inputs.

    What can be known of a frame between is kept in the truth: the blur, and the wavering half-way between the inputs'.
    """
    if rng.random() < 0.5:
        return frames_NCHW
    frames_NCHW = gaussian_blur(frames_NCHW, rng.uniform(0.2, 0.9))
    size = frames_NCHW.shape[-1]
    coarse = torch.randn(2, 3, size // 8, size // 8, generator=generator) * rng.uniform(0, 0.025)
    waver = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    mix = torch.tensor(times)[:, None, None, None]
    frames_NCHW = frames_NCHW + torch.lerp(waver[:1], waver[1:], mix)
    grain = torch.randn(2, *frames_NCHW.shape[1:], generator=generator) * rng.uniform(0, 0.012)
    frames_NCHW[:2] += grain
    return frames_NCHW.clamp(0, 1)


def gaussian_blur(frames_NCHW: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Blur with a 5-tap Gaussian along each axis."""
    line = torch.exp(-0.5 * (torch.arange(-2.0, 3.0) / sigma_px) ** 2)
    line = (line / line.sum()).view(1, 1, 1, 5)
    flat = F.pad(frames_NCHW.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(flat, line), line.transpose(2, 3)).view_as(frames_NCHW)
