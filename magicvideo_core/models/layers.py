"""What lies behind: where a thing in motion hides what has the dominant motion, and in which frame; nothing is trained.

What only one frame shows has no counterpart there, so comparing says nothing of it, and windows hand it to the thing in
front. But a place of a frame that surely has the dominant motion shows nothing else: no other motion may lead there.

Shape suffixes as in `matching`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from magicvideo_core.models.matching import Sides, both_ways, mostly_textured, warp, window_mean
from magicvideo_core.models.proposals import stay_inside

# Motions further apart than so many places are two.
APART_PLACES = 0.5
# One motion is surely better than another one where the frames differ so much less along it (a part, and of 0..1).
BETTER_BY, BETTER_THAN_NOISE = 0.8, 0.004
# Frames that differ by less than this along the dominant motion (of 0..1) surely have it, where nothing else was found.
PLAIN = 0.03
WINDOW_PX = 3
# So much of the places around where a motion leads belongs to the dominant one: it leads there too.
CLAIMED = 0.95
# What is behind is near to what is seen of it: a part of a window of so many places has the dominant motion.
NEARBY_PX, NEARBY_SHARE = 31, 0.1


def behind(
    frames: Sides, motion_B2HW: torch.Tensor, dominant_B2HW: torch.Tensor, time_B111: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The motion with the dominant one where that is seen beside what moves otherwise, and who hides it: B2HW each.

    Channels of the result's second part: 1 where the first frame alone, and where the second frame alone hides the place.
    Where most of the frame is flat, nothing is changed: it does not tell how it moves.
    """
    ways, motion_ways = both_ways(dominant_B2HW, time_B111), both_ways(motion_B2HW, time_B111)
    inside = stay_inside(ways, 1) > 0
    apart, apart_dominant = _apart(frames, motion_ways), _apart(frames, ways)
    textured = mostly_textured(frames[0])
    differs = (motion_B2HW - dominant_B2HW).square().sum(1, keepdim=True) > APART_PLACES**2
    # 1. What surely has the dominant motion, as either frame shows it; no other motion leads there.
    plain = inside & torch.where(differs, _clearly_less(apart_dominant, apart), apart_dominant < PLAIN)
    led = [warp(_arrived(plain, way), motion_way) for way, motion_way in zip(ways, motion_ways, strict=True)]
    beside = differs & inside & (torch.maximum(*led) > CLAIMED) & textured
    beside &= window_mean((~differs).float(), NEARBY_PX) > NEARBY_SHARE
    # 2. What is in front, and what it covers in either frame.
    in_front = differs & inside & ~beside & textured & _clearly_less(apart, apart_dominant)
    covers = [_closed(_arrived(in_front, way)) for way in motion_ways]
    hidden = [warp(each, way) > 0.5 for each, way in zip(covers, ways, strict=True)]
    seen_behind = beside | ~differs
    alone = torch.cat([seen_behind & hidden[0] & ~hidden[1], seen_behind & hidden[1] & ~hidden[0]], dim=1)
    return torch.where(beside, dominant_B2HW, motion_B2HW), alone.float()


def _clearly_less(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return one < BETTER_BY * other - BETTER_THAN_NOISE


def _apart(frames: Sides, ways: Sides) -> torch.Tensor:
    """How far apart both frames are, mean of the colours over the window around each place: B1HW."""
    apart = (warp(frames[0], ways[0]) - warp(frames[1], ways[1])).abs().mean(1, keepdim=True)
    return window_mean(apart, WINDOW_PX)


def _arrived(mask_B1HW: torch.Tensor, way_B2HW: torch.Tensor) -> torch.Tensor:
    """Where the places of the mask come to lie: B1HW, 0 or 1."""
    height, width = mask_B1HW.shape[-2:]
    x = (way_B2HW[:, :1] + torch.arange(width, device=way_B2HW.device)).round().long()
    y = (way_B2HW[:, 1:] + torch.arange(height, device=way_B2HW.device)[:, None]).round().long()
    counts = mask_B1HW & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).flatten(1)
    arrived = torch.zeros_like(way_B2HW[:, 0]).flatten(1).scatter_add_(1, index, counts.flatten(1).float())
    return (arrived > 0).float().view_as(mask_B1HW)


def _closed(mask_B1HW: torch.Tensor) -> torch.Tensor:
    """The mask without gaps of a place or two."""
    return -F.max_pool2d(-F.max_pool2d(mask_B1HW, 3, 1, 1), 3, 1, 1)
