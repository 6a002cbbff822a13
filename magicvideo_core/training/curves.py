"""Draws the curves of a training log as one SVG: what every line of `log.jsonl` measured, over the steps."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 640, 150, 70, 30, 45
_COLOURS = ("#3366cc", "#cc5533", "#339955", "#884499", "#bb8800", "#3399aa")
_NO_METRIC = ("step", "elapsed_s")


def write_curves(output: Path) -> Path | None:
    """Write loss.svg beside `output`/log.jsonl, one plot for every metric there; None where nothing was logged."""
    lines = read_log(output)
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in _NO_METRIC]
    if not names:
        return None
    height = _TOP + len(names) * (_HEIGHT + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + _LEFT + 20}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for index, name in enumerate(names):
        # A training that continued from a checkpoint has some steps twice: the later ones count.
        points = {line["step"]: line[name] for line in lines if math.isfinite(line.get(name, math.nan))}
        top = _TOP + index * (_HEIGHT + _GAP)
        parts += _plot(name, sorted(points.items()), top, _COLOURS[index % len(_COLOURS)])
    target = output / "loss.svg"
    target.write_text("\n".join([*parts, "</svg>"]) + "\n")
    return target


def read_log(output: Path) -> list[dict[str, float]]:
    """The lines of `output`/log.jsonl; one that was cut off is left out."""
    path = output / "log.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def _plot(name: str, points: Sequence[tuple[float, float]], top: int, colour: str) -> list[str]:
    """One metric in its own frame; losses and norms, which are above zero, on a logarithmic axis."""
    if not points:
        return []
    is_log = min(value for _, value in points) > 0 and not name.startswith("psnr") and "_psnr" not in name
    values = [math.log10(value) if is_log else value for _, value in points]
    low, high = min(values), max(values)
    span = high - low or 1.0
    first, last = points[0][0], points[-1][0]

    def at(step: float, value: float) -> str:
        x = _LEFT + _WIDTH * (step - first) / max(last - first, 1)
        return f"{x:.1f},{top + _HEIGHT - _HEIGHT * (value - low) / span:.1f}"

    line = " ".join(at(step, value) for (step, _), value in zip(points, values, strict=True))
    original = [value for _, value in points]
    return [
        f'<text x="{_LEFT}" y="{top - 8}" font-weight="bold">{escape(name)}{" (log)" if is_log else ""}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#bbb"/>',
        f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end">{max(original):.4g}</text>',
        f'<text x="{_LEFT - 6}" y="{top + _HEIGHT}" text-anchor="end">{min(original):.4g}</text>',
        f'<text x="{_LEFT}" y="{top + _HEIGHT + 15}">{first:g}</text>',
        f'<text x="{_LEFT + _WIDTH}" y="{top + _HEIGHT + 15}" text-anchor="end">step {last:g}, now {original[-1]:.4g}</text>',
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>',
    ]
