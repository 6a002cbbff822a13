"""What lies behind an object that moves: its motion, which frame shows it, and that flat frames say nothing of it."""

import torch

from magicvideo_core.models.layers import behind

HALF_WAY = torch.full((1, 1, 1, 1), 0.5)
SIDE, HALF = 64, 8


def scene(time: float) -> torch.Tensor:
    """A square of one noise that moves 16 places to the right over another noise that stands still: 1, 3, 64, 64."""
    back, front = (torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    left = 16 + round(16 * time)
    frame = back.clone()
    frame[:, :, 24:40, left : left + 16] = front[:, :, :16, :16]
    return frame


def motions() -> tuple[torch.Tensor, torch.Tensor]:
    """The motion that a window gives to the object, too wide by half of its own on either side, and the background's."""
    motion = torch.zeros(1, 2, SIDE, SIDE)
    motion[:, 0, 24:40, 24 - HALF : 40 + HALF] = 16
    return motion, torch.zeros(1, 2, SIDE, SIDE)


def test_what_is_seen_beside_an_object_gets_the_backgrounds_motion_and_keeps_the_objects() -> None:
    motion, _ = behind((scene(0), scene(1)), *motions(), HALF_WAY)
    rows = motion[0, 0, 26:38]
    left, right = rows[:, 24 - HALF + 1 : 23], rows[:, 41 : 40 + HALF - 1]
    assert (rows[:, 26:38] == 16).float().mean() > 0.85
    assert (left == 0).float().mean() > 0.85 and (right == 0).float().mean() > 0.85


def test_the_frame_that_shows_it_is_known() -> None:
    _, alone = behind((scene(0), scene(1)), *motions(), HALF_WAY)
    # Left of the object the first frame shows the object, right of it the second frame does.
    hidden_in_first, hidden_in_second = alone[0]
    assert hidden_in_first[26:38, 18:22].all() and hidden_in_second[26:38, 42:46].all()
    assert not hidden_in_first[:, 34:].any() and not hidden_in_second[:, :30].any()
    assert not alone[..., :20, :].any()


def test_flat_frames_and_a_whole_frame_in_motion_stay_as_they_are() -> None:
    motion, dominant = motions()
    flat = torch.full((1, 3, SIDE, SIDE), 0.3)
    same, alone = behind((flat, flat), motion, dominant, HALF_WAY)
    assert torch.equal(same, motion) and not alone.any()
    same, alone = behind((scene(0), scene(1)), dominant, dominant, HALF_WAY)
    assert torch.equal(same, dominant) and not alone.any()
