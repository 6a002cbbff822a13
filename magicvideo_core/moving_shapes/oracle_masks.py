"""Oracle, first half: what is background, which palette colours are there, and which pixels belong to which object.

Shape suffixes: N sampled frames, H rows, W columns, C channels, P pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicvideo_core.moving_shapes.world import BACKGROUNDS, COLOURS, DARK_FACTOR

BACKGROUND_TOLERANCE = 30.0
COLOUR_TOLERANCE = 50.0
_FOREGROUND_DISTANCE = 60.0
_MIN_OBJECT_AREA = 0.003
_VOTING_PIXELS = 6000

_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_NAMES = tuple(COLOURS)


@dataclass(frozen=True, slots=True)
class SeenBackground:
    """The background that the border of the frames shows, and whether it is clean enough to count."""

    rgb: np.ndarray
    name: str
    clean: bool


@dataclass(frozen=True, slots=True)
class SeenColour:
    """One palette colour found on the foreground: its share of it, and whether its light part is near the palette."""

    name: str
    share: float
    clean: bool


def see_background(frames_NHWC: np.ndarray) -> SeenBackground:
    """The background from the border ring, which no object of this world can fill."""
    width = max(1, frames_NHWC.shape[1] // 32)
    ring_NPC = np.concatenate(
        [
            frames_NHWC[:, :width].reshape(len(frames_NHWC), -1, 3),
            frames_NHWC[:, -width:].reshape(len(frames_NHWC), -1, 3),
            frames_NHWC[:, width:-width, :width].reshape(len(frames_NHWC), -1, 3),
            frames_NHWC[:, width:-width, -width:].reshape(len(frames_NHWC), -1, 3),
        ],
        axis=1,
    )
    rgb = np.median(ring_NPC.reshape(-1, 3), axis=0).astype(np.float32)
    distances = {name: float(np.linalg.norm(rgb - np.array(value))) for name, value in BACKGROUNDS.items()}
    name = min(distances, key=lambda each: distances[each])
    near = (
        np.linalg.norm(ring_NPC - np.array(BACKGROUNDS[name], dtype=np.float32), axis=-1) < 1.5 * BACKGROUND_TOLERANCE
    )
    clean = distances[name] <= BACKGROUND_TOLERANCE and float(near.mean(axis=1).min()) >= 0.8
    return SeenBackground(rgb, name, clean)


def see_colours(frames_NHWC: np.ndarray, background_rgb: np.ndarray) -> list[SeenColour]:
    """The palette colours of the foreground, the most frequent first; empty where there is next to no foreground.

    A pixel votes for the colour whose line from full light to the dark of a texture it lies nearest to.
    """
    distance_NHW = np.linalg.norm(frames_NHWC - background_rgb, axis=-1)
    foreground_PC = frames_NHWC[distance_NHW > _FOREGROUND_DISTANCE]
    if len(foreground_PC) < _MIN_OBJECT_AREA * distance_NHW.size:
        return []
    pixels_PC = foreground_PC[:: max(1, len(foreground_PC) // _VOTING_PIXELS)]
    light = (pixels_PC @ _PALETTE.T) / (_PALETTE**2).sum(axis=1)
    residual = np.linalg.norm(pixels_PC[:, None] - np.clip(light, DARK_FACTOR, 1.0)[..., None] * _PALETTE, axis=-1)
    nearest = residual.argmin(axis=1)
    votes = residual.min(axis=1) < COLOUR_TOLERANCE
    seen = []
    for index, name in enumerate(_NAMES):
        mine = votes & (nearest == index)
        share = float(mine.mean())
        clean = False
        if mine.any():
            # The lightest tenth: with stripes two pixels wide hardly more of the object shows its full colour.
            bright = mine & (light[:, index] >= np.quantile(light[mine, index], 0.9))
            off = np.linalg.norm(np.median(pixels_PC[bright], axis=0) - _PALETTE[index])
            clean = float(off) <= 0.9 * COLOUR_TOLERANCE
        seen.append(SeenColour(name, share, clean))
    return sorted((each for each in seen if each.share > 0), key=lambda each: -each.share)


def object_masks(frames_NHWC: np.ndarray, background_rgb: np.ndarray, colours: list[str]) -> list[np.ndarray]:
    """One bool NHW mask per colour; every foreground pixel belongs to exactly one of them, strangers included.

    Dark texture parts may nearly match the background: they count where they are close to a light part.
    """
    distance_NHW = np.linalg.norm(frames_NHWC - background_rgb, axis=-1)
    light_rgb = [np.array(COLOURS[name], dtype=np.float32) for name in colours]
    reach = [float(np.linalg.norm(rgb - background_rgb)) for rgb in light_rgb]
    foreground = distance_NHW > min(0.5 * min(reach), 100.0)
    near_light = _dilate(foreground, max(1, round(5 / 128 * frames_NHWC.shape[1])))
    for rgb in light_rgb:
        dark = np.linalg.norm(frames_NHWC - DARK_FACTOR * rgb, axis=-1) < distance_NHW
        foreground = foreground | (dark & near_light)
    if len(colours) == 1:
        return [foreground]
    own = [_distance_to_object(frames_NHWC[foreground], rgb, background_rgb) for rgb in light_rgb]
    owner = np.full(foreground.shape, -1)
    owner[foreground] = np.stack(own).argmin(axis=0)
    return [owner == index for index in range(len(colours))]


def _distance_to_object(pixels_PC: np.ndarray, light_rgb: np.ndarray, background_rgb: np.ndarray) -> np.ndarray:
    """Distance of each pixel to what such an object can show: light to dark, and either mixed with background."""
    dark_rgb = DARK_FACTOR * light_rgb
    segments = ((light_rgb, dark_rgb), (background_rgb, light_rgb), (background_rgb, dark_rgb))
    best = np.full(len(pixels_PC), np.inf, dtype=np.float32)
    for start, end in segments:
        along = (pixels_PC - start) @ (end - start) / max(float(((end - start) ** 2).sum()), 1e-6)
        nearest = start + np.clip(along, 0, 1)[..., None] * (end - start)
        best = np.minimum(best, np.linalg.norm(pixels_PC - nearest, axis=-1))
    return best


def _dilate(mask_NHW: np.ndarray, steps: int) -> np.ndarray:
    for axis in (1, 2):
        grown = mask_NHW.copy()
        for shift in range(1, steps + 1):
            ahead = [slice(None)] * 3
            behind = [slice(None)] * 3
            ahead[axis], behind[axis] = slice(shift, None), slice(None, -shift)
            grown[tuple(ahead)] |= mask_NHW[tuple(behind)]
            grown[tuple(behind)] |= mask_NHW[tuple(ahead)]
        mask_NHW = grown
    return mask_NHW


def fill(mask_NHW: np.ndarray) -> np.ndarray:
    """Fill what is enclosed from all four sides; no notch of the five shapes is, at any angle."""
    filled = mask_NHW
    for axis in (1, 2):
        before = np.maximum.accumulate(mask_NHW, axis=axis)
        after = np.flip(np.maximum.accumulate(np.flip(mask_NHW, axis), axis=axis), axis)
        filled = before & after if axis == 1 else filled & before & after
    return filled | mask_NHW


def components(mask_HW: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The largest 4-connected blob as a mask, and the areas of all blobs, largest first (runs joined by union-find)."""
    padded = np.zeros((mask_HW.shape[0], mask_HW.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask_HW
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    row_list, start_list, end_list = rows.tolist(), starts.tolist(), ends.tolist()
    above = 0
    for run, row in enumerate(row_list):
        while row_list[above] < row - 1 or (row_list[above] == row - 1 and end_list[above] <= start_list[run]):
            above += 1
        other = above
        while row_list[other] == row - 1 and start_list[other] < end_list[run]:
            parent[root(other)] = root(run)
            other += 1
    areas: dict[int, int] = {}
    for run in range(len(parent)):
        areas[root(run)] = areas.get(root(run), 0) + end_list[run] - start_list[run]
    if not areas:
        return mask_HW, []
    largest = max(areas, key=lambda each: areas[each])
    blob = np.zeros_like(mask_HW)
    for run in range(len(parent)):
        if root(run) == largest:
            blob[row_list[run], start_list[run] : end_list[run]] = True
    return blob, sorted(areas.values(), reverse=True)
