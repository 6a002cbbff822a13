"""Oracle, second half: the outline of each object over time, measured by fitting the five templates.

Coordinates are canvas units (0..1, y down), angles clockwise radians; N sampled frames, H rows, W columns.
All five shapes have their circumcentre at the centroid, so a mask's moments give position and radius at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from magicvideo_core.moving_shapes.world import CROSS_HALF_WIDTH, STAR_INNER_RADIUS

_REACH = math.sqrt(1 - CROSS_HALF_WIDTH**2)
AREA = {
    "circle": math.pi,
    "square": 2.0,
    "triangle": 0.75 * math.sqrt(3),
    "star": 5 * STAR_INNER_RADIUS * math.sin(math.pi / 5),
    "cross": 8 * CROSS_HALF_WIDTH * _REACH - 4 * CROSS_HALF_WIDTH**2,
}
# Rotational symmetry (0: any), and where one corner lies at rotation 0.
SYMMETRY = {"circle": 0, "square": 4, "triangle": 3, "star": 5, "cross": 4}
_CORNER_ANGLE = {"square": math.pi / 4, "triangle": -math.pi / 2, "star": -math.pi / 2, "cross": 0.0}


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a template lies: circumcentre, circumradius and angle."""

    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True, slots=True)
class Blob:
    """Moments of one filled mask: area and centroid, and the outline's complex harmonics by rotational symmetry."""

    area: float
    x: float
    y: float
    reach: float
    harmonics: dict[int, complex]


def inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points, in units of the circumradius around the circumcentre, lie in the shape at rotation 0."""
    if shape == "circle":
        return x * x + y * y <= 1
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= math.sqrt(0.5)
    if shape == "triangle":
        return np.maximum(y, np.abs(x) * math.cos(math.pi / 6) - y * 0.5) <= 0.5
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        return (np.minimum(x, y) <= CROSS_HALF_WIDTH) & (np.maximum(x, y) <= _REACH)
    sector = math.pi / 5
    turn = np.abs(np.arctan2(x, -y))
    turn = np.abs((turn + sector) % (2 * sector) - sector)
    radius = np.sqrt(x * x + y * y)
    ex, ey = STAR_INNER_RADIUS * math.cos(sector) - 1.0, STAR_INNER_RADIUS * math.sin(sector)
    return (radius * np.cos(turn) - 1.0) * ey - radius * np.sin(turn) * ex <= 0


def measure(mask_HW: np.ndarray) -> Blob | None:
    """Moments of one mask (already one filled blob); None where it is empty."""
    rows, columns = np.nonzero(mask_HW)
    if len(rows) < 4:
        return None
    size = mask_HW.shape[0]
    x, y = (columns + 0.5) / size, (rows + 0.5) / size
    cx, cy = float(x.mean()), float(y.mean())
    offset = (x - cx) + 1j * (y - cy)
    squared = np.abs(offset) ** 2
    weight = squared**1.5
    harmonics = {}
    unit = offset / np.maximum(np.sqrt(squared), 1e-9)
    for order in (3, 4, 5):
        harmonics[order] = complex((weight * unit**order).sum() / max(float(weight.sum()), 1e-12))
    return Blob(len(rows) / size**2, cx, cy, float(np.sqrt(squared.max())), harmonics)


def moment_pose(shape: str, blob: Blob) -> Pose:
    """The template's pose from the moments alone."""
    order = SYMMETRY[shape]
    angle = 0.0
    if order:
        angle = math.remainder(np.angle(blob.harmonics[order]) / order - _CORNER_ANGLE[shape], 2 * math.pi / order)
    return Pose(blob.x, blob.y, math.sqrt(blob.area / AREA[shape]), angle)


def intersection_over_union(shape: str, pose: Pose, mask_HW: np.ndarray, total_area: int) -> float:
    """IoU of the template with a mask whose area in pixels is `total_area`; only the template's box is looked at."""
    size = mask_HW.shape[0]
    left, right = span(pose.x, pose.radius, size)
    top, bottom = span(pose.y, pose.radius, size)
    x = ((np.arange(left, right, dtype=np.float32) + 0.5) / size - pose.x) / pose.radius
    y = ((np.arange(top, bottom, dtype=np.float32) + 0.5) / size - pose.y)[:, None] / pose.radius
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    template = inside(shape, x * cos + y * sin, y * cos - x * sin)
    overlap = int(np.count_nonzero(template & mask_HW[top:bottom, left:right]))
    # Parts of the template beyond the canvas count as missing.
    template_area = max(int(np.count_nonzero(template)), round(AREA[shape] * pose.radius**2 * size**2 * 0.9))
    return overlap / max(template_area + total_area - overlap, 1)


def span(centre: float, radius: float, size: int) -> tuple[int, int]:
    """The pixels of a canvas side that centre plus or minus radius covers: first, and one past the last."""
    return max(0, math.floor((centre - radius) * size)), min(size, math.ceil((centre + radius) * size) + 1)


def fit(shape: str, blob: Blob, mask_HW: np.ndarray, total_area: int) -> tuple[Pose, float]:
    """The template's best pose and IoU: from the moments, then a short descent over radius, position and angle."""
    best = moment_pose(shape, blob)
    score = intersection_over_union(shape, best, mask_HW, total_area)
    step = 0.75 / mask_HW.shape[0]
    turn = math.pi / SYMMETRY[shape] / 6 if SYMMETRY[shape] else 0.0
    for scale in (2.0, 1.0) if score < 0.9 else (1.0,):
        move = step * scale
        trials = (
            replace(best, x=best.x + move),
            replace(best, x=best.x - move),
            replace(best, y=best.y + move),
            replace(best, y=best.y - move),
            replace(best, radius=best.radius + move),
            replace(best, radius=max(best.radius - move, step)),
            *(
                (replace(best, angle=best.angle + turn * scale), replace(best, angle=best.angle - turn * scale))
                if turn
                else ()
            ),
        )
        for trial in trials:
            value = intersection_over_union(shape, trial, mask_HW, total_area)
            if value > score:
                best, score = trial, value
    return best, score


def turning(phases: np.ndarray, times_u: np.ndarray, order: int) -> tuple[float, float]:
    """Total rotation over the clip (clockwise radians) and how well a constant turn explains the phases (0..1).

    Args:
        phases: complex harmonics of order `order`, one per frame; their magnitude is their weight.
    """
    total = float(np.abs(phases).sum())
    if len(phases) < 3 or total < 1e-6:
        return 0.0, 0.0
    rates = np.linspace(-1.75 * math.pi, 1.75 * math.pi, 141)
    response = np.abs((phases[None] * np.exp(-1j * order * rates[:, None] * times_u[None])).sum(axis=1)) / total
    best = int(response.argmax())
    return float(rates[best]), float(response[best])


def line(values: np.ndarray, times_u: np.ndarray) -> tuple[float, float, float]:
    """Least-squares line over time: value at u = 0, value at u = 1, and share of the variance that it explains."""
    if len(values) < 2:
        return float(values[0]), float(values[0]), 1.0
    slope, start = np.polyfit(times_u, values, 1)
    spread = float(((values - values.mean()) ** 2).sum())
    rest = float(((values - (start + slope * times_u)) ** 2).sum())
    return float(start), float(start + slope), 1 - rest / spread if spread > 1e-12 else 1.0
