"""Procedural grey textures: smooth and fractal noise, gradients, stripes, checks, dots, speckle, patches; some held out.

Every texture is a float32 field (S, S) of about 0..1 on a grid of texels. Nothing in one is finer than about five texels a
period, and every edge is a ramp of about two: interpolated between the texels, a field is a continuous image that can be
sampled at any sub-pixel position without aliasing, at two texels a pixel or coarser patterns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

# Width of the ramp that stands for a hard edge, in texels.
EDGE_TEXELS = 2.5


def draw_fields(generator: torch.Generator, families: tuple[str, ...], count: int, texels: int) -> torch.Tensor:
    """`count` textures (N, S, S), each of a family drawn from `families` (names in `FAMILIES` or `HELD_OUT_FAMILIES`)."""
    known = {**FAMILIES, **HELD_OUT_FAMILIES}
    chosen = torch.randint(len(families), (count,), generator=generator).tolist()
    return torch.stack([known[families[index]](generator, texels) for index in chosen])


# ---- randomness and grids ---------------------------------------------------------------------------------------------


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number, uniform in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """One number whose logarithm is uniform."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def _turned_grid(generator: torch.Generator, texels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two perpendicular coordinates in texels (S, S), turned and shifted at random."""
    angle = uniform(generator, 0, math.pi)
    line = torch.arange(texels, dtype=torch.float32)
    x, y = line[None, :] - uniform(generator, 0, texels), line[:, None] - uniform(generator, 0, texels)
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _edge(distance: torch.Tensor) -> torch.Tensor:
    """Soft step from 0 to 1 across distance 0 (texels)."""
    return (0.5 + distance / EDGE_TEXELS).clamp(0, 1)


def _shaped_noise(
    generator: torch.Generator, texels: int, gain: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """White noise shaped by `gain` of the frequency (cycles a texel), mean 0, standard deviation 1; periodic."""
    spectrum = torch.fft.rfft2(torch.randn(texels, texels, generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(texels)[:, None], torch.fft.rfftfreq(texels)[None, :])
    # The roll-off ends well above five texels a period.
    shaped = spectrum * gain(frequency.clamp(min=1 / texels)) * torch.exp(-((frequency / 0.17) ** 4))
    shaped[0, 0] = 0
    field = torch.fft.irfft2(shaped, s=(texels, texels))
    return field / field.std().clamp(min=1e-6)


def _fractal(generator: torch.Generator, texels: int, exponent: float) -> torch.Tensor:
    return _shaped_noise(generator, texels, lambda frequency: frequency**-exponent)


def _steepest(noise: torch.Tensor) -> torch.Tensor:
    """About the greatest slope of a noise, a texel: divided by it, the noise is a distance in texels or more."""
    return 2 * torch.stack(torch.gradient(noise)).norm(dim=0).square().mean().sqrt()


# ---- families of the training -----------------------------------------------------------------------------------------


def plain(generator: torch.Generator, texels: int) -> torch.Tensor:
    return torch.full((texels, texels), uniform(generator, 0, 1))


def band_noise(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Noise of about one scale, 6 to 48 texels a period."""
    centre = 1 / log_uniform(generator, 6, 48)
    width = uniform(generator, 0.3, 0.8)
    return 0.5 + 0.25 * _shaped_noise(
        generator, texels, lambda frequency: torch.exp(-((frequency / centre).log() ** 2) / (2 * width * width))
    )


def fractal_noise(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Noise with an amplitude that falls as frequency ** -0.8 to -2: natural images lie about -1."""
    return 0.5 + 0.25 * _fractal(generator, texels, uniform(generator, 0.8, 2.0))


def gradient(generator: torch.Generator, texels: int) -> torch.Tensor:
    """A linear or a bent ramp over the texture."""
    u, v = _turned_grid(generator, texels)
    length = texels * uniform(generator, 0.5, 1.5)
    return 0.5 + 0.5 * torch.sin(u / length * 2 + uniform(generator, 0, 1.5) * (v / texels) ** 2)


def stripes(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Straight stripes, sinusoidal or hard, 8 to 80 texels a period."""
    u, _ = _turned_grid(generator, texels)
    period = log_uniform(generator, 8, 80)
    wave = torch.sin(u * (2 * math.pi / period))
    if uniform(generator, 0, 1) < 0.4:
        return 0.5 + 0.5 * wave
    return _edge((wave + uniform(generator, -0.4, 0.4)) * period / (2 * math.pi))


def checks(generator: torch.Generator, texels: int) -> torch.Tensor:
    """A chequered pattern, 10 to 80 texels a period along either side."""
    u, v = _turned_grid(generator, texels)
    a, b = log_uniform(generator, 10, 80), log_uniform(generator, 10, 80)
    first, second = (_edge(torch.sin(w * (2 * math.pi / p)) * p / (2 * math.pi)) for w, p in ((u, a), (v, b)))
    return first + second - 2 * first * second


def dots(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Discs on a grid, pitch 10 to 64 texels."""
    u, v = _turned_grid(generator, texels)
    pitch = log_uniform(generator, 10, 64)
    x, y = (torch.remainder(each, pitch) - pitch / 2 for each in (u, v))
    return _edge(pitch * uniform(generator, 0.2, 0.42) - torch.hypot(x, y))


def speckle(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Sparse blots with clear outlines: noise of one scale above a threshold."""
    period = log_uniform(generator, 8, 40)
    noise = _shaped_noise(generator, texels, lambda frequency: torch.exp(-((frequency * period - 1) ** 2)))
    return _edge((noise - uniform(generator, 0.0, 1.5)) / _steepest(noise))


def patches(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Flat areas of a few shades with winding outlines: fractal noise in steps."""
    noise = _fractal(generator, texels, uniform(generator, 1.6, 2.4))
    levels = torch.linspace(-1.2, 1.2, 2 + int(uniform(generator, 0, 4)))
    shades = torch.randn(len(levels), generator=generator) * 0.35
    return 0.5 + sum(
        shade * _edge((noise - level) / _steepest(noise)) for level, shade in zip(levels, shades, strict=True)
    )


# ---- families that no training sees -----------------------------------------------------------------------------------


def cells(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Random polygons side by side (a Voronoi diagram), each of one shade that darkens toward its border."""
    pitch = uniform(generator, 24, 48)
    per_side = math.ceil(texels / pitch) + 4
    # One point a square, near its middle or not: the two nearest are within two squares.
    points = torch.rand(per_side, per_side, 2, generator=generator)
    shades = torch.rand(per_side, per_side, generator=generator)
    line = torch.arange(texels, dtype=torch.float32) / pitch + 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    row, column = y.long(), x.long()
    nearest, second = torch.full_like(x, math.inf), torch.full_like(x, math.inf)
    shade = torch.zeros_like(x)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            offset = points[row + dy, column + dx]
            distance = torch.hypot(column + dx + offset[..., 0] - x, row + dy + offset[..., 1] - y)
            closer = distance < nearest
            second = torch.where(closer, nearest, torch.minimum(second, distance))
            shade = torch.where(closer, shades[row + dy, column + dx], shade)
            nearest = torch.minimum(nearest, distance)
    border = (second - nearest) * (pitch / 2)
    # Dark along the border, so that the change of shade there is no jump.
    return shade * _edge(border - EDGE_TEXELS) * (0.6 + 0.4 * (border / pitch * 2).clamp(0, 1))


def marble(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Veins: a wave whose phase fractal noise bends."""
    u, _ = _turned_grid(generator, texels)
    bend = _fractal(generator, texels, 1.8) * uniform(generator, 1.5, 3.0)
    return 0.5 + 0.5 * torch.sin(u * (2 * math.pi / uniform(generator, 30, 90)) + bend)


def bricks(generator: torch.Generator, texels: int) -> torch.Tensor:
    """Courses of bricks, every brick of its own shade, light joints, a grain over all."""
    u, v = _turned_grid(generator, texels)
    height = uniform(generator, 14, 30)
    length = height * uniform(generator, 1.6, 2.8)
    course = torch.floor(v / height)
    along = u + course * length * 0.5
    shades = torch.rand(257, generator=generator)
    shade = shades[((torch.floor(along / length) * 31 + course * 17) % 257).long()]
    x, y = (size / 2 - (torch.remainder(w, size) - size / 2).abs() for w, size in ((along, length), (v, height)))
    inside = _edge(torch.minimum(x, y) - 2.5)
    grain = 0.06 * _fractal(generator, texels, 1.0)
    return 0.95 + inside * (0.7 * shade + grain - 0.95)


FAMILIES: dict[str, Callable[[torch.Generator, int], torch.Tensor]] = {
    "plain": plain,
    "band_noise": band_noise,
    "fractal_noise": fractal_noise,
    "gradient": gradient,
    "stripes": stripes,
    "checks": checks,
    "dots": dots,
    "speckle": speckle,
    "patches": patches,
}
HELD_OUT_FAMILIES: dict[str, Callable[[torch.Generator, int], torch.Tensor]] = {
    "cells": cells,
    "marble": marble,
    "bricks": bricks,
}
# Noise twice: it is what tells a motion, and what natural images are most like.
TRAINING_FAMILIES = (*FAMILIES, "band_noise", "fractal_noise", "fractal_noise")
