"""The motion that most of a frame has: one affine motion fitted to matches, then to the frames themselves; nothing is trained.

A camera's motion, or the background's. Where matches are ambiguous (what repeats, what has no texture along its motion) it is
the best guess, and where it explains the frames no other is needed.

Shape suffixes as in `matching`; P six parameters, N places. Motion is in places of the 1/4 grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from magicvideo_core.models.matching import gradients, warp

# Reweightings of the fit to the matches, the first half of them towards the median; then steps on the frames.
FITS, STEPS = 8, 3
# A match this far from the fit (places of 1/4) and a place whose frames differ by so much (0..1) count half.
MATCH_TOLERANCE, COLOUR_TOLERANCE = 0.5, 0.05


def dominant_motion(
    frames: tuple[torch.Tensor, torch.Tensor],
    matches_B2HW: list[torch.Tensor],
    weight_B1HW: torch.Tensor,
    time_B111: torch.Tensor,
) -> torch.Tensor:
    """The affine motion of the places that count by `weight_B1HW`: B2HW at 1/4, like the frames and the weight.

    The matches are at 1/8, in places of 1/4.
    """
    height, width = frames[0].shape[-2:]
    basis_3N = _basis(height, width, weight_B1HW)
    parameters_B23 = _fitted(matches_B2HW, F.avg_pool2d(weight_B1HW, 2))
    for _ in range(STEPS):
        motion = (parameters_B23 @ basis_3N).unflatten(2, (height, width))
        first, second = warp(frames[0], -time_B111 * motion), warp(frames[1], (1 - time_B111) * motion)
        residual = second - first
        gx, gy = (torch.lerp(b, a, time_B111) for a, b in zip(gradients(first), gradients(second), strict=True))
        apart = residual.abs().mean(1, keepdim=True)
        weight = weight_B1HW / (1 + (apart / COLOUR_TOLERANCE).square())
        slopes_B2CN = torch.stack([gx, gy], dim=1).flatten(3)
        jacobian_BPCN = (slopes_B2CN[:, :, None] * basis_3N[:, None]).flatten(1, 2)
        weighted = jacobian_BPCN * weight.flatten(2)[:, None]
        normal = torch.einsum("bpcn,bqcn->bpq", weighted, jacobian_BPCN)
        pull = torch.einsum("bpcn,bcn->bp", weighted, residual.flatten(2))
        step = _solved(normal, -pull[:, :, None])
        parameters_B23 = parameters_B23 + step.view(-1, 2, 3).clamp(-1, 1)
    return (parameters_B23 @ basis_3N).unflatten(2, (height, width))


def _fitted(matches_B2HW: list[torch.Tensor], weight_B1HW: torch.Tensor) -> torch.Tensor:
    """Parameters B23 of the affine motion that the matches have in common: least squares, reweighted."""
    height, width = weight_B1HW.shape[-2:]
    basis_3N = _basis(height, width, weight_B1HW).repeat(1, len(matches_B2HW))
    motion_B2N = torch.cat([each.flatten(2) for each in matches_B2HW], dim=2)
    place_B1N = weight_B1HW.flatten(2).repeat(1, 1, len(matches_B2HW))
    weight, parameters = place_B1N, motion_B2N.new_zeros(len(motion_B2N), 2, 3)
    for index in range(FITS):
        weighted = basis_3N * weight
        normal = weighted @ basis_3N.T
        parameters = _solved(normal, weighted @ motion_B2N.transpose(1, 2)).transpose(1, 2)
        squared = (motion_B2N - parameters @ basis_3N).square().sum(1, keepdim=True) + MATCH_TOLERANCE**2
        weight = place_B1N / (squared.sqrt() if index < FITS // 2 else squared)
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
