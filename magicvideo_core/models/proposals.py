"""Candidates for the motion of a place, and the choice between them; nothing here is trained.

What repeats (bricks, stripes) looks alike at many displacements: a small window cannot tell these apart, a large one cannot
follow what is small. So both are asked, and what explains the frames best is taken.

Shape suffixes as in `matching`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from magicvideo_core.models.matching import Sides, both_ways, local_correlation, warp, window_mean

# Coarse matching: places of the 1/4 grid up to this far apart are compared, so motion of up to 32 pixels is found.
WIDE_RADIUS = 8
# How sharply the best match stands out among those beside it.
SHARPNESS = 25.0
# Of two equal matches the nearer one is taken: what is flat stands still. Of likeness, for a place of displacement.
SLOWNESS = 2e-3
TEXTURE_CHANNELS = 18
# How much detail counts beside what is coarser: lines and edges repeat, the patches between them less.
DETAIL_SHARE = 0.7
# Each candidate is compared by a window larger than the last one's: a mean over squares of these sides, in places of 1/8, over
# the last one's means.
CANDIDATE_WINDOWS = (3, 5, 7)
# A candidate replaces another one if the frames differ so much less along it (a part, and of 0..1).
BETTER_BY, BETTER_THAN_NOISE = 0.8, 0.002
# And the more so (of 0..1 for each place) the further from one another they lead: a stripe away things look alike.
BETTER_PER_PLACE = 0.001
# Nearer than this many pixels of the 1/4 grid to the border, a window is partly outside.
BORDER_PX = 3
# Regional motion: the window's side in places, and what is added to the variance of the places.
REGION_PX = 31
REGION_DAMPING = 9.0


def texture_of(frames_BCHW: torch.Tensor) -> torch.Tensor:
    """What a place looks like without the brightness around it, as TEXTURE_CHANNELS at 1/4 of the resolution.

    Three bands, all of length 1 but for `DETAIL_SHARE`: detail against 9x9 pixels, what is left of it against 36x36, and the
    colour against 132x132.
    """
    around = window_mean(frames_BCHW, 9)
    detail = F.pixel_unshuffle(F.avg_pool2d(frames_BCHW - around, 2), 2)
    small = F.avg_pool2d(frames_BCHW, 4)
    return torch.cat(
        [
            DETAIL_SHARE * F.normalize(detail, dim=1, eps=2e-2),
            F.normalize(small - window_mean(small, 9), dim=1, eps=2e-2),
            F.normalize(small - window_mean(small, 33), dim=1, eps=5e-2),
        ],
        dim=1,
    )


def coarse_candidates(textures: Sides) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """How alike the textures are for every displacement of up to `WIDE_RADIUS`, B(2r+1)^2HW at 1/8, and the best matches.

    A match for each of CANDIDATE_WINDOWS, from the smallest to the largest, as of `best_match`.
    """
    likeness = window_mean(F.avg_pool2d(local_correlation(*textures, WIDE_RADIUS), 2), 3)
    compared, matches = likeness, []
    for side in CANDIDATE_WINDOWS:
        compared = window_mean(compared, side)
        matches.append(best_match(compared))
    return likeness, matches


def best_match(likeness_BNHW: torch.Tensor) -> torch.Tensor:
    """The best displacement in places of the map that was searched (x, y), between places, and its likeness: B3HW.

    It is the mean over the best place and the eight around it. The mean over all would lie between the places of what repeats.
    """
    side = round(likeness_BNHW.shape[1] ** 0.5)
    line = torch.arange(side, device=likeness_BNHW.device) - side // 2
    distance = (line[:, None].square() + line.square()).sqrt().view(1, -1, 1, 1)
    likeness = likeness_BNHW.float() - SLOWNESS * distance
    most, index = likeness.max(1, keepdim=True)
    y, x = index // side, index % side
    around = torch.arange(-1, 2, device=index.device).view(1, 3, 1, 1)
    ys, xs = (y + around).repeat_interleave(3, dim=1), (x + around).repeat(1, 3, 1, 1)
    inside = (ys >= 0) & (ys < side) & (xs >= 0) & (xs < side)
    nearby = likeness.gather(1, (ys * side + xs).clamp(0, side * side - 1))
    share = (SHARPNESS * (nearby - most)).exp() * inside
    share = share / share.sum(1, keepdim=True)
    mean = [(share * (each - side // 2)).sum(1, keepdim=True) for each in (xs, ys)]
    return torch.cat([*mean, most], dim=1)


def choose(frames: Sides, candidates_B2HW: list[torch.Tensor], time_B111: torch.Tensor) -> torch.Tensor:
    """For each place the candidate that explains the frames best: a later one only if it does so clearly better."""
    chosen = candidates_B2HW[0]
    least, inside = explained(frames, chosen, time_B111)
    for candidate in candidates_B2HW[1:]:
        apart, candidate_inside = explained(frames, candidate, time_B111)
        margin = BETTER_THAN_NOISE + BETTER_PER_PLACE * (candidate - chosen).square().sum(1, keepdim=True).sqrt()
        better = (apart < BETTER_BY * least - margin) & (candidate_inside >= inside)
        chosen, least = torch.where(better, candidate, chosen), torch.where(better, apart, least)
        inside = torch.where(better, candidate_inside, inside)
    return chosen


def settled(frames: Sides, motion_B2HW: torch.Tensor, time_B111: torch.Tensor) -> torch.Tensor:
    """The motion, and that of the region around instead where it explains the frames better or leads out of one of them.

    What one frame does not show cannot be found by comparing: a strip as wide as the motion at the border.
    """
    apart, inside = explained(frames, motion_B2HW, time_B111)
    regional, mass = regional_motion(motion_B2HW, inside * torch.exp(-40 * apart))
    apart_regional, inside_regional = explained(frames, regional, time_B111)
    better = (inside_regional == 0) | (apart_regional < BETTER_BY * apart - BETTER_THAN_NOISE)
    return torch.where(better & (mass > 1e-3), regional, motion_B2HW)


def explained(frames: Sides, motion_B2HW: torch.Tensor, time_B111: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far apart both frames are along the motion, mean of 5x5 places, and whether it stays inside both: B1HW each."""
    flows = both_ways(motion_B2HW, time_B111)
    apart = (warp(frames[0], flows[0]) - warp(frames[1], flows[1])).abs().mean(1, keepdim=True)
    return window_mean(apart, 5), stay_inside(flows, BORDER_PX)


def stay_inside(flows: Sides, margin_px: float) -> torch.Tensor:
    """1 where both flows lead to places at least so far within their frames, else 0: B1HW."""
    return _stays_inside(flows[0], margin_px) * _stays_inside(flows[1], margin_px)


def _stays_inside(flow_B2HW: torch.Tensor, margin_px: float) -> torch.Tensor:
    height, width = flow_B2HW.shape[-2:]
    x = flow_B2HW[:, :1] + torch.arange(width, device=flow_B2HW.device) + 0.5
    y = flow_B2HW[:, 1:] + torch.arange(height, device=flow_B2HW.device)[:, None] + 0.5
    inside = (x >= margin_px) & (x <= width - margin_px) & (y >= margin_px) & (y <= height - margin_px)
    return inside.float()


def regional_motion(motion_B2HW: torch.Tensor, trust_B1HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine motion that fits the trusted places around each place best, B2HW, and how much trust there is, B1HW.

    Weighted least squares over windows of REGION_PX places; slopes are damped, so that few places give their mean.
    """
    height, width = motion_B2HW.shape[-2:]
    x = (torch.arange(width, device=motion_B2HW.device) - width / 2).expand(height, width)
    y = (torch.arange(height, device=motion_B2HW.device) - height / 2)[:, None].expand(height, width)
    places = torch.stack([x, y]).expand(len(motion_B2HW), 2, height, width)
    one = torch.ones_like(places[:, :1])
    moments = torch.cat([one, places, motion_B2HW, places * places, places[:, :1] * places[:, 1:]], dim=1)
    moments = torch.cat([moments, places[:, :1] * motion_B2HW, places[:, 1:] * motion_B2HW], dim=1) * trust_B1HW
    rows = F.avg_pool2d(moments, (1, REGION_PX), stride=1, padding=(0, REGION_PX // 2))
    sums = F.avg_pool2d(rows, (REGION_PX, 1), stride=1, padding=(REGION_PX // 2, 0))
    mass = sums[:, :1]
    mean = sums[:, 1:] / (mass + 1e-9)
    centre, motion = mean[:, :2], mean[:, 2:4]
    xx, yy = (mean[:, 4:6] - centre * centre + REGION_DAMPING).split(1, dim=1)
    xy = mean[:, 6:7] - centre[:, :1] * centre[:, 1:]
    along_x = mean[:, 7:9] - centre[:, :1] * motion
    along_y = mean[:, 9:11] - centre[:, 1:] * motion
    determinant = xx * yy - xy * xy
    slope_x, slope_y = (yy * along_x - xy * along_y) / determinant, (xx * along_y - xy * along_x) / determinant
    away = places - centre
    return motion + slope_x * away[:, :1] + slope_y * away[:, 1:], mass
