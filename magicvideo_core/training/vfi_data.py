"""What the interpolators learn from: half Moving Shapes, rendered as they come, half textured scenes from a rendered pool.

Shape suffixes: B pairs, N pool entries, C, H, W as usual, 2 is x then y. Frames are float32 in [0, 1], motion is in pixels.
"""

from __future__ import annotations

import random
from dataclasses import fields

import torch

from magicvideo_core.training.textured_scenes import SceneSettings, draw_scenes
from magicvideo_core.training.vfi_scenes import MotionPairs, sample_motion_pairs

# A textured pair takes about 15 ms to render, a pair in a training step 40: most pairs are seen several times, turned,
# mirrored, reversed in time and with their colours exchanged.
POOL_PAIRS = 4800
_CHUNK = 16


class TexturedPool:
    """Rendered textured pairs with their motion; the same for the same seed."""

    def __init__(self, size: int, crop_px: int, seed: int) -> None:
        rng, generator = random.Random(f"textured-pool/{seed}"), torch.Generator().manual_seed(seed)
        frames, motions, times = [], [], []
        for _ in range(0, size, _CHUNK):
            scenes = draw_scenes(generator, _CHUNK, SceneSettings(canvas_px=crop_px, full_speed=rng.random() < 0.35))
            drawn = [rng.choice((1 / 3, 2 / 3)) if rng.random() < 0.6 else rng.random() for _ in range(_CHUNK)]
            time_B, zeros, ones = torch.tensor(drawn), torch.zeros(_CHUNK), torch.ones(_CHUNK)
            rendered = scenes.render(torch.stack([zeros, ones, time_B], dim=1))
            frames.append((rendered * 255).round().to(torch.uint8))
            motions.append((scenes.flow(time_B, ones)[0] - scenes.flow(time_B, zeros)[0]).half())
            times.append(time_B)
        self.frames_N3CHW_u8 = torch.cat(frames)
        self.motions_N2HW = torch.cat(motions)
        self.times_N = torch.cat(times)

    def sample(self, rng: random.Random, batch_size: int) -> MotionPairs:
        """A batch, all turned, mirrored, reversed and recoloured the same way: textures mean nothing by themselves."""
        chosen = torch.tensor([rng.randrange(len(self.times_N)) for _ in range(batch_size)])
        frames = self.frames_N3CHW_u8[chosen].float() / 255
        motion, time = self.motions_N2HW[chosen].float(), self.times_N[chosen]
        if rng.random() < 0.5:
            frames, motion = frames.flip(-1), motion.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
        for _ in range(rng.randrange(4)):
            # A quarter turn against the clock: what went right goes up.
            frames, motion = torch.rot90(frames, 1, (-2, -1)), torch.rot90(motion, 1, (-2, -1))
            motion = torch.stack([motion[:, 1], -motion[:, 0]], dim=1)
        frames = frames[:, :, rng.sample(range(3), 3)]
        if rng.random() < 0.5:
            frames, motion, time = frames[:, [1, 0, 2]], -motion, 1 - time
        if rng.random() < 0.15:
            frames = 1 - frames
        return MotionPairs(frames[:, 0], frames[:, 1], time, frames[:, 2], motion)


def mixed_pairs(
    rng: random.Random, generator: torch.Generator, pool: TexturedPool, batch_size: int, crop_px: int
) -> MotionPairs:
    """Half Moving Shapes, half textured pairs. Moving Shapes are never mirrored: that would make held-out triples."""
    shapes = sample_motion_pairs(rng, generator, batch_size - batch_size // 2, crop_px)
    textured = pool.sample(rng, batch_size // 2)
    names = [field.name for field in fields(MotionPairs)]
    return MotionPairs(*(torch.cat([getattr(shapes, name), getattr(textured, name)]) for name in names))
