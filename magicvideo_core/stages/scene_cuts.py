"""Whether a cut lies between two frames: what has no counterpart nearby, as a share of what there is to match.

Shape suffixes: N pairs, C channels, H, W pixels. Frames are float32 RGB in 0..255.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F

# Frames are compared at this many pixels along the longer side, in blocks, moved by up to a fifth of it either way: 48 of
# 256 pixels, twice the fastest motion that the interpolators learn.
LONGER_SIDE_PX = 32
BLOCK_PX = 6
REACH_PX = 6
# Differences below so many levels are noise.
NOISE_LEVELS = 6.0
# Bins of the colour histograms along each channel, and how much of the score they are.
BINS, COLOUR_SHARE = 6, 0.5
# A flash changes the contrast by at most this factor; a flat frame has no contrast that it could have changed.
MAX_GAIN, FLAT_VARIANCE = 4.0, 16.0


def cut_scores(first_NCHW: torch.Tensor, second_NCHW: torch.Tensor) -> torch.Tensor:
    """A score for each pair, (N,): 0 where the second frame is made of moved pieces of the first, to 1 where none fits.

    A block's best match among all displacements, over its mean: fast motion keeps its blocks, another scene has none of
    them. To this comes half of the share of colours that only one of the frames has: plain scenes have blocks that fit
    anywhere. A flash, one gain and one offset over the whole frame, clipped where it is too bright, does not count.
    """
    first, second = _small(first_NCHW), _small(second_NCHW)
    as_they_are, lit, darkened = (
        _unmatched(one, other) + COLOUR_SHARE * _strange_colours(one, other)
        for one, other in ((first, second), (_lit_as(first, second), second), (first, _lit_as(second, first)))
    )
    return torch.minimum(as_they_are, torch.minimum(lit, darkened)).clamp(0, 1)


def _small(frames_NCHW: torch.Tensor) -> torch.Tensor:
    height, width = frames_NCHW.shape[-2:]
    scale = LONGER_SIDE_PX / max(height, width)
    if scale >= 1:
        return frames_NCHW
    return F.interpolate(frames_NCHW, size=(max(1, round(height * scale)), max(1, round(width * scale))), mode="area")


def _lit_as(frames_NCHW: torch.Tensor, others_NCHW: torch.Tensor) -> torch.Tensor:
    """The frames with the gain and the offset that bring their values nearest to the others', whatever lies where.

    Least squares between the sorted values of all channels, but for those that are clipped in the others.
    """
    values, wanted = frames_NCHW.flatten(1).sort(1).values, others_NCHW.flatten(1).sort(1).values
    weight = ((wanted > 3) & (wanted < 252)).float() + 1e-6
    weight = weight / weight.sum(1, keepdim=True)
    mean, wanted_mean = ((weight * each).sum(1, keepdim=True) for each in (values, wanted))
    variance = (weight * (values - mean).square()).sum(1, keepdim=True) + FLAT_VARIANCE
    covariance = (weight * (values - mean) * (wanted - wanted_mean)).sum(1, keepdim=True) + FLAT_VARIANCE
    gain = (covariance / variance).clamp(1 / MAX_GAIN, MAX_GAIN)
    return ((frames_NCHW.flatten(1) - mean) * gain + wanted_mean).clamp(0, 255).view_as(frames_NCHW)


def _strange_colours(first_NCHW: torch.Tensor, second_NCHW: torch.Tensor) -> torch.Tensor:
    """The share of pixels whose colour the other frame has less of, 0..1: (N,)."""
    return 1 - torch.minimum(_colours(first_NCHW), _colours(second_NCHW)).sum(1)


def _colours(frames_NCHW: torch.Tensor) -> torch.Tensor:
    """Histograms of the colours, summing to 1; a pixel counts in the eight bins around it by nearness."""
    count = len(frames_NCHW)
    place = (frames_NCHW.flatten(2) * (BINS / 256) - 0.5).clamp(0, BINS - 1)
    low = place.floor().clamp(max=BINS - 2)
    above, low = place - low, low.long()
    histogram = place.new_zeros(count, BINS**3)
    for red, green, blue in product((0, 1), repeat=3):
        index, share = torch.zeros_like(low[:, 0]), torch.ones_like(above[:, 0])
        for channel, step in enumerate((red, green, blue)):
            index = index * BINS + low[:, channel] + step
            share = share * (above[:, channel] if step else 1 - above[:, channel])
        histogram.scatter_add_(1, index, share / place.shape[-1])
    return histogram


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
