"""Motions that much of a frame has: affine, fitted to matches or to the frames' spectrum, then to the frames themselves.

The dominant one is a camera's motion, or the background's, the second one that of the largest thing before it. Where matches
are ambiguous (what repeats, what has no texture along its motion) they are the best guesses. Nothing is trained.

Shape suffixes as in `matching`; P six parameters, N places. Motion is in places of the 1/4 grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from magicvideo_core.models.matching import (
    Sides,
    brought_together,
    gradients_between,
    mostly_textured,
    window_mean,
)

# Reweightings of the fit to the matches, the first half of them towards the median; then steps on the frames.
FITS, STEPS = 8, 3
# A match this far from the fit (places of 1/4) and a place whose frames differ by so much (0..1) count half.
MATCH_TOLERANCE, COLOUR_TOLERANCE = 0.5, 0.05
# The spectrum is searched for shifts of up to so many pixels; two of them are at least so far apart.
MAX_SHIFT_PX, BETWEEN_PEAKS_PX = 32, 3
# Spectral amplitudes below this share of the mean power are noise.
SPECTRAL_NOISE = 1e-2
# A motion is judged at 1/2: a place whose frames differ by so much (0..1) along it is half explained. A shift replaces the
# fit to the matches where it leaves so much less of the frame unexplained (a part).
JUDGED_TOLERANCE, SHIFT_BETTER_BY = 0.02, 0.95


def coherent_motions(
    frames: Sides, quarters: Sides, matches_B2HW: list[torch.Tensor], time_B111: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine motion that most of the frame has, and the largest other one: B2HW each, like the `quarters` at 1/4.

    The matches are at 1/8, in places of 1/4. The second motion is of use only where it explains the frames better.
    Where most of the frame is flat its spectrum says little: only the matches count, and both motions are the same one.
    """
    height, width = quarters[0].shape[-2:]
    everywhere = torch.ones_like(quarters[0][:, :1])
    fitted = _refined(quarters, _fitted(matches_B2HW), everywhere, time_B111)
    # 1. Two shifts of the spectrum, each refined on the places that it explains better than the other one does.
    shifts = [F.pad(peak[:, :, None] / 4, (0, 2)) for peak in shift_peaks(*frames)]
    apart = [window_mean(_apart(quarters, each, time_B111), 5) for each in shifts]
    owned = (apart[0] < apart[1]).float(), (apart[1] < apart[0]).float()
    shifts = [_refined(quarters, each, own, time_B111) for each, own in zip(shifts, owned, strict=True)]
    # 2. The dominant motion leaves the least of the frame unexplained.
    halves = F.avg_pool2d(frames[0], 2), F.avg_pool2d(frames[1], 2)
    unexplained = [_unexplained(halves, each, time_B111) for each in (fitted, *shifts)]
    first_is_better = unexplained[1] <= unexplained[2]
    shift = torch.where(first_is_better[:, None, None], shifts[0], shifts[1])
    textured = mostly_textured(halves[0]).flatten()
    better = textured & (torch.minimum(unexplained[1], unexplained[2]) < SHIFT_BETTER_BY * unexplained[0])
    dominant = torch.where(better[:, None, None], shift, fitted)
    # 3. The other one is the shift further from it, refined where it explains more.
    away = [(each - dominant)[:, :, 0].square().sum(1) for each in shifts]
    second = torch.where((away[0] > away[1])[:, None, None], shifts[0], shifts[1])
    apart = [window_mean(_apart(quarters, each, time_B111), 5) for each in (second, dominant)]
    second = _refined(quarters, second, (apart[0] < apart[1]).float(), time_B111)
    second = torch.where(textured[:, None, None], second, dominant)
    return _field(dominant, height, width), _field(second, height, width)


def shift_peaks(first_BCHW: torch.Tensor, second_BCHW: torch.Tensor) -> list[torch.Tensor]:
    """The two shifts (x, y) in whole pixels that the frames' spectra agree on most, the best one first: B2 each.

    Phase correlation (Kuglin and Hines 1975): the whole frame is one window, so that what nearly repeats is told apart.
    """
    height, width = first_BCHW.shape[-2:]
    device = first_BCHW.device
    window = torch.outer(
        torch.hann_window(height, False, device=device), torch.hann_window(width, False, device=device)
    ).sqrt()
    frames = first_BCHW.float(), second_BCHW.float()
    first, second = (torch.fft.rfft2((each - each.mean((2, 3), keepdim=True)) * window) for each in frames)
    cross = (first.conj() * second).sum(1)
    power = (first.abs().square() + second.abs().square()).sum(1).mean((1, 2), keepdim=True)
    cross = cross / (cross.abs() + SPECTRAL_NOISE * power + 1e-12)
    agreement = torch.fft.fftshift(torch.fft.irfft2(cross, s=(height, width)), dim=(1, 2))
    ys = torch.arange(height, device=device)[:, None] - height // 2
    xs = torch.arange(width, device=device) - width // 2
    agreement = agreement.masked_fill((ys.abs() > MAX_SHIFT_PX) | (xs.abs() > MAX_SHIFT_PX), -1)
    peaks = []
    for _ in range(2):
        index = agreement.flatten(1).argmax(1)[:, None, None]
        y, x = index // width - height // 2, index % width - width // 2
        peaks.append(torch.cat([x, y], dim=1)[:, :, 0].float())
        near = ((ys - y).abs() <= BETWEEN_PEAKS_PX) & ((xs - x).abs() <= BETWEEN_PEAKS_PX)
        agreement = agreement.masked_fill(near, -1)
    return peaks


def _field(parameters_B23: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return (parameters_B23 @ _basis(height, width, parameters_B23)).unflatten(2, (height, width))


def _apart(frames: Sides, parameters_B23: torch.Tensor, time_B111: torch.Tensor) -> torch.Tensor:
    """How far apart both frames are along the motion, mean of the colours: B1HW."""
    motion = _field(parameters_B23, *frames[0].shape[-2:])
    first, second = brought_together(frames, motion, time_B111)
    return (second - first).abs().mean(1, keepdim=True)


def _unexplained(halves: Sides, parameters_B23: torch.Tensor, time_B111: torch.Tensor) -> torch.Tensor:
    """How much of the frames at 1/2 the motion leaves unexplained, 0..1: B."""
    apart = _apart(halves, 2 * parameters_B23, time_B111)
    return (apart / (apart + JUDGED_TOLERANCE)).mean((1, 2, 3))


def _refined(
    frames: Sides, parameters_B23: torch.Tensor, weight_B1HW: torch.Tensor, time_B111: torch.Tensor
) -> torch.Tensor:
    """The affine motion after Gauss-Newton steps on the frames, by the places that count."""
    height, width = frames[0].shape[-2:]
    basis_3N = _basis(height, width, weight_B1HW)
    for _ in range(STEPS):
        motion = (parameters_B23 @ basis_3N).unflatten(2, (height, width))
        first, second = brought_together(frames, motion, time_B111)
        residual = second - first
        gx, gy = gradients_between(first, second, time_B111)
        apart = residual.abs().mean(1, keepdim=True)
        weight = weight_B1HW / (1 + (apart / COLOUR_TOLERANCE).square())
        slopes_B2CN = torch.stack([gx, gy], dim=1).flatten(3)
        jacobian_BPCN = (slopes_B2CN[:, :, None] * basis_3N[:, None]).flatten(1, 2)
        weighted = jacobian_BPCN * weight.flatten(2)[:, None]
        normal = torch.einsum("bpcn,bqcn->bpq", weighted, jacobian_BPCN)
        pull = torch.einsum("bpcn,bcn->bp", weighted, residual.flatten(2))
        step = _solved(normal, -pull[:, :, None])
        parameters_B23 = parameters_B23 + step.view(-1, 2, 3).clamp(-1, 1)
    return parameters_B23


def _fitted(matches_B2HW: list[torch.Tensor]) -> torch.Tensor:
    """Parameters B23 of the affine motion that the matches have in common: least squares, reweighted."""
    height, width = matches_B2HW[0].shape[-2:]
    basis_3N = _basis(height, width, matches_B2HW[0]).repeat(1, len(matches_B2HW))
    motion_B2N = torch.cat([each.flatten(2) for each in matches_B2HW], dim=2)
    weight = torch.ones_like(motion_B2N[:, :1])
    parameters = motion_B2N.new_zeros(len(motion_B2N), 2, 3)
    for index in range(FITS):
        weighted = basis_3N * weight
        normal = weighted @ basis_3N.T
        parameters = _solved(normal, weighted @ motion_B2N.transpose(1, 2)).transpose(1, 2)
        squared = (motion_B2N - parameters @ basis_3N).square().sum(1, keepdim=True) + MATCH_TOLERANCE**2
        weight = 1 / (squared.sqrt() if index < FITS // 2 else squared)
    return parameters


def _basis(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """1, x and y of every place: x and y from -1 to 1."""
    x = (torch.arange(width, device=like.device) + 0.5) * (2 / width) - 1
    y = (torch.arange(height, device=like.device) + 0.5) * (2 / height) - 1
    rows = torch.stack(
        [torch.ones(height, width, device=like.device), x.expand(height, width), y[:, None].expand(height, width)]
    )
    return rows.flatten(1)


def _solved(normal_BPP: torch.Tensor, right_BPN: torch.Tensor) -> torch.Tensor:
    """The solution of damped normal equations: what nothing tells stays as it was."""
    size = normal_BPP.shape[-1]
    scale = normal_BPP.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    damping = (1e-3 * scale + 1e-6) * torch.eye(size, device=normal_BPP.device)
    return torch.linalg.solve(normal_BPP + damping, right_BPN)
