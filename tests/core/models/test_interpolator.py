"""The interpolator: shapes, times, flat regions, and strict weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from magicvideo_core.errors import WeightsError
from magicvideo_core.models.interpolator import (
    Interpolator,
    InterpolatorConfig,
    load_interpolator,
    save_interpolator,
)

SMALL = InterpolatorConfig(num_taps=3, widths=(8, 8, 8), head_channels=8)


@pytest.fixture
def model() -> Interpolator:
    torch.manual_seed(0)
    return Interpolator(SMALL).eval()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 21), (1, 7)])
def test_any_size_and_any_times(model: Interpolator, height: int, width: int) -> None:
    first, second = torch.rand(2, 2, 3, height, width)
    out = model(first, second, torch.tensor([[0.1, 0.5, 0.9], [1 / 3, 2 / 3, 1.0]]))
    assert out.shape == (2, 3, 3, height, width)
    assert out.isfinite().all()


def test_untrained_it_averages_and_training_moves_every_parameter(model: Interpolator) -> None:
    first, second = torch.rand(2, 1, 3, 16, 16)
    torch.testing.assert_close(
        model(first, second, torch.tensor([[0.5]]))[:, 0], (first + second) / 2, atol=0.2, rtol=0
    )
    model(first, second, torch.tensor([[0.3]])).square().mean().backward()
    assert all(each.grad is not None for each in model.parameters())


def test_flat_regions_keep_their_colour_whatever_the_kernels(model: Interpolator) -> None:
    with torch.no_grad():
        for head in (model.first_head, model.second_head):
            head.out.weight.normal_()
    flat = torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    out = model(flat, flat, torch.tensor([[0.4]]))[:, 0]
    torch.testing.assert_close(out, flat, atol=1e-4, rtol=0)


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
    del state["trunk.stem.bias"]
    state["stray"] = torch.zeros(1)
    state["bias.bias"] = torch.zeros(4)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_interpolator(tmp_path)
    message = str(caught.value)
    for part in ("missing trunk.stem.bias", "unexpected stray", "bias.bias is (4,), should be (3,)"):
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
    assert sum(each.numel() for each in Interpolator(InterpolatorConfig()).parameters()) <= 700_000
