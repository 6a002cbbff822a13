"""The EDSC operator: enhanced deformable separable convolution of two frames, in plain torch.

Cheng and Chen, "Multiple Video Frame Interpolation via Enhanced Deformable Separable Convolution" (arXiv 2006.08070):

    out(p) = sum_k sum_i sum_j  v_k(i,p) * h_k(j,p) * m_k(ij,p) * I_k(p + g_ij + d_k(ij,p))  +  b(p)

With d = 0 and m = 1 it is separable convolution, with one tap it is flow warping.

Shape suffixes: B batch, C channels, H, W pixels, K taps along one axis, N = K * K taps (tap i * K + j is row i,
column j), 2 offset axes (x first, then y).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

# Positions sampled by one grid_sample call: bounds the memory at large sizes, where all taps at once would not fit.
MAX_POSITIONS_PER_CALL = 1 << 22


@dataclass(frozen=True, slots=True)
class SideKernels:
    """What the operator needs for one of the two frames, at the frame's resolution; offsets in pixels."""

    vertical_BKHW: torch.Tensor
    horizontal_BKHW: torch.Tensor
    mask_BNHW: torch.Tensor
    offsets_B2NHW: torch.Tensor

    def weights_BNHW(self) -> torch.Tensor:
        """The weight v * h * m of every tap."""
        separable = self.vertical_BKHW[:, :, None] * self.horizontal_BKHW[:, None, :]
        return separable.flatten(1, 2) * self.mask_BNHW


def tap_positions(num_taps: int) -> torch.Tensor:
    """Regular tap grid g: float32 (2, N), x then y, in pixels, centred on zero (odd `num_taps` hit pixel centres)."""
    line = torch.arange(num_taps, dtype=torch.float32) - (num_taps - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()])


def sample_taps(image_BCHW: torch.Tensor, weights_BNHW: torch.Tensor, offsets_B2NHW: torch.Tensor) -> torch.Tensor:
    """One side of the sum: weighted bilinear samples of the image at the deformed taps, clamped at the border.

    Returns BCHW. Offsets are absolute displacements in pixels, the regular tap grid excluded.
    """
    batch, _, height, width = image_BCHW.shape
    count = weights_BNHW.shape[1]
    grid = tap_positions(round(count**0.5)).to(offsets_B2NHW)
    xs = torch.arange(width, device=image_BCHW.device, dtype=offsets_B2NHW.dtype)
    ys = torch.arange(height, device=image_BCHW.device, dtype=offsets_B2NHW.dtype)
    taps_per_call = max(1, MAX_POSITIONS_PER_CALL // (batch * height * width))
    out = torch.zeros_like(image_BCHW)
    for first in range(0, count, taps_per_call):
        taps = slice(first, first + taps_per_call)
        x = offsets_B2NHW[:, 0, taps] + grid[0, taps, None, None] + xs
        y = offsets_B2NHW[:, 1, taps] + grid[1, taps, None, None] + ys[:, None]
        # align_corners=False convention: pixel i lies at (2 i + 1) / size - 1. Taps are stacked along the height, so
        # that one call serves them all without copies of the image.
        positions = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
        samples = F.grid_sample(
            image_BCHW, positions.flatten(1, 2), mode="bilinear", padding_mode="border", align_corners=False
        )
        samples = samples.view(batch, -1, x.shape[1], height, width)
        out = out + (samples * weights_BNHW[:, None, taps]).sum(dim=2)
    return out


def edsc(
    first_BCHW: torch.Tensor,
    second_BCHW: torch.Tensor,
    kernels: tuple[SideKernels, SideKernels],
    bias_BCHW: torch.Tensor | None = None,
) -> torch.Tensor:
    """The EDSC operator (module docstring) on two frames; the sides are summed, not normalised. Returns BCHW."""
    out = torch.zeros_like(first_BCHW) if bias_BCHW is None else bias_BCHW
    for image, side in zip((first_BCHW, second_BCHW), kernels, strict=True):
        out = out + sample_taps(image, side.weights_BNHW(), side.offsets_B2NHW)
    return out
