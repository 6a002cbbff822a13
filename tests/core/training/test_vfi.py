"""The interpolator's recipe: its scenes, its loss, and that an interrupted training ends the same."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from magicvideo_core.models.interpolator import Interpolator, InterpolatorConfig, load_interpolator
from magicvideo_core.moving_shapes.world import is_held_out
from magicvideo_core.training import vfi
from magicvideo_core.training.loop import TrainingSettings, run_training
from magicvideo_core.training.vfi import VfiRecipe, interpolation_loss, train_vfi
from magicvideo_core.training.vfi_scenes import named_motions, nearest_colour, sample_free_object, sample_pairs


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
    one, other = (sample_pairs(random.Random(3), torch.Generator().manual_seed(4), 4, 64) for _ in range(2))
    assert torch.equal(one.truth_BTCHW, other.truth_BTCHW)
    assert one.first_BCHW.shape == one.second_BCHW.shape == (4, 3, 64, 64)
    assert one.truth_BTCHW.shape == (4, 2, 3, 64, 64)
    for frames in (one.first_BCHW, one.second_BCHW, one.truth_BTCHW, one.interp_times_BT):
        assert 0 <= frames.min() <= frames.max() <= 1


def test_loss_is_least_at_the_truth() -> None:
    truth, weight = torch.rand(2, 3, 32, 32), torch.ones(2, 1, 32, 32)
    exact = interpolation_loss(truth, truth, weight)
    assert exact < 2e-3
    assert interpolation_loss(truth + 0.01, truth, weight) > exact


def test_an_interrupted_training_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = InterpolatorConfig(widths=(8, 8), head_channels=8)

    def run(output: Path, stops: tuple[int, ...]) -> dict[str, torch.Tensor]:
        for stop in stops:
            torch.manual_seed(0)
            recipe = VfiRecipe(Interpolator(small), batch_size=2, crop_px=32)
            # The learning rate follows from the whole length: the same in both, whatever the interruption.
            settings = TrainingSettings(steps=stop, learning_rate=1e-3, decay_fraction=1e-9, threads=1)
            run_training(recipe, settings, output)
        return load_file(output / "model.safetensors")

    whole, parts = run(tmp_path / "whole", (4,)), run(tmp_path / "parts", (2, 4))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_train_vfi_leaves_weights_that_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vfi, "InterpolatorConfig", lambda: InterpolatorConfig(widths=(8, 8), head_channels=8))
    assert train_vfi(tmp_path, 1, batch_size=2, crop_px=32) == tmp_path
    assert load_interpolator(tmp_path).config.widths == (8, 8)
