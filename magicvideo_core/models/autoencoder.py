"""The GAN-trained interpolator: an autoencoder that codes what the two neighbours show at time t, with an EDSC head.

After LDMVFI's VQ-GAN autoencoder (arXiv 2303.09508), which codes the frame between itself in training: here the code is made
of the neighbours and t, so that training and use are the same. The decoder's levels attend to the neighbours' features of the
same level, within a window around where the motion says that each place lies.

Shape suffixes as in `matching` and `edsc`; W places of both windows. Frames are float32 in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from magicvideo_core.models.edsc import SideKernels, sample_taps
from magicvideo_core.models.motion import MotionConfig, View, nearness, zero
from magicvideo_core.models.pyramid import ResidualBlock


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """Sizes. `code`, `middle`, `fine`: channels at 1/8, 1/4 and 1/2; `codes`: entries of the codebook, 0 for none."""

    code: int = 48
    middle: int = 40
    fine: int = 32
    num_taps: int = 3
    codes: int = 0


class WindowAttention(nn.Module):
    """Attention of each place to 3x3 places of both neighbours' features, which have been brought to time t."""

    def __init__(self, channels: int, neighbour_channels: int, width: int = 16) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, width, 1)
        self.key = nn.Conv2d(neighbour_channels, width, 1)
        self.value = nn.Conv2d(neighbour_channels, width, 1)
        self.out = nn.Conv2d(width, channels, 1)
        self.nearness = nn.Parameter(torch.ones(()))
        zero(self.out)

    def forward(
        self, x_BCHW: torch.Tensor, sides: tuple[torch.Tensor, torch.Tensor], time_B111: torch.Tensor
    ) -> torch.Tensor:
        """Adds what was attended to to `x_BCHW`."""
        query = self.query(x_BCHW)[:, :, None] * self.query.out_channels**-0.5
        keys, values = (torch.cat([_windows(layer(side)) for side in sides], dim=2) for layer in (self.key, self.value))
        half = 0.5 * self.nearness * nearness(time_B111)
        nearer = torch.cat([-half.expand(-1, 9, -1, -1), half.expand(-1, 9, -1, -1)], dim=1)
        share_BWHW = ((query * keys).sum(1).float() + nearer).softmax(1)
        return x_BCHW + self.out((share_BWHW[:, None] * values).sum(2))


def _windows(x_BCHW: torch.Tensor) -> torch.Tensor:
    """The 3x3 surroundings of each place: BC9HW."""
    height, width = x_BCHW.shape[-2:]
    padded = F.pad(x_BCHW, (1, 1, 1, 1), mode="replicate")
    return torch.stack([padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)], dim=2)


class Codebook(nn.Module):
    """Vector quantisation with a straight-through gradient (van den Oord et al. 2017, eq. 3)."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(torch.randn(codes, channels) * 0.5)

    def forward(self, code_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest entries, and the loss that draws entries and codes together."""
        flat = code_BCHW.float().movedim(1, -1)
        nearest = torch.cdist(flat.reshape(-1, flat.shape[-1]), self.entries).argmin(1).view(flat.shape[:-1])
        chosen = self.entries[nearest]
        loss = (chosen - flat.detach()).square().mean() + 0.25 * (chosen.detach() - flat).square().mean()
        return (flat + (chosen - flat).detach()).movedim(-1, 1), loss


class GanHead(nn.Module):
    """Autoencoder and EDSC head over what both frames show at time t."""

    def __init__(self, config: AutoencoderConfig, motion: MotionConfig) -> None:
        super().__init__()
        quarter, eighth = motion.widths[1:]
        taps = config.num_taps**2
        self.encode = nn.Conv2d(3 * eighth + 1, config.code, 3, padding=1)
        self.encode_block = ResidualBlock(config.code)
        self.codebook = Codebook(config.codes, config.code) if config.codes else None
        self.code_attention = WindowAttention(config.code, eighth)
        self.code_block = ResidualBlock(config.code)
        self.to_middle = nn.Conv2d(config.code, config.middle, 1)
        self.middle_attention = WindowAttention(config.middle, quarter)
        self.middle_block = ResidualBlock(config.middle)
        self.to_fine = nn.Conv2d(config.middle + motion.fine + 2 * 3 * 4 + 4, config.fine, 3, padding=1)
        self.fine_block = ResidualBlock(config.fine)
        # Of each side: v, h, mask and offset of every tap, at half resolution.
        self.split = (config.num_taps, config.num_taps, taps, 2 * taps)
        self.kernels = nn.Conv2d(config.fine, 2 * sum(self.split), 3, padding=1)
        # Of every full-resolution pixel: who is seen, and the bias of three colours.
        self.out = nn.Conv2d(config.fine, 4 * (1 + 3), 3, padding=1)
        zero(self.out)
        with torch.no_grad():
            self.kernels.weight.mul_(0.05)
            assert self.kernels.bias is not None
            self.kernels.bias.zero_()

    def forward(self, view: View) -> tuple[torch.Tensor, torch.Tensor]:
        """The frame at time t, BCHW, and the codebook's loss (0 without one)."""
        time = view.time_B111
        # 1. Encoder: the neighbours' features at 1/8, brought to t, as one code.
        eighths = view.features(view.pair.eighths, 8)
        constant = time.expand(-1, 1, *eighths[0].shape[-2:])
        code = self.encode(torch.cat([*eighths, (eighths[0] - eighths[1]).abs(), constant], dim=1))
        code, code_loss = self.encode_block(code), code.new_zeros(())
        if self.codebook is not None:
            code, code_loss = self.codebook(code)
        # 2. Decoder: each level attends to the neighbours; at 1/2 it sees the frames themselves.
        x = self.code_block(self.code_attention(code, eighths, time))
        x = F.interpolate(self.to_middle(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.middle_block(self.middle_attention(x, view.features(view.pair.quarter_features(), 4), time))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.to_fine(torch.cat([x, view.motion.hidden_BCHW, view.folded()], dim=1))
        x = F.leaky_relu(self.fine_block(x), 0.1)
        # 3. EDSC head on the frames at time t.
        raw = F.pixel_shuffle(self.out(x).float(), 2)
        kernels = F.interpolate(self.kernels(x).float(), scale_factor=2.0, mode="bilinear", align_corners=False)
        sides = [self._side(each) for each in kernels.chunk(2, dim=1)]
        weights = [side.weights_BNHW() for side in sides]
        # The operator does not normalise; what the taps lack to a sum of 1 goes to the centre taps of who is seen, so that a
        # flat region keeps its colour exactly and an untrained head shows the frames as they are.
        lacking = 1 - weights[0].sum(1, keepdim=True) - weights[1].sum(1, keepdim=True)
        taps = weights[0].shape[1]
        centre = (torch.arange(taps, device=lacking.device) == taps // 2).float()[:, None, None]
        second_share = (raw[:, :1] + nearness(time)).sigmoid()
        frame = raw[:, 1:]
        for image, side, weight, share in (
            (view.first_BCHW, sides[0], weights[0], 1 - second_share),
            (view.second_BCHW, sides[1], weights[1], second_share),
        ):
            frame = frame + sample_taps(image, weight + lacking * share * centre, side.offsets_B2NHW)
        return frame, code_loss

    def _side(self, raw_BCHW: torch.Tensor) -> SideKernels:
        vertical, horizontal, mask, offsets = raw_BCHW.split(self.split, dim=1)
        return SideKernels(vertical, horizontal, mask.sigmoid(), offsets.unflatten(1, (2, -1)))
