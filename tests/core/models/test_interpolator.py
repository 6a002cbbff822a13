"""The interpolator: shapes, times, what it does untrained, its two heads and their combinations, and strict weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from magicvideo_core.errors import WeightsError
from magicvideo_core.models.autoencoder import AutoencoderConfig
from magicvideo_core.models.interpolator import (
    COMBINATIONS,
    Combine,
    Interpolator,
    InterpolatorConfig,
    combined,
    load_interpolator,
    save_interpolator,
)
from magicvideo_core.models.motion import MotionConfig

SMALL = InterpolatorConfig(
    motion=MotionConfig(widths=(8, 8, 8), fine=8, middle=8, coarse=8),
    gan=AutoencoderConfig(code=8, middle=8, fine=8),
)


@pytest.fixture
def model() -> Interpolator:
    torch.manual_seed(0)
    return Interpolator(SMALL).eval()


def smooth_texture(height: int, width: int, shift_px: float) -> torch.Tensor:
    """Waves of several lengths, moved right: B3HW with B = 1."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)) - shift_px, indexing="ij")
    waves = [torch.sin(x / a + y / b + c) for a, b, c in ((3.1, 4.7, 0), (5.3, -3.9, 1), (9.7, 8.1, 2), (-4.3, 2.9, 3))]
    return torch.stack([0.5 + 0.12 * sum(waves), 0.5 + 0.2 * waves[0], 0.5 + 0.2 * waves[3] * waves[2]])[None]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 21), (1, 7)])
def test_any_size_and_any_times(model: Interpolator, height: int, width: int) -> None:
    first, second = torch.rand(2, 2, 3, height, width)
    out = model(first, second, torch.tensor([[0.1, 0.5, 0.9], [1 / 3, 2 / 3, 1.0]]))
    assert out.shape == (2, 3, 3, height, width)
    assert out.isfinite().all()


@pytest.mark.parametrize("shift_px", [8.0, 12.0])
def test_untrained_it_follows_a_texture_to_any_time(model: Interpolator, shift_px: float) -> None:
    model.combine = "light"
    first, second = smooth_texture(96, 96, 0), smooth_texture(96, 96, shift_px)
    for time in (1 / 3, 0.8):
        truth, inner = smooth_texture(96, 96, shift_px * time), (..., slice(24, 72), slice(32, 64))
        out = model(first, second, torch.tensor([[time]]))[:, 0]
        blend = torch.lerp(first, second, time)
        error, of_blend = ((each - truth)[inner].square().mean() for each in (out, blend))
        assert error < 0.2 * of_blend


def test_training_reaches_every_parameter(model: Interpolator) -> None:
    model.combine = "blend"
    first, second = torch.rand(2, 1, 3, 32, 32)
    for _ in range(2):  # the outputs' layers start at zero, and let nothing through before they have moved
        for each in model.parameters():
            each.grad = None
        features = model.encode(first, second)
        view = model.motion.view(features.pair, torch.tensor([0.3]))
        loss = sum(each.square().mean() for each in view.motion.levels) + model.light(view).square().mean()
        (loss + model.gan(view)[0].square().mean()).backward()
        with torch.no_grad():
            for each in model.parameters():
                each -= 0.1 * each.grad.sign() * (each.grad != 0)
    assert all(each.grad is not None and each.grad.isfinite().all() for each in model.parameters())


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_equal_frames_stay_as_they_are(model: Interpolator, combine: Combine) -> None:
    model.combine = combine
    frame = torch.rand(1, 3, 24, 24)
    torch.testing.assert_close(model(frame, frame, torch.tensor([[0.4]]))[:, 0], frame, atol=2e-2, rtol=0)


def test_the_ways_to_combine() -> None:
    gan, light = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.52)
    torch.testing.assert_close(combined("blend", gan, light), (gan + light) / 2)
    torch.testing.assert_close(combined("frequency", gan, light), light)
    torch.testing.assert_close(combined("fallback", gan, light), gan)
    light = light + 0.2
    torch.testing.assert_close(combined("fallback", gan, light), light)


def test_one_pass_over_the_pair_serves_every_time(model: Interpolator) -> None:
    first, second = torch.rand(2, 1, 3, 16, 16)
    features = model.encode(first, second)
    together = model(first, second, torch.tensor([[0.25, 0.75]]))
    for index, time in enumerate((0.25, 0.75)):
        torch.testing.assert_close(model.synthesize(features, torch.tensor([time])), together[:, index])


def test_weights_come_back_as_fp16(model: Interpolator, tmp_path: Path) -> None:
    save_interpolator(model, tmp_path)
    loaded = load_interpolator(tmp_path)
    assert loaded.config == SMALL
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor.half().float())


def test_weights_that_do_not_fit_are_listed(model: Interpolator, tmp_path: Path) -> None:
    save_interpolator(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["motion.pyramid.stem.bias"]
    state["stray"] = torch.zeros(1)
    state["light.out.bias"] = torch.zeros(4)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_interpolator(tmp_path)
    message = str(caught.value)
    for part in ("missing motion.pyramid.stem.bias", "unexpected stray", "light.out.bias is (4,), should be (16,)"):
        assert part in message


def test_broken_files_are_weights_errors(model: Interpolator, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        load_interpolator(tmp_path)
    save_interpolator(model, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_interpolator(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load_interpolator(tmp_path)


def test_default_size_fits_the_budget() -> None:
    assert sum(each.numel() for each in Interpolator(InterpolatorConfig()).parameters()) <= 870_000
