"""The report's plots as inline SVG without text: words stand beside them in HTML, so that they scale with the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from magicvideo_core.report.activity import Activity, Floats
from magicvideo_core.report.formats import format_count, format_seconds

TIMELINE_BINS = 240
HISTOGRAM_BINS = 30
_HEIGHT = 40
# Above the area: where clips failed, the redder the more.
_BAND = 7


@dataclass(frozen=True, slots=True)
class Timeline:
    """One stage over the run's working time: `svg`, and how many clips were in work at once at most, on average of a bin."""

    svg: str
    most_at_once: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Seconds per clip of one stage: `svg` from `low_s` to `high_s` (where the slowest hundredth begins), and quantiles."""

    svg: str
    low_s: float
    high_s: float
    median_s: float
    p95_s: float
    longest_s: float


def timeline(activity: Activity, stage: str) -> Timeline:
    """Return the clips in work over time as an area, red above it where clips failed, lines where a session ended."""
    in_work = activity.in_work(stage, TIMELINE_BINS)
    most = float(in_work.max(initial=0.0))
    heights = (_HEIGHT - _BAND - 2) * in_work / most if most else in_work
    tops = " ".join(f"L{x} {_short(_HEIGHT - h)} L{x + 1} {_short(_HEIGHT - h)}" for x, h in enumerate(heights))
    shapes = [f'<path class="area" d="M0 {_HEIGHT} {tops} L{TIMELINE_BINS} {_HEIGHT} Z"/>' if most else ""]
    failures = activity.failures(stage, TIMELINE_BINS)
    for x in np.flatnonzero(failures).tolist():
        strength = 0.3 + 0.7 * failures[x] / failures.max()
        shapes.append(f'<rect class="miss" x="{x}" y="0" width="1" height="{_BAND}" opacity="{strength:.2g}"/>')
    for at in _session_ends(activity.spans):
        shapes.append(f'<rect class="cut" x="{_short(at)}" y="0" width=".6" height="{_HEIGHT}"/>')
    return Timeline(_svg(TIMELINE_BINS, shapes, f"clips in work in {stage} over time"), most)


def histogram(seconds: Floats, stage: str) -> Histogram | None:
    """Return how the seconds of clips are distributed, None of no clips."""
    if not seconds.size:
        return None
    median, p95, high = (float(value) for value in np.quantile(seconds, (0.5, 0.95, 0.99)))
    low = float(seconds.min())
    if high <= low:
        high = low + max(low, 0.01) * 0.1
    # What is slower than the last hundredth would leave the rest a single bar.
    counts, edges = np.histogram(np.minimum(seconds, high), HISTOGRAM_BINS, (low, high))
    shapes = []
    for x, count in enumerate(counts.tolist()):
        if count:
            height = max(_HEIGHT * count / counts.max(), 0.8)
            words = f"{format_seconds(edges[x])} to {format_seconds(edges[x + 1])}: {format_count(count)}"
            shapes.append(
                f'<rect class="bar" x="{x + 0.06:g}" y="{_short(_HEIGHT - height)}" width=".88" height="{_short(height)}">'
                f"<title>{words}</title></rect>"
            )
    at = HISTOGRAM_BINS * (median - low) / (high - low)
    shapes.append(f'<rect class="mark" x="{_short(at - 0.08)}" y="0" width=".16" height="{_HEIGHT}"/>')
    svg = _svg(HISTOGRAM_BINS, shapes, f"seconds per clip in {stage}")
    return Histogram(svg, low, high, median, p95, float(seconds.max()))


def _session_ends(spans: Sequence[tuple[float, float]]) -> list[float]:
    """Return where one span ends and the next begins, in bins."""
    lengths = np.array([end - start for start, end in spans])
    return (np.cumsum(lengths)[:-1] / lengths.sum() * TIMELINE_BINS).tolist() if lengths.sum() else []


def _svg(width: int, shapes: Sequence[str], label: str) -> str:
    body = "".join(shapes)
    return (
        f'<svg viewBox="0 0 {width} {_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{label}">{body}</svg>'
    )


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
