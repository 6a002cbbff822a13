"""Comparing two frames: warps, likeness over a window of displacements, and Gauss-Newton steps; nothing here is trained.

Shape suffixes: B pairs (or pair-times), C channels, N places of a window, H, W pixels, 2 axes (x first, then y).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

# A Gauss-Newton step is believed up to this many pixels.
MAX_STEP = 2.0
# Added to the diagonal of the normal equations: what a window cannot tell stays as it was. Squares of levels of 1 a pixel.
DAMPING = 2e-4
# A place varies where the variance over a window of so many places is above this (of squares of 0..1).
TEXTURE_PX, TEXTURE_VARIANCE = 7, 1e-4

# What there is of both frames: the first one's, then the second one's.
Sides = tuple[torch.Tensor, torch.Tensor]


def warp(image_BCHW: torch.Tensor, flow_B2HW: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """The image seen through a flow in its own pixels, clamped at the border: out(x) = image(x + flow(x))."""
    height, width = image_BCHW.shape[-2:]
    xs = torch.arange(width, device=flow_B2HW.device, dtype=torch.float32)
    ys = torch.arange(height, device=flow_B2HW.device, dtype=torch.float32)
    x = (2 * (flow_B2HW[:, 0] + xs) + 1) / width - 1
    y = (2 * (flow_B2HW[:, 1] + ys[:, None]) + 1) / height - 1
    positions = torch.stack([x, y], dim=-1)
    return F.grid_sample(image_BCHW.float(), positions, mode=mode, padding_mode="border", align_corners=False)


def both_ways(motion_B2HW: torch.Tensor, time_B111: torch.Tensor) -> Sides:
    """Where what is seen at time t is in the first and in the second frame, as flows."""
    return -time_B111 * motion_B2HW, (1 - time_B111) * motion_B2HW


def brought_together(sides: Sides, motion_B2HW: torch.Tensor, time_B111: torch.Tensor) -> Sides:
    """Both sides as they look at time t along the motion."""
    to_first, to_second = both_ways(motion_B2HW, time_B111)
    return warp(sides[0], to_first), warp(sides[1], to_second)


def local_correlation(first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, radius: int) -> torch.Tensor:
    """Cosine of every feature with those around, moved apart by d in both directions about equally: B(2r+1)^2HW."""
    first, second = (F.normalize(each, dim=1, eps=1e-3) for each in (first_BCHW, second_BCHW))
    reach = radius - radius // 2
    first, second = (F.pad(each, (reach,) * 4) for each in (first, second))
    products: torch.Tensor = _WindowProducts.apply(first, second, radius)
    return products


class _WindowProducts(torch.autograd.Function):
    """Inner products over the channels of two padded maps, for every d of the window; its own gradient saves the copies."""

    @staticmethod
    def forward(ctx: Any, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, radius: int) -> torch.Tensor:
        ctx.save_for_backward(first_BCHW, second_BCHW)
        ctx.radius = radius
        return torch.stack(
            [(a * b).sum(1) for a, b in _shifted_pairs(first_BCHW, second_BCHW, radius)],
            dim=1,
        )

    @staticmethod
    def backward(ctx: Any, gradient_BNHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        first, second = ctx.saved_tensors
        of_first, of_second = torch.zeros_like(first), torch.zeros_like(second)
        shifted = zip(
            gradient_BNHW.split(1, dim=1),
            _shifted_pairs(first, second, ctx.radius),
            _shifted_pairs(of_first, of_second, ctx.radius),
            strict=True,
        )
        for gradient, (a, b), (of_a, of_b) in shifted:
            of_a.addcmul_(b, gradient)
            of_b.addcmul_(a, gradient)
        return of_first, of_second, None


def _shifted_pairs(
    first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, radius: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Views of both padded maps that are d apart, row by row of the window."""
    reach = radius - radius // 2
    height, width = first_BCHW.shape[-2] - 2 * reach, first_BCHW.shape[-1] - 2 * reach

    def view(padded_BCHW: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
        return padded_BCHW[:, :, reach + dy : reach + dy + height, reach + dx : reach + dx + width]

    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            yield view(first_BCHW, -(dy // 2), -(dx // 2)), view(second_BCHW, dy - dy // 2, dx - dx // 2)


def gradients(image_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Central differences along x and y."""
    padded = F.pad(image_BCHW, (1, 1, 1, 1), mode="replicate")
    dx = 0.5 * (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2])
    return dx, 0.5 * (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1])


def gradients_between(
    first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, time_B111: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients along x and along y of two frames brought to time t, between those of one and the other."""
    gx, gy = (
        torch.lerp(of_second, of_first, time_B111)
        for of_first, of_second in zip(gradients(first_BCHW), gradients(second_BCHW), strict=True)
    )
    return gx, gy


def gauss_newton_step(
    first_BCHW: torch.Tensor, second_BCHW: torch.Tensor, time_B111: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The change of motion that makes two frames brought to time t agree within 5x5 windows (Lucas and Kanade 1981).

    Returns the step in pixels of this level, B2HW, and B2HW of how far to believe it: the part of the gradients along the
    weaker direction that exceeds the damping, and the frames' disagreement.
    """
    residual = second_BCHW - first_BCHW
    gx, gy = gradients_between(first_BCHW, second_BCHW, time_B111)
    products = torch.stack(
        [(gx * gx).sum(1), (gx * gy).sum(1), (gy * gy).sum(1), (gx * residual).sum(1), (gy * residual).sum(1)], dim=1
    )
    sums = window_mean(products, 5)
    xx, xy, yy, xr, yr = sums.unbind(1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    step = torch.stack([xy * yr - yy * xr, xy * xr - xx * yr], dim=1) / determinant[:, None]
    trust = determinant / (xx + yy) / (determinant / (xx + yy) + DAMPING)
    disagreement = residual.abs().mean(1)
    return step.clamp(-MAX_STEP, MAX_STEP), torch.stack([trust, disagreement * 10], dim=1)


def window_mean(x_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    """Mean over the window around each place that lies inside the map."""
    if side <= 3:
        return F.avg_pool2d(x_BCHW, side, stride=1, padding=side // 2, count_include_pad=False)
    # First along the rows, then the columns: 2 side values a place instead of side squared.
    rows = F.avg_pool2d(x_BCHW, (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)
    return F.avg_pool2d(rows, (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)


def mostly_textured(frame_BCHW: torch.Tensor) -> torch.Tensor:
    """Whether most of each frame varies around each place: B111."""
    mean, squares = window_mean(frame_BCHW, TEXTURE_PX), window_mean(frame_BCHW.square(), TEXTURE_PX)
    varies = (squares - mean.square()).mean(1, keepdim=True) > TEXTURE_VARIANCE
    return varies.float().mean((1, 2, 3), keepdim=True) > 0.5
