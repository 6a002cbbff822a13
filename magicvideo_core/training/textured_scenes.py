"""Textured scenes in uniform motion: layers with outlines of any shape over a moving background, with exact flow and truth.

A scene is a function of the continuous position and time: textures are interpolated images (`textures` module), outlines have
a pixel's soft edge. So a frame at any time is exact, and where each of its points lies at any other time is known.

Shape suffixes: B scenes, T times, L layers (the background first, what is drawn later hides what was before), H, W pixels,
S texels, K outline angles, 2 is x then y. Lengths are pixels, angles radians; pixel i has its centre at i + 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from magicvideo_core.training.textures import TRAINING_FAMILIES, draw_fields, log_uniform, uniform

TEXELS_PER_PX = 2
OUTLINE_ANGLES = 256
NO_HOLE = -9.0


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """What scenes are drawn from. Each layer has its own motion from time 0 to 1.

    Shifts are uniform in `shift_px`, whose upper end a scene lowers (log-uniformly, down to 2 px). A background holds still
    with `still_share`; a layer turns by up to `turn` radians with `turn_share`, and grows by up to `growth` of its size with
    `growth_share`. With `full_speed` nothing is lowered: every shift is in `shift_px`, every turn and growth is the whole one.
    """

    canvas_px: int = 96
    families: tuple[str, ...] = TRAINING_FAMILIES
    max_objects: int = 3
    min_objects: int = 0
    shift_px: tuple[float, float] = (0.0, 24.0)
    full_speed: bool = False
    still_share: float = 0.2
    turn: float = math.radians(12)
    turn_share: float = 0.3
    growth: float = 0.12
    growth_share: float = 0.3
    radius: tuple[float, float] = (0.08, 0.35)
    """Of the canvas."""

    @property
    def texels(self) -> int:
        """Texture size: a power of two that covers the canvas and a part of the motion; beyond it the texture mirrors."""
        return int(2 ** math.ceil(math.log2(TEXELS_PER_PX * self.canvas_px)))


@dataclass(frozen=True, slots=True)
class TexturedScenes:
    """A batch of scenes; `render` and `flow` are exact at all times."""

    canvas_px: int
    fields_NSS: torch.Tensor
    picked_BL2: torch.Tensor
    """Two of these grey textures a layer: both give its colours, the second its holes too."""
    colours_BL33: torch.Tensor
    """The colours at 0 and 1 of the first texture, and the one that the second mixes in."""
    mix_BL: torch.Tensor
    present_BL: torch.Tensor
    centre_BL2: torch.Tensor
    shift_BL2: torch.Tensor
    angle_BL: torch.Tensor
    turn_BL: torch.Tensor
    growth_BL: torch.Tensor
    outline_BLK: torch.Tensor
    """Distance of the outline from the centre by angle; infinite for the background."""
    softness_BL: torch.Tensor
    """Width of the edge in pixels."""
    hole_level_BL: torch.Tensor
    """Where the second texture is below it, the object has a hole; `NO_HOLE` for none."""
    texture_scale_BL: torch.Tensor
    texture_offset_BL2: torch.Tensor

    def render(self, times_BT: torch.Tensor) -> torch.Tensor:
        """Frames BTCHW, float32 in [0, 1]."""
        batch, count = times_BT.shape
        size = self.canvas_px
        frames = torch.zeros(batch, count, 3, size, size)
        points_BTHW2 = _pixel_centres(size).expand(batch, count, size, size, 2)
        for layer in range(self.present_BL.shape[1]):
            chosen = torch.nonzero(self.present_BL[:, layer]).flatten()
            local = self._to_layer(chosen, layer, points_BTHW2[chosen], times_BT[chosen])
            sampled = self._sample(chosen, layer, local)
            colour = self._colour(chosen, layer, sampled)
            if layer == 0:
                frames[chosen] = colour
            else:
                coverage = self._coverage(chosen, layer, local, times_BT[chosen])
                coverage = coverage * self._hole(chosen, layer, sampled)
                frames[chosen] = torch.lerp(frames[chosen], colour, coverage[:, :, None])
        return frames

    def flow(self, from_time_B: torch.Tensor, to_time_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """For every pixel of the frame at one time, its displacement to the other (B2HW, pixels) and whether it shows there.

        The second, B1HW, is 1 where the same point of the same layer is in view at `to_time_B`, else 0.
        """
        size = self.canvas_px
        batch = from_time_B.shape[0]
        points_BTHW2 = _pixel_centres(size).expand(batch, 1, size, size, 2)
        target_BTHW2 = points_BTHW2.clone()
        top_BTHW = torch.zeros(batch, 1, size, size, dtype=torch.long)
        for layer in range(self.present_BL.shape[1]):
            chosen = torch.nonzero(self.present_BL[:, layer]).flatten()
            local = self._to_layer(chosen, layer, points_BTHW2[chosen], from_time_B[chosen, None])
            inside = self._inside(chosen, layer, local, from_time_B[chosen, None])
            moved = self._to_canvas(chosen, layer, local, to_time_B[chosen, None])
            target_BTHW2[chosen] = torch.where(inside[..., None], moved, target_BTHW2[chosen])
            top_BTHW[chosen] = torch.where(inside, layer, top_BTHW[chosen])
        visible = ((target_BTHW2 >= 0) & (target_BTHW2 <= size)).all(-1)
        for layer in range(1, self.present_BL.shape[1]):
            chosen = torch.nonzero(self.present_BL[:, layer]).flatten()
            local = self._to_layer(chosen, layer, target_BTHW2[chosen], to_time_B[chosen, None])
            over = self._inside(chosen, layer, local, to_time_B[chosen, None]) & (top_BTHW[chosen] < layer)
            visible[chosen] &= ~over
        return (target_BTHW2 - points_BTHW2)[:, 0].permute(0, 3, 1, 2).contiguous(), visible.float()

    def _to_layer(
        self, chosen: torch.Tensor, layer: int, points_BTHW2: torch.Tensor, times_BT: torch.Tensor
    ) -> torch.Tensor:
        """Canvas positions in the layer's own frame: from its centre, turned back, at its size of time 0."""
        cos, sin, scale, centre = self._pose(chosen, layer, times_BT)
        x, y = ((points_BTHW2 - centre) / scale[..., None]).unbind(-1)
        return torch.stack([x * cos + y * sin, y * cos - x * sin], dim=-1)

    def _to_canvas(
        self, chosen: torch.Tensor, layer: int, local_BTHW2: torch.Tensor, times_BT: torch.Tensor
    ) -> torch.Tensor:
        cos, sin, scale, centre = self._pose(chosen, layer, times_BT)
        x, y = local_BTHW2.unbind(-1)
        return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1) * scale[..., None] + centre

    def _pose(self, chosen: torch.Tensor, layer: int, times_BT: torch.Tensor) -> tuple[torch.Tensor, ...]:
        angle = (self.angle_BL[chosen, layer, None] + self.turn_BL[chosen, layer, None] * times_BT)[..., None, None]
        scale = (1 + self.growth_BL[chosen, layer, None] * times_BT)[..., None, None]
        centre = self.centre_BL2[chosen, layer, None] + self.shift_BL2[chosen, layer, None] * times_BT[..., None]
        return angle.cos(), angle.sin(), scale, centre[:, :, None, None]

    def _sample(self, chosen: torch.Tensor, layer: int, local_BTHW2: torch.Tensor) -> torch.Tensor:
        """The layer's two textures at positions of its own frame: BCTHW."""
        batch, count, height, width, _ = local_BTHW2.shape
        fields = self.fields_NSS[self.picked_BL2[chosen, layer]]
        texels = local_BTHW2 * self.texture_scale_BL[chosen, layer, None, None, None, None]
        texels = texels + self.texture_offset_BL2[chosen, layer, None, None, None]
        positions = (texels * (2 / fields.shape[-1]) - 1).flatten(1, 2)
        sampled = F.grid_sample(fields, positions, mode="bicubic", padding_mode="reflection", align_corners=False)
        return sampled.view(batch, fields.shape[1], count, height, width)

    def _colour(self, chosen: torch.Tensor, layer: int, sampled_BCTHW: torch.Tensor) -> torch.Tensor:
        low, high, other = self.colours_BL33[chosen, layer].unbind(1)
        first, second = sampled_BCTHW[:, 0, :, None], sampled_BCTHW[:, 1, :, None]
        base = torch.lerp(low[:, None, :, None, None], high[:, None, :, None, None], first)
        mix = second.clamp(0, 1) * self.mix_BL[chosen, layer, None, None, None, None]
        return torch.lerp(base, other[:, None, :, None, None], mix).clamp_(0, 1)

    def _coverage(
        self, chosen: torch.Tensor, layer: int, local_BTHW2: torch.Tensor, times_BT: torch.Tensor
    ) -> torch.Tensor:
        """How much of each pixel lies within the object's outline, BTHW in 0..1."""
        outline = self.outline_BLK[chosen, layer]
        x, y = local_BTHW2.unbind(-1)
        place = torch.remainder(torch.atan2(y, x) * (OUTLINE_ANGLES / (2 * math.pi)), OUTLINE_ANGLES)
        index = place.long().clamp_(max=OUTLINE_ANGLES - 1)
        step = outline.roll(-1, 1) - outline
        # dR/dtheta over R: how far the outline leans from the perpendicular to the ray.
        upright = 1 / (1 + (step * (OUTLINE_ANGLES / (2 * math.pi)) / outline) ** 2).sqrt()
        edge, step, upright = (torch.gather(each, 1, index.flatten(1)).view_as(x) for each in (outline, step, upright))
        scale = (1 + self.growth_BL[chosen, layer, None] * times_BT) / self.softness_BL[chosen, layer, None]
        distance = (torch.hypot(x, y) - (edge + step * (place - index))) * upright * scale[..., None, None]
        return (0.5 - distance).clamp_(0, 1)

    def _hole(self, chosen: torch.Tensor, layer: int, sampled_BCTHW: torch.Tensor) -> torch.Tensor:
        """1 where the object is whole, 0 in its holes, BTHW."""
        level = self.hole_level_BL[chosen, layer, None, None, None]
        return (0.5 + 8 * (sampled_BCTHW[:, 1] - level)).clamp_(0, 1)

    def _inside(self, chosen: torch.Tensor, layer: int, local: torch.Tensor, times_BT: torch.Tensor) -> torch.Tensor:
        if layer == 0:
            return torch.ones(local.shape[:-1], dtype=torch.bool)
        coverage = self._coverage(chosen, layer, local, times_BT)
        pierced = torch.nonzero(self.hole_level_BL[chosen, layer] > NO_HOLE).flatten()
        if len(pierced):
            holes = chosen[pierced]
            coverage[pierced] *= self._hole(holes, layer, self._sample(holes, layer, local[pierced]))
        return coverage > 0.5


# ---- drawing scenes ---------------------------------------------------------------------------------------------------


def draw_scenes(generator: torch.Generator, batch_size: int, settings: SceneSettings) -> TexturedScenes:
    """Random scenes. The batch shares a set of textures; each layer takes its own part, turned, with its own colours."""
    layers, size = 1 + settings.max_objects, settings.canvas_px
    fields = draw_fields(generator, settings.families, max(4, batch_size * 3 // 4), settings.texels)

    def rand(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    picked = torch.randint(len(fields), (batch_size, layers, 2), generator=generator)
    objects = torch.randint(settings.min_objects, settings.max_objects + 1, (batch_size,), generator=generator)
    centre = rand(batch_size, layers, 2, low=0.1, high=0.9) * size
    low, high = settings.shift_px
    top = torch.full((batch_size,), high)
    if not settings.full_speed:
        # Slow scenes as often as fast ones, by octaves.
        top = torch.exp(rand(batch_size) * math.log(max(high, 2.0) / 2)) * 2
    length = low + (top[:, None] - low).clamp(min=0) * rand(batch_size, layers)
    length[:, 0] *= (rand(batch_size) >= settings.still_share).float()
    heading = rand(batch_size, layers, high=2 * math.pi)
    turn, growth = (rand(batch_size, layers, low=-1) for _ in range(2))
    if settings.full_speed:
        turn, growth = turn.sign(), growth.sign()
    turn = turn * settings.turn * (rand(batch_size, layers) < settings.turn_share)
    growth = growth * settings.growth * (rand(batch_size, layers) < settings.growth_share)
    hole_level = torch.where(rand(batch_size, layers) < 0.2, rand(batch_size, layers, low=0.2, high=0.5), NO_HOLE)
    shift = torch.stack([heading.cos(), heading.sin()], dim=-1) * length[..., None]
    # Centred on the middle of the motion, so that fast objects are as often in view as slow ones.
    centre = centre - shift / 2
    radii = [[log_uniform(generator, *settings.radius) * size for _ in range(layers - 1)] for _ in range(batch_size)]
    outline = torch.full((batch_size, layers, OUTLINE_ANGLES), math.inf)
    for scene, row in enumerate(radii):
        for layer, radius in enumerate(row, start=1):
            outline[scene, layer] = draw_outline(generator) * radius
    return TexturedScenes(
        canvas_px=size,
        fields_NSS=fields,
        picked_BL2=picked,
        colours_BL33=rand(batch_size, layers, 3, 3),
        mix_BL=rand(batch_size, layers, high=0.8) * (rand(batch_size, layers) < 0.5),
        present_BL=torch.arange(layers) <= objects[:, None],
        centre_BL2=centre,
        shift_BL2=shift,
        angle_BL=rand(batch_size, layers, high=2 * math.pi),
        turn_BL=turn,
        growth_BL=growth,
        outline_BLK=outline,
        softness_BL=torch.where(rand(batch_size, layers) < 0.8, 1.0, rand(batch_size, layers, low=1, high=3)),
        hole_level_BL=hole_level,
        texture_scale_BL=TEXELS_PER_PX * torch.exp(rand(batch_size, layers, low=math.log(0.4))),
        texture_offset_BL2=rand(batch_size, layers, 2) * settings.texels,
    )


def draw_outline(generator: torch.Generator) -> torch.Tensor:
    """An outline as distances from the centre by angle, (K,), about 1 at the farthest: a blob, polygon, star or oblong."""
    angles = torch.arange(OUTLINE_ANGLES) * (2 * math.pi / OUTLINE_ANGLES)
    if uniform(generator, 0, 1) < 0.5:
        corners = 3 + int(uniform(generator, 0, 6))
        steps = torch.arange(corners) + 0.5 * torch.rand(corners, generator=generator)
        distances = 1 - uniform(generator, 0, 0.6) * torch.rand(corners, generator=generator)
        return _polygon(angles, steps * (2 * math.pi / corners), distances)
    ratio = uniform(generator, 0.25, 1.0)
    oblong = ratio / torch.hypot(ratio * angles.cos(), angles.sin())
    orders = torch.arange(2, 8)
    strength = torch.randn(6, generator=generator) * uniform(generator, 0, 0.25) / orders.sqrt()
    phase = torch.rand(6, generator=generator) * 2 * math.pi
    waves = (strength[:, None] * torch.sin(orders[:, None] * angles + phase[:, None])).sum(0)
    return (oblong * (1 + waves)).clamp(0.08, 1.2)


def _polygon(angles: torch.Tensor, corner_angles: torch.Tensor, corner_distances: torch.Tensor) -> torch.Tensor:
    """Distance from the centre to the sides of a polygon, given corners in the order of their angles."""
    index = torch.searchsorted(corner_angles, angles) - 1
    following = (index + 1) % len(corner_angles)
    index = index % len(corner_angles)
    a, b = corner_distances[index], corner_distances[following]
    from_a = torch.remainder(angles - corner_angles[index], 2 * math.pi)
    to_b = torch.remainder(corner_angles[following] - angles, 2 * math.pi)
    return a * b * torch.sin(from_a + to_b) / (a * torch.sin(from_a) + b * torch.sin(to_b)).clamp(min=1e-6)


def _pixel_centres(size: int) -> torch.Tensor:
    """Positions (H, W, 2) of the pixels' centres."""
    line = torch.arange(size) + 0.5
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
