"""Training recipe of the interpolator: rendered pairs, two times each, Charbonnier and Laplacian-pyramid loss."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from magicvideo_core.models.interpolator import Interpolator, InterpolatorConfig, save_interpolator
from magicvideo_core.training.loop import TrainingSettings, run_training
from magicvideo_core.training.vfi_scenes import TrainingPairs, sample_pairs

# At 1e-3 the same loss takes a third more steps; the offsets are what learns slowly.
LEARNING_RATE = 2e-3


class VfiRecipe:
    """Frames between two rendered neighbours; moving pixels and their surroundings weighted nine to one."""

    learning_rate_scales: Mapping[str, float] = {}

    def __init__(self, model: Interpolator | None = None, *, batch_size: int = 8, crop_px: int = 96) -> None:
        self.model = model or Interpolator(InterpolatorConfig())
        self.modules = nn.ModuleDict({"interpolator": self.model})
        self.batch_size = batch_size
        self.crop_px = crop_px

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        # Rendering and the loss need full precision: half a grey level is the size of what is learnt last.
        with torch.autocast("cpu", enabled=False):
            pairs = sample_pairs(rng, generator, self.batch_size, self.crop_px)
        predicted_BTCHW = self.model(pairs.first_BCHW, pairs.second_BCHW, pairs.interp_times_BT).float()
        with torch.autocast("cpu", enabled=False):
            predicted_NCHW, truth_NCHW = predicted_BTCHW.flatten(0, 1), pairs.truth_BTCHW.flatten(0, 1)
            weight_N1HW = moving_weight(pairs).repeat_interleave(predicted_BTCHW.shape[1], dim=0)
            loss = interpolation_loss(predicted_NCHW, truth_NCHW, weight_N1HW)
            # The weighted mean square error is all but the moving region's.
            mse = ((predicted_NCHW - truth_NCHW).detach().square() * weight_N1HW).mean()
        return loss, {"loss": float(loss.detach()), "weighted_psnr": float(-10 * torch.log10(mse))}

    def save(self, directory: Path) -> None:
        save_interpolator(self.model, directory)


def train_vfi(
    output_dir: Path, steps: int, *, seed: int = 0, batch_size: int = 8, crop_px: int = 96, threads: int = 1
) -> Path:
    """Train the interpolator into `output_dir` (config.json, model.safetensors), continuing from a checkpoint there.

    Deterministic for a seed and a thread count. No held-out triple is used. Returns `output_dir`.
    """
    torch.manual_seed(seed)
    settings = TrainingSettings(
        steps=steps,
        learning_rate=LEARNING_RATE,
        weight_decay=1e-4,
        decay_fraction=0.5,
        checkpoint_every=250,
        seed=seed,
        threads=threads,
    )
    return run_training(VfiRecipe(batch_size=batch_size, crop_px=crop_px), settings, output_dir)


def interpolation_loss(
    predicted_NCHW: torch.Tensor, truth_NCHW: torch.Tensor, weight_N1HW: torch.Tensor
) -> torch.Tensor:
    """Weighted Charbonnier loss plus the L1 norm of the error's Laplacian pyramid (3 levels, coarse ones heavier)."""
    error = predicted_NCHW - truth_NCHW
    loss = (weight_N1HW * (error * error + 1e-6).sqrt()).mean()
    for level in range(3):
        coarse = F.avg_pool2d(error, 2)
        detail = error - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        loss = loss + 2.0**level * (weight_N1HW * detail.abs()).mean()
        error, weight_N1HW = coarse, F.avg_pool2d(weight_N1HW, 2)
    return loss + (weight_N1HW * error.abs()).mean()


def moving_weight(pairs: TrainingPairs) -> torch.Tensor:
    """Loss weight B1HW, mean 1 over the batch: nine times as much where the two frames differ, and just around."""
    difference = (pairs.first_BCHW - pairs.second_BCHW).abs().amax(1, keepdim=True)
    moving = F.max_pool2d((difference > 0.05).float(), 5, stride=1, padding=2)
    weight = 1 + 8 * moving
    return weight / weight.mean()
