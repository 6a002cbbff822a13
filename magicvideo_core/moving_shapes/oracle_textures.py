"""Oracle: the texture of an object, by how well each pattern explains its light and dark, and how that pattern turns.

Coordinates are canvas units around the object's centre; `light` is brightness relative to the palette colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from magicvideo_core.moving_shapes.oracle_shapes import SYMMETRY, Pose, inside, span, turning
from magicvideo_core.moving_shapes.world import COLOURS, DARK_FACTOR, DOT_PITCH, DOT_RADIUS, STRIPE_PERIOD

MIN_CONTRAST = 0.5
MIN_EXPLAINED = 0.4
_NOMINAL = 1 - DARK_FACTOR
_RING_ANGLES = np.arange(36) * (math.pi / 36)


@dataclass(frozen=True, slots=True)
class Interior:
    """The pixels well inside an object: positions around its centre, light, and the canvas side in pixels."""

    x: np.ndarray
    y: np.ndarray
    light: np.ndarray
    pixels: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """How one texture fits: share of the light's variance explained, and contrast relative to the nominal one."""

    explained: float
    contrast: float


def fit_stripes(interior: Interior, angle: float) -> Pattern:
    """Stripes across direction `angle`, any phase: the first harmonic of the dark-light wave."""
    phase = 2 * math.pi / STRIPE_PERIOD * (interior.x * math.cos(angle) + interior.y * math.sin(angle))
    basis = np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase)], axis=1)
    weights, *_ = np.linalg.lstsq(basis, interior.light, rcond=None)
    amplitude = math.hypot(float(weights[1]), float(weights[2]))
    # A square wave between 1 and the dark factor has a first harmonic of 2/pi times its full swing.
    return Pattern(_explained(interior.light, basis @ weights), amplitude / (2 / math.pi * _NOMINAL))


def fit_dots(interior: Interior, angle: float) -> Pattern:
    """The dot grid at `angle`, any phase: the best of 5x5 shifts of the drawn pattern."""
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = interior.x * cos + interior.y * sin, interior.y * cos - interior.x * sin
    shifts = (np.arange(5) - 2) * (DOT_PITCH / 5)
    du = np.abs((u[None] + shifts[:, None]) % DOT_PITCH - DOT_PITCH / 2)
    dv = np.abs((v[None] + shifts[:, None]) % DOT_PITCH - DOT_PITCH / 2)
    distance = np.sqrt(du[:, None] ** 2 + dv[None] ** 2).reshape(25, -1)
    dark = np.clip(0.5 + (DOT_RADIUS - distance) * interior.pixels, 0, 1)
    dark -= dark.mean(axis=1, keepdims=True)
    light = interior.light - interior.light.mean()
    slope = (dark @ light) / np.maximum((dark**2).sum(axis=1), 1e-9)
    explained = slope**2 * (dark**2).sum(axis=1) / max(float((light**2).sum()), 1e-9)
    best = int(np.where(slope < 0, explained, 0).argmax())
    return Pattern(float(explained[best]) if slope[best] < 0 else 0.0, max(-float(slope[best]), 0.0) / _NOMINAL)


def _explained(values: np.ndarray, model: np.ndarray) -> float:
    spread = float(((values - values.mean()) ** 2).sum())
    return 1 - float(((values - model) ** 2).sum()) / spread if spread > 1e-9 else 0.0


def ring_power(interior: Interior, texture: str) -> np.ndarray:
    """Power of the light's spectrum at the texture's frequency, over 36 directions of a half turn."""
    frequency = 2 * math.pi / (STRIPE_PERIOD if texture == "striped" else DOT_PITCH)
    along = interior.x[None] * np.cos(_RING_ANGLES)[:, None] + interior.y[None] * np.sin(_RING_ANGLES)[:, None]
    light = interior.light - interior.light.mean()
    return np.abs(np.exp(-1j * (frequency * along).astype(np.float32)) @ light.astype(np.float32)) ** 2


def ring_phase(power: np.ndarray, texture: str) -> tuple[complex, int]:
    """The pattern's direction as a complex harmonic, and that harmonic's order (2 for stripes, 4 for dots)."""
    order = 2 if texture == "striped" else 4
    return complex((power * np.exp(1j * order * _RING_ANGLES)).sum() / max(float(power.sum()), 1e-9)), order


def strongest_direction(power: np.ndarray, texture: str) -> float:
    """The direction of the pattern's wave (modulo a half turn for stripes, a quarter turn for dots)."""
    if texture == "dotted":
        power = power + np.roll(power, 18)
    return float(_RING_ANGLES[int(power.argmax())])


def interior(frame_HWC: np.ndarray, shape: str, pose: Pose, colour: str) -> Interior:
    """The pixels of a fitted object at least 1.5 pixels inside its outline."""
    pixels = frame_HWC.shape[0]
    left, right = span(pose.x, pose.radius, pixels)
    top, bottom = span(pose.y, pose.radius, pixels)
    x, y = np.meshgrid(
        (np.arange(left, right) + 0.5) / pixels - pose.x, (np.arange(top, bottom) + 0.5) / pixels - pose.y
    )
    cos, sin = math.cos(pose.angle), math.sin(pose.angle)
    margin = (1.5 if pixels > 96 else 1.0) / pixels
    kept = np.ones_like(x, dtype=bool)
    for dx, dy in ((margin, 0), (-margin, 0), (0, margin), (0, -margin)):
        u, v = (x + dx) / pose.radius, (y + dy) / pose.radius
        kept &= inside(shape, u * cos + v * sin, v * cos - u * sin)
    rgb = np.array(COLOURS[colour], dtype=np.float32)
    light = frame_HWC[top:bottom, left:right] @ rgb / float(rgb @ rgb)
    return Interior(x[kept], y[kept], light[kept], pixels)


def see_texture(views: list[tuple[np.ndarray, Pose]], shape: str, colour: str) -> tuple[str, dict[str, float]]:
    """The texture of an object seen in some frames, and the contrast of each pattern relative to the nominal one.

    Args:
        views: (frame as float HWC, fitted pose of the shape) pairs.
    """
    explained: dict[str, list[float]] = {"striped": [], "dotted": []}
    contrast: dict[str, list[float]] = {"striped": [], "dotted": []}
    for frame_HWC, pose in views:
        part = interior(frame_HWC, shape, pose, colour)
        if len(part.light) < 12:
            continue
        for texture, fit_pattern in (("striped", fit_stripes), ("dotted", fit_dots)):
            fits = [fit_pattern(part, angle) for angle in _candidate_angles(part, shape, pose.angle, texture)]
            best = max(fits, key=lambda each: each.explained)
            explained[texture].append(best.explained)
            contrast[texture].append(best.contrast)
    if not explained["striped"]:
        return "none", {"striped": 0.0, "dotted": 0.0}
    means = {texture: float(np.mean(values)) for texture, values in explained.items()}
    contrasts = {texture: float(np.mean(values)) for texture, values in contrast.items()}
    strongest = max(means, key=lambda each: means[each])
    if contrasts[strongest] < MIN_CONTRAST or means[strongest] < MIN_EXPLAINED:
        return "none", contrasts
    return strongest, contrasts


def _candidate_angles(part: Interior, shape: str, angle: float, texture: str) -> list[float]:
    """The angles that the pattern may have: the outline fixes it up to its symmetry, a circle leaves it open."""
    half_turn = math.pi if texture == "striped" else math.pi / 2
    order = SYMMETRY[shape]
    if not order:
        return [strongest_direction(ring_power(part, texture), texture)]
    angles = [(angle + k * 2 * math.pi / order) % half_turn for k in range(order)]
    return list({round(each, 3) % round(half_turn, 3): each for each in angles}.values())


def texture_turn(
    views: list[tuple[np.ndarray, Pose]], colour: str, texture: str, times_u: np.ndarray
) -> tuple[float, float]:
    """How far a circle's pattern turns over the clip (clockwise radians), and how steadily (0..1)."""
    phases = []
    order = 2
    for frame_HWC, pose in views:
        phase, order = ring_phase(ring_power(interior(frame_HWC, "circle", pose, colour), texture), texture)
        phases.append(phase)
    return turning(np.array(phases), times_u, order)
