"""Textured scenes: frames that follow the motion exactly, flow that leads to the same point, families kept apart."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from magicvideo_core.training.textured_scenes import SceneSettings, draw_scenes
from magicvideo_core.training.textures import FAMILIES, HELD_OUT_FAMILIES, TRAINING_FAMILIES, draw_fields


def warp(frames_BCHW: torch.Tensor, flow_B2HW: torch.Tensor) -> torch.Tensor:
    size = frames_BCHW.shape[-1]
    line = torch.arange(size) + 0.5
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1) + flow_B2HW.permute(0, 2, 3, 1)
    return F.grid_sample(frames_BCHW, points * (2 / size) - 1, mode="bicubic", align_corners=False)


def test_scenes_are_reproducible_and_in_range() -> None:
    settings, times = SceneSettings(canvas_px=48), torch.tensor([[0.0, 0.4, 1.0]] * 4)
    one, other = (draw_scenes(torch.Generator().manual_seed(4), 4, settings).render(times) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (4, 3, 3, 48, 48)
    assert 0 <= one.min() <= one.max() <= 1
    assert not torch.equal(one[:, 0], one[:, 2])


def test_flow_leads_to_the_same_point_where_it_shows() -> None:
    scenes = draw_scenes(torch.Generator().manual_seed(1), 12, SceneSettings(canvas_px=64))
    times = torch.tensor([[0.0, 1.0]] * 12)
    first, second = scenes.render(times).unbind(1)
    for frame, other, (start, end) in ((first, second, times.unbind(1)), (second, first, times.flip(1).unbind(1))):
        flow, visible = scenes.flow(start, end)
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
