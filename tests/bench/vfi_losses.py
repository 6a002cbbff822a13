"""What the GAN head's losses and its codebook bring: short equal trainings of variants on one finished motion, side by side.

python tests/bench/vfi_losses.py LIGHT_FOLDER [--steps 150] [--sequences 2]
"""

import argparse
import copy
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from magicvideo_core.evaluation.vfi import (
    BLENDING,
    MEASURES,
    InterpolatePair,
    blend_pair,
    evaluate_vfi,
    format_table,
)
from magicvideo_core.evaluation.vfi_sequences import CUT_KIND, KINDS, SHAPES_KINDS, held_out_sequences
from magicvideo_core.models.autoencoder import GanHead
from magicvideo_core.models.interpolator import load_interpolator
from magicvideo_core.stages.vfi import PairModel, interpolate_pairs
from magicvideo_core.training.attention import plain_attention_on_cpu
from magicvideo_core.training.loop import ExponentialMovingAverage, trainable_parameters
from magicvideo_core.training.optimizer import Optimizer
from magicvideo_core.training.vfi import SETTINGS, GanLosses, GanRecipe
from magicvideo_core.training.vfi_data import TexturedPool, mixed_pairs

ALL = GanLosses()
VARIANTS = {
    "all": (ALL, 0),
    "no Laplacian": (replace(ALL, laplacian=0), 0),
    "no features": (replace(ALL, features=0), 0),
    "no adversary": (replace(ALL, adversary=0), 0),
    "Charbonnier alone": (GanLosses(laplacian=0, features=0, adversary=0), 0),
    "codebook of 128": (ALL, 128),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("light", type=Path, help="folder of the trained motion and lightweight head")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop-px", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=2, help="per kind")
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pool = TexturedPool(16 * options.steps // 4, options.crop_px, seed=7)
    recipes, optimizers, averages = {}, {}, {}
    base = load_interpolator(options.light, "gan").train()
    for name, (losses, codes) in VARIANTS.items():
        torch.manual_seed(0)
        model = copy.copy(base)
        model._modules = dict(base._modules)
        model.config = replace(base.config, gan=replace(base.config.gan, codes=codes))
        model.gan = GanHead(model.config.gan, model.config.motion)
        recipes[name] = GanRecipe(
            model,
            pool,
            batch_size=options.batch_size,
            crop_px=options.crop_px,
            adversary_from_step=options.steps // 3,
            losses=losses,
        )
        parameters = trainable_parameters(recipes[name])
        optimizers[name] = Optimizer(
            parameters,
            recipes[name].learning_rate_scales,
            kind=SETTINGS.optimizer,
            weight_decay=SETTINGS.weight_decay,
            min_side=SETTINGS.muon_min_side,
        )
        averages[name] = ExponentialMovingAverage(parameters, 0.97)
    schedule = replace(SETTINGS, steps=options.steps, warmup_steps=10)
    for step in range(options.steps):
        # Every variant learns from the same pairs along the same motion.
        rng, generator = random.Random(f"losses/{step}"), torch.Generator().manual_seed(step)
        pairs = mixed_pairs(rng, generator, pool, options.batch_size, options.crop_px)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features = base.motion.encode(pairs.first_BCHW, pairs.second_BCHW)
            view = base.motion.view(features, pairs.interp_time_B)
        for name, recipe in recipes.items():
            optimizers[name].zero_grad()
            with plain_attention_on_cpu(), torch.autocast("cpu", torch.bfloat16):
                loss, _ = recipe.loss_on(pairs, view)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(averages[name].parameters.values()), SETTINGS.gradient_clip)
            optimizers[name].step(schedule.learning_rate_at(step))
            averages[name].update(step)
    columns: dict[str, InterpolatePair] = {BLENDING: blend_pair}
    for name, recipe in recipes.items():
        with torch.no_grad():
            for key, parameter in averages[name].parameters.items():
                parameter.copy_(averages[name].shadow[key])
        columns[name] = partial(_interpolate, recipe.model.eval())
    kinds = tuple(kind for kind in KINDS if kind != CUT_KIND)
    scores = evaluate_vfi(columns, held_out_sequences(options.sequences, options.seed, kinds))
    textured = [replace(each, kind="all textured scenes") for each in scores if each.kind not in SHAPES_KINDS]
    for measure in MEASURES:
        print(format_table([*scores, *textured], measure), end="\n\n")


def _interpolate(model: PairModel, first: np.ndarray, second: np.ndarray, times: tuple[float, ...]) -> np.ndarray:
    frames: np.ndarray = interpolate_pairs(model, first[None], second[None], times)[0]
    return frames


if __name__ == "__main__":
    main()
