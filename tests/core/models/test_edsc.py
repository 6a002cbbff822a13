"""The EDSC operator against closed forms."""

import pytest
import torch
import torch.nn.functional as F

from magicvideo_core.models import edsc as edsc_module
from magicvideo_core.models.edsc import SideKernels, edsc, sample_taps, tap_positions


def kernels(
    batch: int, taps: int, height: int, width: int, seed: int, dtype: torch.dtype = torch.float32
) -> SideKernels:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return SideKernels(
        draw(batch, taps, height, width),
        draw(batch, taps, height, width),
        draw(batch, taps**2, height, width).sigmoid(),
        draw(batch, 2, taps**2, height, width),
    )


def plain(vertical: torch.Tensor, horizontal: torch.Tensor) -> SideKernels:
    """No offsets, no masks: what is left is separable convolution."""
    batch, taps, height, width = vertical.shape
    ones = torch.ones(batch, taps**2, height, width)
    return SideKernels(vertical, horizontal, ones, torch.zeros(batch, 2, taps**2, height, width))


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_without_offsets_and_masks_it_is_separable_convolution(taps: int) -> None:
    image = torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    side = kernels(2, taps, 9, 12, 1)
    vertical, horizontal = side.vertical_BKHW, side.horizontal_BKHW
    patches = F.unfold(F.pad(image, [taps // 2] * 4, mode="replicate"), taps).view(2, 3, taps, taps, 9, 12)
    expected = (patches * vertical[:, None, :, None] * horizontal[:, None, None, :]).sum(dim=(2, 3))
    zero = plain(torch.zeros_like(vertical), torch.zeros_like(horizontal))
    torch.testing.assert_close(edsc(image, image, (plain(vertical, horizontal), zero)), expected, atol=1e-5, rtol=1e-5)


def test_one_tap_with_whole_offsets_shifts_the_image_and_clamps_at_the_border() -> None:
    image = torch.rand(1, 3, 6, 7)
    offsets = torch.zeros(1, 2, 1, 6, 7)
    offsets[:, 0], offsets[:, 1] = 2, -1
    shifted = sample_taps(image, torch.ones(1, 1, 6, 7), offsets)
    ys, xs = (torch.arange(6) - 1).clamp(0, 5), (torch.arange(7) + 2).clamp(0, 6)
    torch.testing.assert_close(shifted, image[:, :, ys][:, :, :, xs], atol=1e-5, rtol=0)


def test_half_offsets_average_two_pixels() -> None:
    image = torch.rand(1, 1, 5, 5)
    offsets = torch.zeros(1, 2, 1, 5, 5)
    offsets[:, 0] = 0.5
    sampled = sample_taps(image, torch.ones(1, 1, 5, 5), offsets)
    torch.testing.assert_close(sampled[..., :4], (image[..., :4] + image[..., 1:]) / 2, atol=1e-5, rtol=0)


def test_sides_and_bias_are_summed() -> None:
    first, second, bias = torch.rand(3, 1, 3, 8, 8)
    left, right = kernels(1, 3, 8, 8, 2), kernels(1, 3, 8, 8, 3)
    expected = bias + sample_taps(first, left.weights_BNHW(), left.offsets_B2NHW)
    expected = expected + sample_taps(second, right.weights_BNHW(), right.offsets_B2NHW)
    torch.testing.assert_close(edsc(first, second, (left, right), bias), expected)


def test_taps_in_several_calls_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    image, side = torch.rand(2, 3, 8, 8), kernels(2, 3, 8, 8, 4)
    together = sample_taps(image, side.weights_BNHW(), side.offsets_B2NHW)
    monkeypatch.setattr(edsc_module, "MAX_POSITIONS_PER_CALL", 2 * 2 * 8 * 8)
    torch.testing.assert_close(sample_taps(image, side.weights_BNHW(), side.offsets_B2NHW), together)


def test_tap_grid_is_centred_row_by_row() -> None:
    assert tap_positions(3).T.tolist()[:4] == [[-1, -1], [0, -1], [1, -1], [-1, 0]]
    assert tap_positions(1).tolist() == [[0], [0]]


def test_gradients() -> None:
    images = [torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    side = kernels(1, 2, 4, 4, 5, torch.float64)
    # Bilinear sampling has kinks at whole positions: stay away from them. An even tap count starts at half positions.
    offsets = (side.offsets_B2NHW * 0.1).clamp(-0.3, 0.3)
    inputs = [side.vertical_BKHW, side.horizontal_BKHW, side.mask_BNHW, offsets]
    leaves = [each.detach().requires_grad_() for each in inputs]

    def run(first: torch.Tensor, second: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        one = SideKernels(*values)
        return edsc(first, second, (one, one))

    assert torch.autograd.gradcheck(run, (*images, *leaves))
