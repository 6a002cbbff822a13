"""The interpolator's recipe: its scenes, its loss, and that an interrupted training ends the same."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from magicvideo_core.models.autoencoder import AutoencoderConfig
from magicvideo_core.models.interpolator import Interpolator, InterpolatorConfig, load_interpolator
from magicvideo_core.models.matching import warp
from magicvideo_core.models.motion import MotionConfig
from magicvideo_core.moving_shapes.world import is_held_out
from magicvideo_core.training.adversary import Adversary
from magicvideo_core.training.loop import run_training
from magicvideo_core.training.vfi import SETTINGS, GanRecipe, LightRecipe, interpolation_loss, train_vfi
from magicvideo_core.training.vfi_data import TexturedPool
from magicvideo_core.training.vfi_scenes import (
    named_motions,
    nearest_colour,
    sample_free_object,
    sample_motion_pairs,
)


def test_free_objects_keep_clear_of_held_out_triples() -> None:
    rng = random.Random(0)
    for _ in range(300):
        spec = sample_free_object(rng)
        words = named_motions(spec.shift, spec.growth, spec.turn)
        assert not any(is_held_out(nearest_colour(spec.colour), spec.shape, word) for word in words)


def test_every_part_of_a_movement_has_its_word() -> None:
    assert named_motions((0.0, 0.0), 0.0, 0.0) == {"standing still"}
    assert named_motions((-0.1, 0.1), 0.1, 0.2) == {"moving left", "moving down", "growing", "spinning"}
    assert nearest_colour((215, 45, 45)) == "red"


def test_pairs_are_reproducible_and_in_range() -> None:
    one, other = (sample_motion_pairs(random.Random(3), torch.Generator().manual_seed(4), 4, 64) for _ in range(2))
    assert torch.equal(one.truth_BCHW, other.truth_BCHW)
    assert one.first_BCHW.shape == one.second_BCHW.shape == one.truth_BCHW.shape == (4, 3, 64, 64)
    for frames in (one.first_BCHW, one.second_BCHW, one.truth_BCHW, one.interp_time_B):
        assert 0 <= frames.min() <= frames.max() <= 1


def test_loss_is_least_at_the_truth() -> None:
    truth, weight = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    exact = interpolation_loss(truth, truth, weight)
    assert exact < 2e-3
    assert interpolation_loss(truth + 0.01, truth, weight) > exact


@pytest.fixture(scope="module")
def pool() -> TexturedPool:
    return TexturedPool(16, 32, seed=0)


def test_motion_leads_from_both_frames_to_the_one_between(pool: TexturedPool) -> None:
    rng = random.Random(1)
    drawn = [sample_motion_pairs(rng, torch.Generator().manual_seed(1), 4, 64), pool.sample(rng, 4)]
    for pairs in drawn:
        time = pairs.interp_time_B[:, None, None, None]
        from_first = warp(pairs.first_BCHW, -time * pairs.motion_B2HW, "bicubic")
        from_second = warp(pairs.second_BCHW, (1 - time) * pairs.motion_B2HW, "bicubic")
        moving = (pairs.first_BCHW - pairs.second_BCHW).abs().amax(1) > 0.1
        # What is hidden in one of the frames shows in the other.
        apart = torch.minimum((from_first - pairs.truth_BCHW).abs(), (from_second - pairs.truth_BCHW).abs()).mean(1)
        still = (pairs.first_BCHW - pairs.truth_BCHW).abs().mean(1)
        assert apart[moving].mean() < 0.4 * still[moving].mean()


SMALL = InterpolatorConfig(
    motion=MotionConfig(widths=(8, 8, 8), fine=8, middle=8, coarse=8),
    gan=AutoencoderConfig(code=8, middle=8, fine=8, codes=4),
)


@pytest.mark.parametrize("head", ["light", "gan"])
def test_an_interrupted_training_ends_the_same(tmp_path: Path, pool: TexturedPool, head: str) -> None:
    sizes = dict(batch_size=2, crop_px=32)

    def run(output: Path, stops: tuple[int, ...]) -> dict[str, torch.Tensor]:
        for stop in stops:
            torch.manual_seed(0)
            model = Interpolator(SMALL)
            recipe = (
                LightRecipe(model, pool, **sizes)
                if head == "light"
                else GanRecipe(model, pool, **sizes, adversary_from_step=2)
            )
            # The learning rate follows from the whole length: the same in both, whatever the interruption.
            settings = replace(SETTINGS, steps=stop, decay_fraction=1e-9)
            run_training(recipe, settings, output)
        return load_file(output / "model.safetensors")

    whole, parts = run(tmp_path / "whole", (4,)), run(tmp_path / "parts", (2, 4))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_train_vfi_leaves_weights_that_load(tmp_path: Path) -> None:
    assert train_vfi(tmp_path, 2, batch_size=2, crop_px=32, pool_pairs=16, config=SMALL) == tmp_path
    assert load_interpolator(tmp_path).config == SMALL


def test_the_adversary_learns_to_tell_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    adversary, true = Adversary(width=8), torch.rand(4, 3, 32, 32)
    made = torch.nn.functional.avg_pool2d(true, 3, stride=1, padding=1).requires_grad_()
    optimizer, losses = torch.optim.Adam(adversary.parameters(), 5e-3), []
    for _ in range(40):
        judged = adversary.judge(made, true)
        optimizer.zero_grad()
        judged.own_loss.backward()
        optimizer.step()
        losses.append(float(judged.own_loss.detach()))
    assert made.grad is None
    assert losses[-1] < 0.6 * losses[0]
    before = [each.grad.clone() for each in adversary.parameters()]
    adversary.judge(made, true).deceiving.backward()
    assert made.grad is not None
    assert all(torch.equal(each.grad, old) for each, old in zip(adversary.parameters(), before, strict=True))
