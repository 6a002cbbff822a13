"""Textured scenes: frames that follow the motion exactly, flow that leads to the same point, families kept apart."""

import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from magicvideo_core.training.textured_scenes import SceneSettings, draw_scenes, sample_textured_pairs
from magicvideo_core.training.textures import FAMILIES, HELD_OUT_FAMILIES, TRAINING_FAMILIES, draw_fields


def warp(frames_BCHW: torch.Tensor, flow_B2HW: torch.Tensor) -> torch.Tensor:
    size = frames_BCHW.shape[-1]
    line = torch.arange(size) + 0.5
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1) + flow_B2HW.permute(0, 2, 3, 1)
    return F.grid_sample(frames_BCHW, points * (2 / size) - 1, mode="bicubic", align_corners=False)


def test_pairs_are_reproducible_and_in_range() -> None:
    one, other = (sample_textured_pairs(random.Random(3), torch.Generator().manual_seed(4), 4, 48) for _ in range(2))
    assert torch.equal(one.truth_BTCHW, other.truth_BTCHW)
    assert one.truth_BTCHW.shape == (4, 2, 3, 48, 48)
    for frames in (one.first_BCHW, one.second_BCHW, one.truth_BTCHW):
        assert 0 <= frames.min() <= frames.max() <= 1
    assert not torch.equal(one.first_BCHW, one.second_BCHW)


def test_flow_leads_to_the_same_point_where_it_shows() -> None:
    pairs = sample_textured_pairs(random.Random(0), torch.Generator().manual_seed(1), 12, 64)
    for frame, other, flow, visible in (
        (pairs.first_BCHW, pairs.second_BCHW, pairs.flow_forward_B2HW, pairs.visible_forward_B1HW),
        (pairs.second_BCHW, pairs.first_BCHW, pairs.flow_backward_B2HW, pairs.visible_backward_B1HW),
    ):
        error = (warp(other, flow) - frame).abs()
        seen = (error * visible).sum() / (3 * visible.sum())
        hidden = (error * (1 - visible)).sum() / (3 * (1 - visible).sum())
        assert seen < 0.02
        assert hidden > 4 * seen
        assert 0.3 < visible.mean() < 1


def test_motion_is_uniform() -> None:
    settings = SceneSettings(canvas_px=32, turn_share=0, growth_share=0, max_objects=0, still_share=0)
    scenes = draw_scenes(torch.Generator().manual_seed(2), 3, settings)
    zeros = torch.zeros(3)
    whole, visible = scenes.flow(zeros, torch.ones(3))
    third, _ = scenes.flow(zeros, torch.full((3,), 1 / 3))
    assert torch.allclose(third, whole / 3, atol=1e-4)
    assert torch.equal(whole[:, :, :1, :1].expand_as(whole).round(decimals=3), whole.round(decimals=3))
    # A shift by whole pixels moves the picture by whole pixels.
    shifted = replace(scenes, shift_BL2=torch.tensor([3.0, -2.0]).expand(3, 1, 2))
    first, second = shifted.render(torch.tensor([[0.0, 1.0]] * 3)).unbind(1)
    assert torch.allclose(first[:, :, 2:, :-3], second[:, :, :-2, 3:], atol=2e-3)
    assert visible.min() == 0


@pytest.mark.parametrize("family", sorted({**FAMILIES, **HELD_OUT_FAMILIES}))
def test_textures_are_smooth_enough_to_be_sampled_between_texels(family: str) -> None:
    fields = draw_fields(torch.Generator().manual_seed(5), (family,), 3, 128)
    assert fields.shape == (3, 128, 128) and torch.isfinite(fields).all()
    # An edge is a ramp of more than one step.
    assert max(fields.diff(dim=1).abs().max(), fields.diff(dim=2).abs().max()) < 0.75


def test_held_out_families_are_no_part_of_the_training() -> None:
    assert not set(TRAINING_FAMILIES) & set(HELD_OUT_FAMILIES)
    assert SceneSettings().families == TRAINING_FAMILIES
