"""Motion between two frames as seen at a time between them, estimated coarse to fine.

Motion V is what moves through a pixel at time t: what is seen at x was at x - t V in the first frame and will be at
x + (1 - t) V in the second. One field serves both sides, also where one of the frames hides the place. Its unit is pixels
of full resolution from frame to frame, at every level.

Shape suffixes as in `matching`. Frames are float32 in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from magicvideo_core.models.dominant import coherent_motions
from magicvideo_core.models.layers import behind
from magicvideo_core.models.matching import (
    Sides,
    both_ways,
    brought_together,
    gauss_newton_step,
    local_correlation,
    warp,
    window_mean,
)
from magicvideo_core.models.proposals import (
    CANDIDATE_WINDOWS,
    TEXTURE_CHANNELS,
    WIDE_RADIUS,
    best_match,
    choose,
    coarse_candidates,
    settled,
    stay_inside,
    texture_of,
)
from magicvideo_core.models.pyramid import FeaturePyramid, ResidualBlock

# The level at 1/4 corrects the estimate by what it sees within this many of its own pixels, twice.
SEARCH_RADIUS = 3
REPEATS = 2
# Gauss-Newton steps at full resolution.
FINE_STEPS = 2


@dataclass(frozen=True, slots=True)
class MotionConfig:
    """Widths: of the features at 1/2, 1/4 and 1/8, and of the levels that estimate the motion there."""

    widths: tuple[int, int, int] = (24, 32, 48)
    fine: int = 32
    middle: int = 48
    coarse: int = 48

    @property
    def alignment(self) -> int:
        """Both sides of a frame are padded to a multiple of this many pixels."""
        return int(2 ** len(self.widths))


def zero(layer: nn.Conv2d) -> None:
    """Make a layer put out nothing until it has been trained."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def nearness(time: torch.Tensor) -> torch.Tensor:
    """Logit of time t: the second frame's share where nothing else is known of who shows what is seen."""
    return torch.logit(time, eps=1e-3)


@dataclass(frozen=True, slots=True)
class PairPyramid:
    """What is known of a pair before a time is asked for.

    `sides`: of the first and the second frame, what a level at 1/2 and at 1/4 looks at: the small frame, its texture (at 1/4
    alone) and its features, stacked along the channels. `coarse_motion_B2HW` and `coarse_hidden_BCHW`: the motion at 1/8, as
    seen half-way; `chosen_motion_B2HW`: at 1/4, what explains the frames best of it and of what it was made from;
    `dominant_motion_B2HW`: at 1/4, what most of the frame has.
    """

    first_BCHW: torch.Tensor
    second_BCHW: torch.Tensor
    halves: tuple[torch.Tensor, torch.Tensor]
    quarters: tuple[torch.Tensor, torch.Tensor]
    eighths: tuple[torch.Tensor, torch.Tensor]
    coarse_motion_B2HW: torch.Tensor
    chosen_motion_B2HW: torch.Tensor
    dominant_motion_B2HW: torch.Tensor
    coarse_hidden_BCHW: torch.Tensor

    def quarter_features(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The trained features of both frames at 1/4."""
        return self.quarters[0][:, 3 + TEXTURE_CHANNELS :], self.quarters[1][:, 3 + TEXTURE_CHANNELS :]


@dataclass(frozen=True, slots=True)
class Motion:
    """Motion at time t, and the decoder's features at half resolution.

    `bend_B2HW`: how far the path leaves the straight line between its ends at time t (what turns or speeds up does).
    `unseen_B2HW`: 1 where the first frame alone, and where the second frame alone hides what is seen.
    `levels`: the motion as each level had it, from the coarsest to full resolution.
    """

    motion_B2HW: torch.Tensor
    bend_B2HW: torch.Tensor
    unseen_B2HW: torch.Tensor
    hidden_BCHW: torch.Tensor
    levels: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class View:
    """Both frames of a padded pair as they look at time t, and how they were brought there."""

    pair: PairPyramid
    time_B111: torch.Tensor
    motion: Motion
    first_BCHW: torch.Tensor
    second_BCHW: torch.Tensor

    def folded(self) -> torch.Tensor:
        """Both frames and how they differ, four pixels at a time: 28 channels at half resolution."""
        apart = (self.second_BCHW - self.first_BCHW).abs().mean(1, keepdim=True)
        return F.pixel_unshuffle(torch.cat([self.first_BCHW, self.second_BCHW, apart], dim=1), 2)

    def features(self, sides: Sides, scale: int) -> Sides:
        """Features of both frames at 1/scale, brought to time t."""
        motion = F.avg_pool2d(self.motion.motion_B2HW, scale) / scale
        return brought_together(sides, motion, self.time_B111)


def _start_at_proposal(head: nn.Conv2d, first: int, stop: int | None = None) -> None:
    """No correction, and much belief in what is proposed: untrained, the estimate is block matching and Gauss-Newton steps."""
    zero(head)
    with torch.no_grad():
        assert head.bias is not None
        head.bias[first:stop] = 3.5


class Level(nn.Module):
    """Mixes what it is shown and says how the motion changes: a correction of its own and a share in a proposed one."""

    def __init__(self, shown: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(shown, width, 1)
        self.blocks = nn.ModuleList([ResidualBlock(width, dilation=2), ResidualBlock(width)])
        self.out = nn.Conv2d(width, 3, 3, padding=1)
        _start_at_proposal(self.out, 2)

    def forward(self, shown_BCHW: torch.Tensor, proposal_B2HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The change of motion in this level's pixels, B2HW, and features for the next level."""
        hidden = self.mix(shown_BCHW)
        for block in self.blocks:
            hidden = block(hidden)
        raw = self.out(F.leaky_relu(hidden, 0.1)).float()
        return 4 * raw[:, :2] + raw[:, 2:].sigmoid() * proposal_B2HW, hidden


class MotionEstimator(nn.Module):
    """Pyramid and coarse motion once per pair (`encode`), the motion seen at a time once per time (`estimate`).

    No gradient runs from one level's estimate into the next one's view: each level is taught by its own error.
    """

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        self.config = config
        self.pyramid = FeaturePyramid(config.widths)
        window, wide = (2 * SEARCH_RADIUS + 1) ** 2, (2 * WIDE_RADIUS + 1) ** 2
        self.coarse = Level(wide + 2 * config.widths[2] + 3 * len(CANDIDATE_WINDOWS), config.coarse)
        self.widen = nn.Conv2d(config.coarse, config.middle, 1)
        self.middle = Level(2 * window + 2 * config.widths[1] + config.middle + 2 + 2 + 1, config.middle)
        self.narrow = nn.Conv2d(config.middle, config.fine, 1)
        self.fine_in = nn.Conv2d(2 * config.widths[0] + config.fine + 2 + 2 + 1, config.fine, 3, padding=1)
        self.fine_block = ResidualBlock(config.fine)
        self.fine_out = nn.Conv2d(config.fine, 3, 3, padding=1)
        # Of every full-resolution pixel: change of motion, belief in the last Gauss-Newton step, and the path's curvature.
        self.sharpen = nn.Conv2d(config.fine, 4 * (2 + 1 + 2), 3, padding=1)
        _start_at_proposal(self.fine_out, 2)
        _start_at_proposal(self.sharpen, 8, 12)

    def encode(self, first_BCHW: torch.Tensor, second_BCHW: torch.Tensor) -> PairPyramid:
        """What does not depend on time, of frames whose sides are multiples of `config.alignment`."""
        both = torch.cat([first_BCHW, second_BCHW])
        half, quarter, eighth = self.pyramid(both)
        small = F.avg_pool2d(both, 2)
        texture = texture_of(both)
        halves = _two(torch.cat([small, half.float()], dim=1))
        quarters = _two(torch.cat([F.avg_pool2d(small, 2), texture, quarter.float()], dim=1))
        eighths = _two(eighth)
        # Coarse motion: the textures of both frames compared over a wide range. The level sees how alike they are and the
        # best matches by windows of three sizes. At 1/4 the frame's dominant motion goes on, unless its second one, this
        # level, one of the matches or standing still explains a place clearly better.
        with torch.no_grad():
            likeness, matches = coarse_candidates(_two(texture))
        # The map that was compared has places of 4 pixels, this level of 8.
        change, hidden = self.coarse(torch.cat([likeness, *eighths, *matches], dim=1), matches[1][:, :2] / 2)
        with torch.no_grad(), torch.autocast(small.device.type, enabled=False):
            frames = _two(F.avg_pool2d(small, 2))
            half_way = torch.full((1, 1, 1, 1), 0.5, device=small.device)
            moves = [each[:, :2] for each in matches]
            guesses = [2 * change.float(), *moves, torch.zeros_like(moves[0])]
            guesses = [F.interpolate(each, scale_factor=2.0, mode="nearest") for each in guesses]
            dominant, second = coherent_motions((first_BCHW, second_BCHW), frames, moves, half_way)
            chosen = choose(frames, [dominant, second, *guesses], half_way)
        return PairPyramid(
            first_BCHW, second_BCHW, halves, quarters, eighths, 8 * change, 4 * chosen, 4 * dominant, hidden
        )

    def estimate(self, pair: PairPyramid, interp_time_B: torch.Tensor) -> Motion:
        """Motion at time t of each pair, coarse to fine."""
        time = interp_time_B[:, None, None, None]
        levels, hidden = self.estimate_quarter(pair, interp_time_B)
        # 1. At 1/2, where what moves over the background loses what is seen of that beside it.
        motion = 4 * _settled(pair.quarters, levels[-1].detach() / 4, time)
        motion, hidden = _twice(motion), _twice(hidden)
        with torch.no_grad():
            frames = pair.halves[0][:, :3], pair.halves[1][:, :3]
            motion, unseen = behind(frames, motion / 2, _twice(pair.dominant_motion_B2HW) / 2, time)
            motion = 2 * motion
        first, second, step, trust = self._look(pair.halves, motion / 2, time)
        constant = time.expand(-1, 1, *motion.shape[-2:])
        shown = torch.cat([first, second, self.narrow(hidden), step, trust, constant], dim=1)
        hidden = self.fine_block(self.fine_in(shown))
        raw = self.fine_out(F.leaky_relu(hidden, 0.1)).float()
        inside = stay_inside(both_ways(motion / 2, time), 2)
        motion = motion + 2 * inside * (raw[:, :2] + raw[:, 2:].sigmoid() * step)
        levels.append(motion)
        # 2. At full resolution: what half resolution says of each of its four pixels, and steps on the frames.
        fine = F.pixel_shuffle(self.sharpen(F.leaky_relu(hidden, 0.1)).float(), 2)
        inside = F.interpolate(inside, scale_factor=2.0, mode="nearest")
        motion = _twice(motion) + inside * fine[:, :2]
        for _ in range(FINE_STEPS):
            with torch.no_grad():
                first, second = brought_together((pair.first_BCHW, pair.second_BCHW), motion, time)
                step, _ = gauss_newton_step(first, second, time)
            motion = motion + inside * fine[:, 2:3].sigmoid() * step
        unseen = F.interpolate(unseen, scale_factor=2.0, mode="nearest")
        return Motion(motion, time * (1 - time) * fine[:, 3:], unseen, hidden, (*levels, motion))

    def estimate_quarter(
        self, pair: PairPyramid, interp_time_B: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Motion at 1/8 and, improved twice, at 1/4; and features at 1/4."""
        time = interp_time_B[:, None, None, None]
        levels = [pair.coarse_motion_B2HW]
        motion, hidden = pair.chosen_motion_B2HW, _twice(self.widen(pair.coarse_hidden_BCHW))
        constant = time.expand(-1, 1, *motion.shape[-2:])
        for _ in range(REPEATS):
            motion = 4 * _settled(pair.quarters, motion.detach() / 4, time)
            first, second, step, trust = self._look(pair.quarters, motion / 4, time)
            with torch.no_grad():
                textures = first[:, :TEXTURE_CHANNELS], second[:, :TEXTURE_CHANNELS]
                likeness = window_mean(local_correlation(*textures, SEARCH_RADIUS), 3)
                match = best_match(window_mean(likeness, 3))[:, :2]
                # The step is good for less than a pixel; before that, the search is.
                proposal = torch.where(match.abs().amax(1, keepdim=True) < 1, step, match)
            first, second = first[:, TEXTURE_CHANNELS:], second[:, TEXTURE_CHANNELS:]
            correlation = local_correlation(first, second, SEARCH_RADIUS)
            shown = torch.cat([likeness, correlation, first, second, hidden, proposal, trust, constant], dim=1)
            change, hidden = self.middle(shown, proposal)
            motion = motion + 4 * change
            levels.append(motion)
        return levels, hidden

    def view(self, pair: PairPyramid, interp_time_B: torch.Tensor) -> View:
        """Both frames at time t. Bicubic, since a bilinear warp blurs by the fraction of a pixel.

        What one of them hides is taken from the other one.
        """
        time, motion = interp_time_B[:, None, None, None], self.estimate(pair, interp_time_B)
        to_first, to_second = both_ways(motion.motion_B2HW, time)
        first = warp(pair.first_BCHW, to_first - motion.bend_B2HW, "bicubic")
        second = warp(pair.second_BCHW, to_second - motion.bend_B2HW, "bicubic")
        only_first, only_second = motion.unseen_B2HW[:, 1:] > 0.5, motion.unseen_B2HW[:, :1] > 0.5
        first, second = torch.where(only_second, second, first), torch.where(only_first, first, second)
        return View(pair, time, motion, first, second)

    def _look(
        self, sides: Sides, motion_B2HW: torch.Tensor, time_B111: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Both sides at time t without their small frames, and the Gauss-Newton step of these."""
        first, second = brought_together(sides, motion_B2HW, time_B111)
        with torch.no_grad():
            step, trust = gauss_newton_step(first[:, :3], second[:, :3], time_B111)
        return first[:, 3:], second[:, 3:], step, trust


def _twice(x_BCHW: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)


def _two(both_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first and the second frames' half of a batch."""
    first, second = both_BCHW.chunk(2)
    return first, second


def _settled(sides: Sides, motion_B2HW: torch.Tensor, time_B111: torch.Tensor) -> torch.Tensor:
    """`settled` on the small frames that head both sides."""
    with torch.no_grad():
        return settled((sides[0][:, :3], sides[1][:, :3]), motion_B2HW, time_B111)
