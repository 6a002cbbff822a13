"""The interpolator's feature pyramid of a frame, and the residual block that its networks are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


class ResidualBlock(nn.Module):
    """Two convolutions around a skip connection."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW + self.conv2(F.leaky_relu(self.conv1(F.leaky_relu(x_BCHW, 0.1)), 0.1))


class FeaturePyramid(nn.Module):
    """Features of one frame at 1/2, 1/4, ... of its resolution."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        # Space to depth: the full resolution is too dear to convolve at.
        self.stem = nn.Conv2d(3 * 4, widths[0], 3, padding=1)
        self.refine = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in widths)
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))

    def forward(self, frames_BCHW: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(F.pixel_unshuffle(frames_BCHW - 0.5, 2))
        levels: list[torch.Tensor] = []
        for level, refine in enumerate(self.refine):
            if level:
                x = self.downs[level - 1](F.leaky_relu(levels[-1], 0.1))
            levels.append(x + refine(F.leaky_relu(x, 0.1)))
        return levels
