"""Shares with their intervals as a small SVG, written by hand: rows down, series within a row, 0 to 100 % across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito: to be told apart by colour-blind readers too.
_COLOURS = ("#999999", "#0072b2", "#e69f00", "#d55e00", "#009e73")
_WIDTH_PX, _LEFT_PX, _RIGHT_PX, _SERIES_PX, _GAP_PX, _TITLE_PX = 720, 170, 60, 13, 9, 34
_SCALE_PX = _WIDTH_PX - _LEFT_PX - _RIGHT_PX


@dataclass(frozen=True, slots=True)
class Mark:
    """One share (0..1) with its interval; `series` is an index into the series' names."""

    series: int
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One part of the plot: a heading, and rows of a name and its marks."""

    title: str
    rows: Sequence[tuple[str, Sequence[Mark]]]


def interval_plot(title: str, series: Sequence[str], panels: Sequence[Panel]) -> str:
    """Return the SVG: a dot per mark on the line of its interval, the figure beside it."""
    parts: list[str] = []
    top = _TITLE_PX
    parts.append(_text(12, 22, title, size=15, weight=600))
    if len(series) > 1:
        top += 6
        left = 12.0
        for index, name in enumerate(series):
            colour = _COLOURS[index % len(_COLOURS)]
            parts.append(f'<circle cx="{left + 4:.0f}" cy="{top}" r="4" fill="{colour}"/>')
            parts.append(_text(left + 13, top + 4, name))
            left += 30 + 6.4 * len(name)
        top += 14
    for panel in panels:
        top = _draw(panel, parts, top)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH_PX}" height="{top + 10}" '
        f'viewBox="0 0 {_WIDTH_PX} {top + 10}" font-family="system-ui, sans-serif" font-size="12" fill="#222">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _draw(panel: Panel, parts: list[str], top: int) -> int:
    parts.append(_text(12, top + 16, panel.title, weight=600))
    top += 24
    height = sum(_row_px(marks) for _, marks in panel.rows)
    for percent in (0, 25, 50, 75, 100):
        x = _x(percent / 100)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + height}" stroke="#ddd"/>')
        parts.append(_text(x, top + height + 13, f"{percent} %", anchor="middle", size=10))
    for name, marks in panel.rows:
        middle = top + _row_px(marks) / 2
        parts.append(_text(_LEFT_PX - 10, middle + 4, name, anchor="end"))
        for position, mark in enumerate(marks):
            y = top + _GAP_PX / 2 + (position + 0.5) * _SERIES_PX
            colour = _COLOURS[mark.series % len(_COLOURS)]
            parts.append(
                f'<line x1="{_x(mark.low):.1f}" y1="{y:.1f}" x2="{_x(mark.high):.1f}" y2="{y:.1f}" '
                f'stroke="{colour}" stroke-width="2"/><circle cx="{_x(mark.share):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
            )
            parts.append(_text(_WIDTH_PX - _RIGHT_PX + 12, y + 4, f"{100 * mark.share:.0f} %", size=10))
        top += _row_px(marks)
    return top + 22


def _row_px(marks: Sequence[Mark]) -> int:
    return max(len(marks), 1) * _SERIES_PX + _GAP_PX


def _x(share: float) -> float:
    return _LEFT_PX + _SCALE_PX * share


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )
