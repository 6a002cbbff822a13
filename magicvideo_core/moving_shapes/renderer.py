"""Renders Moving Shapes scenes, anti-aliased, in batches of frames with torch.

Shape suffixes: N frames, K objects a frame, P canvas side in pixels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from magicvideo_core.moving_shapes.world import (
    BACKGROUNDS,
    COLOURS,
    CROSS_HALF_WIDTH,
    DARK_FACTOR,
    DOT_PITCH,
    DOT_RADIUS,
    SHAPES,
    STAR_INNER_RADIUS,
    STRIPE_PERIOD,
    TEXTURES,
    SceneSpec,
)


@dataclass(frozen=True, slots=True)
class FrameParameters:
    """What N frames show: K objects each (`present` False for an unused slot), all float32 but the indices.

    x_NK, y_NK, radius_NK: canvas units; angle_NK: clockwise radians; colour_NKC: 0..255.
    """

    x_NK: torch.Tensor
    y_NK: torch.Tensor
    radius_NK: torch.Tensor
    angle_NK: torch.Tensor
    colour_NKC: torch.Tensor
    shape_NK: torch.Tensor
    texture_NK: torch.Tensor
    present_NK: torch.Tensor
    background_NC: torch.Tensor


def frame_parameters(frames: Sequence[tuple[SceneSpec, float]]) -> FrameParameters:
    """Parameters of single frames, each given as (scene, time u in 0..1)."""
    slots = max(len(scene.objects) for scene, _ in frames)
    numbers = np.zeros((len(frames), slots, 7), dtype=np.float32)
    kinds = np.zeros((len(frames), slots, 3), dtype=np.int64)
    for n, (scene, u) in enumerate(frames):
        for k, spec in enumerate(scene.objects):
            numbers[n, k] = (*spec.at(u), *COLOURS[spec.colour])
            kinds[n, k] = (SHAPES.index(spec.shape), TEXTURES.index(spec.texture), 1)
    values, indices = torch.from_numpy(numbers), torch.from_numpy(kinds)
    x, y, radius, angle = values[..., :4].unbind(-1)
    background = torch.tensor([BACKGROUNDS[scene.background] for scene, _ in frames], dtype=torch.float32)
    return FrameParameters(
        x, y, radius, angle, values[..., 4:], indices[..., 0], indices[..., 1], indices[..., 2].bool(), background
    )


# ---- signed distances (negative inside), object coordinates in units of the circumradius ----------------------------


def _circle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x * x + y * y).sqrt() - 1.0


def _square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.maximum(x.abs(), y.abs()) - math.sqrt(0.5)


def _triangle(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.maximum(y, x.abs() * math.cos(math.pi / 6) - y * 0.5) - 0.5


def _star(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # Folded into the half sector between an outer point (angle 0) and the next inner corner (36 degrees): one edge.
    sector = math.pi / 5
    angle = torch.atan2(x, -y).abs()
    angle = (torch.remainder(angle + sector, 2 * sector) - sector).abs()
    radius = (x * x + y * y).sqrt()
    px, py = radius * torch.cos(angle), radius * torch.sin(angle)
    ex, ey = STAR_INNER_RADIUS * math.cos(sector) - 1.0, STAR_INNER_RADIUS * math.sin(sector)
    length = math.hypot(ex, ey)
    return ((px - 1.0) * ey - py * ex) / length


def _cross(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    width, reach = CROSS_HALF_WIDTH, math.sqrt(1 - CROSS_HALF_WIDTH**2)
    x, y = x.abs(), y.abs()
    return torch.minimum(torch.maximum(x - reach, y - width), torch.maximum(x - width, y - reach))


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross}


def _darkness(texture: str, x: torch.Tensor, y: torch.Tensor, pixels: int) -> torch.Tensor:
    """How much of each pixel lies in the dark part of the pattern, 0..1; x, y in canvas units from the object's centre."""
    if texture == "striped":
        phase = torch.remainder(x, STRIPE_PERIOD)
        inside = torch.minimum(phase, STRIPE_PERIOD / 2 - phase)
        # Distance to the nearest edge of the dark half, which begins at the centre; also right across the wrap.
        inside = torch.maximum(inside, phase - STRIPE_PERIOD)
        return (0.5 + inside * pixels).clamp(0, 1)
    dx = torch.remainder(x, DOT_PITCH) - DOT_PITCH / 2
    dy = torch.remainder(y, DOT_PITCH) - DOT_PITCH / 2
    return (0.5 + (DOT_RADIUS - (dx * dx + dy * dy).sqrt()) * pixels).clamp(0, 1)


# ---- drawing ----------------------------------------------------------------------------------------------------------


def render_batch(parameters: FrameParameters, pixels: int) -> torch.Tensor:
    """Draw N frames. Returns float32 NCHW in 0..255 with H = W = `pixels`."""
    count, slots = parameters.x_NK.shape
    grid = (torch.arange(pixels, dtype=torch.float32) + 0.5) / pixels
    image = parameters.background_NC[:, :, None, None].expand(-1, -1, pixels, pixels).clone()
    for k in range(slots):
        x = grid[None, None, :] - parameters.x_NK[:, k, None, None]
        y = grid[None, :, None] - parameters.y_NK[:, k, None, None]
        cos, sin = parameters.angle_NK[:, k].cos()[:, None, None], parameters.angle_NK[:, k].sin()[:, None, None]
        local_x, local_y = x * cos + y * sin, y * cos - x * sin
        radius = parameters.radius_NK[:, k, None, None].clamp(min=1e-6)
        alpha = torch.zeros(count, pixels, pixels)
        for index, shape in enumerate(SHAPES):
            chosen = torch.nonzero((parameters.shape_NK[:, k] == index) & parameters.present_NK[:, k]).flatten()
            if len(chosen):
                r = radius[chosen]
                distance = _DISTANCES[shape](local_x[chosen] / r, local_y[chosen] / r) * r
                alpha[chosen] = (0.5 - distance * pixels).clamp(0, 1)
        shade = torch.ones(count, pixels, pixels)
        for index, texture in enumerate(TEXTURES[1:], start=1):
            chosen = torch.nonzero((parameters.texture_NK[:, k] == index) & parameters.present_NK[:, k]).flatten()
            if len(chosen):
                dark = _darkness(texture, local_x[chosen], local_y[chosen], pixels)
                shade[chosen] = 1 - (1 - DARK_FACTOR) * dark
        colour = parameters.colour_NKC[:, k, :, None, None] * shade[:, None]
        image = torch.lerp(image, colour, alpha[:, None])
    return image


def object_masks(parameters: FrameParameters, pixels: int) -> torch.Tensor:
    """Coverage of any object, float32 NHW in 0..1: every object drawn white and plain on black."""
    white = replace(
        parameters,
        colour_NKC=torch.ones_like(parameters.colour_NKC),
        texture_NK=torch.zeros_like(parameters.texture_NK),
        background_NC=torch.zeros_like(parameters.background_NC),
    )
    return render_batch(white, pixels)[:, 0]


def without_texture(parameters: FrameParameters) -> FrameParameters:
    """The same frames with every pattern replaced by its mean brightness: what remains of it at a low resolution."""
    dots = (1 - DARK_FACTOR) * math.pi * (DOT_RADIUS / DOT_PITCH) ** 2
    shade = {"none": 1.0, "striped": (1 + DARK_FACTOR) / 2, "dotted": 1 - dots}
    shade_NK = torch.tensor([shade[name] for name in TEXTURES])[parameters.texture_NK]
    return replace(
        parameters,
        colour_NKC=parameters.colour_NKC * shade_NK[..., None],
        texture_NK=torch.zeros_like(parameters.texture_NK),
    )


def render(scene: SceneSpec, times_u: Sequence[float], pixels: int) -> np.ndarray:
    """Frames of one scene at times u in 0..1: uint8 THWC RGB."""
    frames = render_batch(frame_parameters([(scene, float(u)) for u in times_u]), pixels)
    return frames.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def keyframe_times(num_keyframes: int = 16) -> list[float]:
    """Times of the keyframes, u = k / (num_keyframes - 1)."""
    return [k / max(num_keyframes - 1, 1) for k in range(num_keyframes)]
