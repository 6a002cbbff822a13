"""The discriminator that a generator of frames is trained against, and what it says of made frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call


@dataclass(frozen=True, slots=True)
class Judgement:
    """Scalars: the adversary's own hinge loss, what the generator loses by being seen through, and features' distance."""

    own_loss: torch.Tensor
    deceiving: torch.Tensor
    features: torch.Tensor


class Adversary(nn.Module):
    """PatchGAN (Isola et al. 2017): a logit for every patch of 22 pixels, every 4."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        # Space to depth: the full resolution is too dear to convolve at.
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3 * 4, width, 3, padding=1),
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
                nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            ]
        )
        self.out = nn.Conv2d(2 * width, 1, 3, padding=1)

    def forward(self, frames_BCHW: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits (positive: a true frame) and the features on the way."""
        x, features = F.pixel_unshuffle(frames_BCHW - 0.5, 2), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.out(x), features

    def judge(self, made_BCHW: torch.Tensor, true_BCHW: torch.Tensor) -> Judgement:
        """Hinge losses (Lim and Ye 2017). Only `own_loss` teaches the adversary, only the others the generator."""
        logits, _ = self(torch.cat([made_BCHW.detach(), true_BCHW]))
        of_made, of_true = logits.float().chunk(2)
        own = 0.5 * (F.relu(1 + of_made).mean() + F.relu(1 - of_true).mean())
        frozen = {name: each.detach() for name, each in self.named_parameters()}
        seen_through, features = functional_call(self, frozen, (made_BCHW,))
        with torch.no_grad():
            _, wanted = self(true_BCHW)
        # Relative to their size: a loss that can be lessened by features growing faint teaches nothing.
        apart = [
            (a.float() - b.float()).abs().mean() / (b.float().abs().mean() + 1e-4)
            for a, b in zip(features, wanted, strict=True)
        ]
        return Judgement(own, -seen_through.float().mean(), sum(apart, torch.zeros(())) / len(apart))
