"""Training recipes of the interpolator: the motion with the lightweight head, then the GAN-trained head on top of it.

Shape suffixes: B pairs, C channels, H, W pixels, 2 is x then y. Frames are float32 in [0, 1], motion is in pixels.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from magicvideo_core.models.interpolator import Interpolator, InterpolatorConfig, load_interpolator, save_interpolator
from magicvideo_core.models.motion import View
from magicvideo_core.training.adversary import Adversary
from magicvideo_core.training.loop import TrainingSettings, run_training
from magicvideo_core.training.vfi_data import POOL_PAIRS, TexturedPool, mixed_pairs
from magicvideo_core.training.vfi_scenes import MotionPairs

SETTINGS = TrainingSettings(
    steps=3000,
    learning_rate=2e-3,
    warmup_steps=50,
    weight_decay=1e-3,
    decay_fraction=0.6,
    checkpoint_every=100,
    threads=1,
    optimizer="muon",
    muon_min_side=12,
)
# Weight of the motion's error from 1/8 (once), 1/4 (twice), 1/2 to full resolution: the fine ones decide the picture.
MOTION_WEIGHTS = (0.02, 0.02, 0.03, 0.04, 0.06)
# Share of the steps that the motion and the lightweight head get before the GAN head's.
LIGHT_SHARE = 2 / 3
# The adversary judges from the start and is listened to after this share of the steps.
ADVERSARY_FROM = 0.5


@dataclass(frozen=True, slots=True)
class GanLosses:
    """How much each loss of the GAN head counts beside the Charbonnier loss; 0 leaves it out.

    `laplacian`: of the error's Laplacian pyramid; `features`: of the adversary's features; `adversary`: of deceiving it, times
    the adaptive weight; `code`: of the codebook, where there is one.
    """

    laplacian: float = 1.0
    features: float = 0.02
    adversary: float = 0.1
    code: float = 0.1


class LightRecipe:
    """Motion and lightweight head: the frame between, and the motion that is known exactly, on every level."""

    learning_rate_scales: Mapping[str, float] = {}

    def __init__(self, model: Interpolator, pool: TexturedPool, *, batch_size: int, crop_px: int) -> None:
        self.model, self.pool = model, pool
        self.modules = nn.ModuleDict({"motion": model.motion, "light": model.light})
        self.batch_size, self.crop_px = batch_size, crop_px

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        # Rendering and the loss need full precision: half a grey level is the size of what is learnt last.
        with torch.autocast("cpu", enabled=False):
            pairs = mixed_pairs(rng, generator, self.pool, self.batch_size, self.crop_px)
        view = self.model.motion.view(
            self.model.motion.encode(pairs.first_BCHW, pairs.second_BCHW), pairs.interp_time_B
        )
        frame = self.model.light(view)
        with torch.autocast("cpu", enabled=False):
            of_frame = interpolation_loss(frame.float(), pairs.truth_BCHW, moving_weight(pairs))
            of_motion, error_px = motion_loss(view.motion.levels, pairs.motion_B2HW)
        loss = of_frame + of_motion
        return loss, {"loss": float(loss.detach()), "frame": float(of_frame.detach()), "motion_px": error_px}

    def save(self, directory: Path) -> None:
        save_interpolator(self.model, directory)


class GanRecipe:
    """The GAN head on the finished motion, which stays as it is; the adversary trains beside it and is not stored."""

    learning_rate_scales: Mapping[str, float] = {"adversary": 0.25}

    def __init__(
        self,
        model: Interpolator,
        pool: TexturedPool,
        *,
        batch_size: int,
        crop_px: int,
        adversary_from_step: int,
        losses: GanLosses = GanLosses(),
    ) -> None:
        self.model, self.pool, self.losses = model, pool, losses
        for each in (model.motion, model.light):
            each.requires_grad_(False)
        self.adversary = Adversary()
        self.modules = nn.ModuleDict({"gan": model.gan, "adversary": self.adversary})
        self.batch_size, self.crop_px, self.adversary_from_step = batch_size, crop_px, adversary_from_step
        self.step = 0

    def start_at(self, step: int) -> None:
        """A continued training listens to the adversary from the same step on."""
        self.step = step

    def loss(self, rng: random.Random, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        with torch.autocast("cpu", enabled=False):
            pairs = mixed_pairs(rng, generator, self.pool, self.batch_size, self.crop_px)
        with torch.no_grad():
            pair = self.model.motion.encode(pairs.first_BCHW, pairs.second_BCHW)
            view = self.model.motion.view(pair, pairs.interp_time_B)
        return self.loss_on(pairs, view)

    def loss_on(self, pairs: MotionPairs, view: View) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of one step on given pairs, seen along their estimated motion."""
        weights = self.losses
        frame, code_loss = self.model.gan(view)
        with torch.autocast("cpu", enabled=False):
            rebuilt = interpolation_loss(frame.float(), pairs.truth_BCHW, moving_weight(pairs), weights.laplacian)
        judged = self.adversary.judge(frame, pairs.truth_BCHW)
        loss = rebuilt + weights.features * judged.features + weights.code * code_loss + judged.own_loss
        weight = torch.zeros(())
        if weights.adversary and self.step >= self.adversary_from_step:
            weight = weights.adversary * adaptive_weight(rebuilt, judged.deceiving, self.model.gan.out.weight)
            loss = loss + weight * judged.deceiving
        self.step += 1
        metrics = {"frame": rebuilt, "features": judged.features, "adversary": judged.own_loss, "weight": weight}
        return loss, {name: float(each.detach()) for name, each in metrics.items()}

    def save(self, directory: Path) -> None:
        save_interpolator(self.model, directory)


def train_vfi(
    output_dir: Path,
    steps: int = SETTINGS.steps,
    *,
    seed: int = 0,
    batch_size: int = 12,
    crop_px: int = 96,
    threads: int = 1,
    pool_pairs: int = POOL_PAIRS,
    config: InterpolatorConfig | None = None,
) -> Path:
    """Train the interpolator into `output_dir` (config.json, model.safetensors), continuing from checkpoints there.

    Two thirds of the steps go to the motion and the lightweight head (kept in `output_dir`/light), the others to the GAN
    head. Deterministic for a seed and a thread count. No held-out triple is used. Returns `output_dir`.
    """
    torch.manual_seed(seed)
    light_steps = max(1, round(steps * LIGHT_SHARE))
    settings = replace(SETTINGS, steps=light_steps, seed=seed, threads=threads)
    pool = TexturedPool(pool_pairs, crop_px, seed)
    model = Interpolator(config or InterpolatorConfig())
    recipe_light = LightRecipe(model, pool, batch_size=batch_size, crop_px=crop_px)
    light = run_training(recipe_light, settings, output_dir / "light")
    model = load_interpolator(light).train()
    settings = replace(settings, steps=max(1, steps - light_steps), ema_decay=0.995)
    from_step = int(settings.steps * ADVERSARY_FROM)
    recipe = GanRecipe(model, pool, batch_size=batch_size, crop_px=crop_px, adversary_from_step=from_step)
    return run_training(recipe, settings, output_dir)


def adaptive_weight(rebuilt: torch.Tensor, deceiving: torch.Tensor, last_layer: torch.Tensor) -> torch.Tensor:
    """What makes both losses pull equally hard at the last layer (Esser et al. 2021, eq. 7), at most 1e4."""
    of_rebuilt, of_deceiving = (
        torch.autograd.grad(each, last_layer, retain_graph=True)[0].norm() for each in (rebuilt, deceiving)
    )
    return (of_rebuilt / (of_deceiving + 1e-4)).clamp(max=1e4).detach()


def interpolation_loss(
    predicted_NCHW: torch.Tensor, truth_NCHW: torch.Tensor, weight_N1HW: torch.Tensor, laplacian: float = 1.0
) -> torch.Tensor:
    """Weighted Charbonnier loss plus the L1 norm of the error's Laplacian pyramid (3 levels, coarse ones heavier)."""
    error = predicted_NCHW - truth_NCHW
    loss = (weight_N1HW * (error * error + 1e-6).sqrt()).mean()
    if not laplacian:
        return loss
    for level in range(3):
        coarse = F.avg_pool2d(error, 2)
        detail = error - F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        loss = loss + laplacian * 2.0**level * (weight_N1HW * detail.abs()).mean()
        error, weight_N1HW = coarse, F.avg_pool2d(weight_N1HW, 2)
    return loss + laplacian * (weight_N1HW * error.abs()).mean()


def moving_weight(pairs: MotionPairs) -> torch.Tensor:
    """Loss weight B1HW: seven times as much where the two frames differ and just around; mean 1 unless little moves."""
    difference = (pairs.first_BCHW - pairs.second_BCHW).abs().amax(1, keepdim=True)
    weight = 0.15 + F.max_pool2d((difference > 0.02).float(), 5, stride=1, padding=2)
    return weight / weight.mean((1, 2, 3), keepdim=True).clamp(min=0.3)


def motion_loss(levels: tuple[torch.Tensor, ...], motion_B2HW: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Weighted distance to the true motion on every level, less for fast pairs; and the finest level's mean in pixels."""
    length_B = motion_B2HW.square().sum(1).sqrt().mean((1, 2))
    total, distance = motion_B2HW.new_zeros(()), motion_B2HW
    for weight, estimate in zip(MOTION_WEIGHTS, levels, strict=True):
        scale = motion_B2HW.shape[-1] // estimate.shape[-1]
        distance = ((estimate - F.avg_pool2d(motion_B2HW, scale)).square().sum(1) + 1e-4).sqrt()
        total = total + weight * (distance.mean((1, 2)) / (1 + 0.1 * length_B)).mean()
    return total, float(distance.detach().mean())
