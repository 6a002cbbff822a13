"""Whether a cut lies between two frames: what has no counterpart nearby, as a share of what there is to match.

Shape suffixes: N pairs, C channels, H, W pixels. Frames are float32 RGB in 0..255.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Frames are compared at this many pixels along the longer side, in blocks, moved by up to a fifth of it either way: 48 of
# 256 pixels, twice the fastest motion that the interpolators learn.
LONGER_SIDE_PX = 32
BLOCK_PX = 6
REACH_PX = 6
# Differences below so many levels are noise; a flat frame has no contrast that a flash could have changed.
NOISE_LEVELS = 6.0
FLAT_LEVELS = 8.0


def cut_scores(first_NCHW: torch.Tensor, second_NCHW: torch.Tensor) -> torch.Tensor:
    """A score for each pair, (N,): 0 where the second frame is made of moved pieces of the first, to 1 where none fits.

    A block's best match among all displacements, over its mean: fast motion keeps its blocks, another scene has none of
    them. A flash, one gain and one offset over the whole frame, does not count.
    """
    first, second = _small(first_NCHW), _small(second_NCHW)
    plain = _unmatched(first, second)
    return torch.minimum(plain, _unmatched(_without_gain(first), _without_gain(second)))


def _small(frames_NCHW: torch.Tensor) -> torch.Tensor:
    height, width = frames_NCHW.shape[-2:]
    scale = LONGER_SIDE_PX / max(height, width)
    if scale >= 1:
        return frames_NCHW
    return F.interpolate(frames_NCHW, size=(max(1, round(height * scale)), max(1, round(width * scale))), mode="area")


def _without_gain(frames_NCHW: torch.Tensor) -> torch.Tensor:
    """Mean and contrast over all channels taken to fixed values."""
    centred = frames_NCHW - frames_NCHW.mean((1, 2, 3), keepdim=True)
    contrast = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
    return centred * (5 * FLAT_LEVELS / contrast.clamp(min=FLAT_LEVELS))


def _unmatched(first_NCHW: torch.Tensor, second_NCHW: torch.Tensor) -> torch.Tensor:
    """Sum over blocks of the best match's squared difference, over that of the mean of all displacements."""
    height, width = first_NCHW.shape[-2:]
    block = min(BLOCK_PX, height, width)
    padded = F.pad(second_NCHW, (REACH_PX,) * 4, mode="replicate")
    best, total, count = None, torch.zeros(()), (2 * REACH_PX + 1) ** 2
    for dy in range(2 * REACH_PX + 1):
        for dx in range(2 * REACH_PX + 1):
            moved = padded[:, :, dy : dy + height, dx : dx + width]
            difference = (first_NCHW - moved).square().mean(1, keepdim=True)
            difference = F.avg_pool2d(difference, block, stride=max(1, block // 2))
            best = difference if best is None else torch.minimum(best, difference)
            total = total + difference
    assert best is not None
    return best.sum((1, 2, 3)) / (total / count + NOISE_LEVELS**2).sum((1, 2, 3))
