"""The lightweight interpolator: both frames brought to t along the motion, blended by a mask and touched up.

Shape suffixes as in `matching`. Frames are float32 in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from magicvideo_core.models.motion import MotionConfig, View, nearness, zero
from magicvideo_core.models.pyramid import ResidualBlock


class LightHead(nn.Module):
    """Flow-based interpolation, after the published lightweight family (RIFE, EMA-VFI)."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.look = nn.Conv2d(2 * 3 * 4 + 4 + config.fine, config.fine, 3, padding=1)
        self.block = ResidualBlock(config.fine)
        # Of every full-resolution pixel: who is seen, and a residual of three colours.
        self.out = nn.Conv2d(config.fine, 4 * (1 + 3), 3, padding=1)
        zero(self.out)

    def forward(self, view: View) -> torch.Tensor:
        """The frame at time t: BCHW."""
        hidden = self.block(self.look(torch.cat([view.folded(), view.motion.hidden_BCHW], dim=1)))
        raw = F.pixel_shuffle(self.out(F.leaky_relu(hidden, 0.1)).float(), 2)
        return (
            torch.lerp(view.first_BCHW, view.second_BCHW, (raw[:, :1] + nearness(view.time_B111)).sigmoid())
            + raw[:, 1:]
        )
