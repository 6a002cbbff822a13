"""Candidates for the motion: a repeating texture, the frame's dominant motion with an object in it, and the choice."""

import torch

from magicvideo_core.models.dominant import coherent_motions, shift_peaks
from magicvideo_core.models.matching import warp
from magicvideo_core.models.motion import MotionConfig, MotionEstimator
from magicvideo_core.models.proposals import best_match, choose, coarse_candidates, texture_of

HALF_WAY = torch.full((1, 1, 1, 1), 0.5)


def stripes_over_patches(shift_px: int) -> torch.Tensor:
    """Stripes with a period of 12 pixels, which only fainter patches of 24 pixels tell from one another: 1, 3, 256, 256."""
    patches = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    patches = torch.nn.functional.interpolate(patches, size=(336, 336), mode="nearest")
    stripes = (torch.arange(336) % 12 < 4).float().expand(1, 3, 336, 336)
    return (0.5 * stripes + 0.3 * patches)[:, :, 40:296, 40 - shift_px : 296 - shift_px]


def test_larger_windows_see_through_what_repeats() -> None:
    textures = [texture_of(stripes_over_patches(shift)) for shift in (0, 16)]
    _, matches = coarse_candidates((textures[0], textures[1]))
    wrong = [float(((each[:, 0] - 4).abs() > 0.5).float()[:, 8:-8, 8:-8].mean()) for each in matches]
    assert wrong[2] < 0.1 and wrong[2] <= wrong[1] <= wrong[0]


def test_of_several_equal_matches_one_is_taken_and_not_their_mean() -> None:
    likeness = torch.zeros(1, 49, 1, 1)
    likeness[:, 3 * 7 + 0] = likeness[:, 3 * 7 + 6] = 1
    assert abs(float(best_match(likeness)[0, 0])) > 2.5


def test_the_dominant_motion_is_the_backgrounds_and_exact_enough() -> None:
    torch.manual_seed(0)
    background = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), size=(64, 64), mode="bicubic")
    # Half a turn of a degree and a shift, in pixels of this grid; seen half-way.
    y, x = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    motion = torch.stack([2.5 - 0.05 * y, -1 + 0.05 * x])[None]
    first, second = warp(background, 0.5 * motion, "bicubic"), warp(background, -0.5 * motion, "bicubic")
    # An object that moves otherwise, and matches a third of which say something else.
    for frame, left in ((first, 30), (second, 22)):
        frame[:, :, 30:50, left : left + 20] = 0.9
    matches = torch.nn.functional.avg_pool2d(motion, 2)
    matches = torch.where(torch.rand(1, 1, 32, 32) < 0.35, torch.tensor([-6.0, 5.0]).view(1, 2, 1, 1), matches)
    large = tuple(torch.nn.functional.interpolate(each, scale_factor=4.0) for each in (first, second))
    found, _ = coherent_motions(large, (first, second), [matches], HALF_WAY)
    assert float((found - motion).square().sum(1).sqrt().mean()) < 0.15


def over_background(time: float) -> torch.Tensor:
    """Noise that moves 12 pixels right and 8 down, and before it a square of other noise, 14 left: 1, 3, 128, 128."""
    back, front = (torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    right, down, left = round(12 * time), round(8 * time), round(14 * time)
    frame = back[:, :, 16 - down : 144 - down, 16 - right : 144 - right].clone()
    frame[:, :, 40:88, 50 - left : 98 - left] = front[:, :, :48, :48]
    return frame


def test_the_spectrum_knows_the_shifts_of_what_is_behind_and_before() -> None:
    frames = over_background(0), over_background(1)
    peaks = shift_peaks(*frames)
    assert sorted(each.tolist() for each in peaks) == [[[-14.0, 0.0]], [[12.0, 8.0]]]
    # Matches that say nothing are overruled, and the two motions told apart.
    quarters = tuple(torch.nn.functional.avg_pool2d(each, 4) for each in frames)
    matches = torch.zeros(1, 2, 16, 16)
    dominant, second = coherent_motions(frames, quarters, [matches], HALF_WAY)
    torch.testing.assert_close(4 * dominant.mean((0, 2, 3)), torch.tensor([12.0, 8.0]), atol=0.3, rtol=0)
    torch.testing.assert_close(
        4 * second[0, :, 10:22, 10:22].mean((1, 2)), torch.tensor([-14.0, 0.0]), atol=0.5, rtol=0
    )


def test_the_first_candidate_stays_unless_another_explains_clearly_more() -> None:
    torch.manual_seed(0)
    scene = torch.rand(1, 3, 24, 30)
    frames = scene[..., 3:27], scene[..., 1:25]
    right, wrong = torch.zeros(1, 2, 24, 24), torch.zeros(1, 2, 24, 24)
    right[:, 0] = 2
    chosen = choose(frames, [wrong, right], HALF_WAY)
    assert (chosen == right)[..., 6:-6, 6:-6].all()
    flat = torch.ones(1, 3, 24, 24), torch.ones(1, 3, 24, 24)
    assert (choose(flat, [wrong, right], HALF_WAY) == wrong).all()


def test_black_frames_have_no_motion() -> None:
    motion = MotionEstimator(MotionConfig(widths=(8, 8, 8), fine=8, middle=8, coarse=8)).eval()
    black = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        pair = motion.encode(black, black)
    assert torch.isfinite(pair.chosen_motion_B2HW).all() and float(pair.chosen_motion_B2HW.abs().max()) < 0.5
