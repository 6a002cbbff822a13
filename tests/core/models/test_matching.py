"""Comparing frames: warps, windows of likeness with their gradient, and Gauss-Newton steps."""

import torch

from magicvideo_core.models.matching import gauss_newton_step, local_correlation, warp
from magicvideo_core.models.proposals import best_match


def test_a_warp_by_whole_pixels_is_a_shift() -> None:
    image = torch.rand(1, 2, 6, 7)
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 6, 7)
    for mode in ("bilinear", "bicubic"):
        torch.testing.assert_close(warp(image, flow, mode)[:, :, 2:, :4], image[:, :, 1:-1, 2:6], atol=1e-5, rtol=0)


def test_the_likeness_of_a_displacement_is_where_it_belongs() -> None:
    torch.manual_seed(0)
    wide = torch.rand(1, 8, 12, 12) - 0.5
    # What lies at x in the first lies at x + (2, -1) in the second.
    first, second = wide[:, :, 2:10, 3:11], wide[:, :, 3:11, 1:9]
    likeness = local_correlation(first, second, 3)
    row, column = 3 - 1, 3 + 2
    inner = likeness[:, :, 2:-2, 2:-2]
    assert (inner.argmax(1) == row * 7 + column).all()
    found = best_match(inner)
    torch.testing.assert_close(found[:, 0].mean(), torch.tensor(2.0), atol=0.05, rtol=0)
    torch.testing.assert_close(found[:, 1].mean(), torch.tensor(-1.0), atol=0.05, rtol=0)


def test_the_gradient_of_likeness() -> None:
    torch.manual_seed(0)
    first, second = (torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda a, b: local_correlation(a, b, 2), (first, second))


def test_a_gauss_newton_step_finds_part_of_a_pixel() -> None:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")

    def at(dx: float, dy: float) -> torch.Tensor:
        u, v = x - dx, y - dy
        return torch.stack([torch.sin(u / 2 + v / 3), torch.cos(v / 2 - u / 4), torch.sin(u / 3)])[None] * 0.3 + 0.5

    step, trust = gauss_newton_step(at(0, 0), at(0.4, -0.3), torch.full((1, 1, 1, 1), 0.5))
    torch.testing.assert_close(step[0, :, 4:-4, 4:-4].mean((1, 2)), torch.tensor([0.4, -0.3]), atol=0.03, rtol=0)
    assert (trust[:, 0, 4:-4, 4:-4] > 0.5).all()
    step, _ = gauss_newton_step(torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), torch.full((1, 1, 1, 1), 0.5))
    assert (step == 0).all()
