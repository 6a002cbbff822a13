"""Writes `report/index.html` of a run: one file with all it needs but videos, images and strips, named by relative paths."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from magicvideo_core.manifest.layout import report_key
from magicvideo_core.report.clip_views import MOST_CLIPS
from magicvideo_core.report.formats import format_bytes, format_count, format_minute, format_seconds
from magicvideo_core.report.listing import listing, to_script
from magicvideo_core.report.measured import Measured, read_measured
from magicvideo_core.report.pictures import data_uri, picture_of, write_strips
from magicvideo_core.report.plots import histogram, timeline
from magicvideo_core.report.run_view import RunView, read_run
from magicvideo_core.storage import Storage

STAGE_TITLES = {"t2i": "text to image", "i2v": "image to video", "v2v": "video to video", "vfi": "interpolation"}
CLIPS_PER_PAGE = 24
# At the end of a run: 200 clips of the embedded family take seconds, but those of a large one would hold it up.
MOST_STRIPS, STRIPS_LIMIT_S = 200, 60.0
# Title, name in the forecast, and unit.
_FORECAST_ROWS = (
    ("wall time", "wall_s", "s"),
    ("clips per hour", "clips_per_hour", ""),
    ("GPU-hours busy", "busy_gpu_hours", ""),
    ("GPU-hours held", "held_gpu_hours", ""),
    ("storage", "storage_bytes", "B"),
    ("cost", "cost", ""),
)


def write_report(
    storage: Storage,
    most_strips: int = MOST_STRIPS,
    strips_limit_s: float = STRIPS_LIMIT_S,
    most_clips: int = MOST_CLIPS,
) -> str:
    """Write the page and return its URI; the first `most_strips` clips get strips of their stages' frames beside it.

    A run of one page has its strips in it; of a larger one they are objects, and those of an earlier report are kept. The
    clips of a run with more than `most_clips` are listed from the first shards only, and those that failed in later ones,
    which the page says; its figures are of the whole run.

    Raises:
        RunError: there is no run at the place.
    """
    run = read_run(storage, most_clips)
    pictures: dict[str, str] = {}
    if len(run.clips) <= CLIPS_PER_PAGE:
        for clip in run.clips[:most_strips]:
            if (webp := picture_of(storage, clip)) is not None:
                pictures[clip.clip_id] = data_uri(webp)
    else:
        strips = write_strips(storage, run.clips, most_strips, strips_limit_s)
        pictures = {clip_id: quote(key.removeprefix("report/")) for clip_id, key in strips.items()}
    last = run.record.config.stages[-1]
    hashes = {clip.clip_id: own.sha256 or "" for clip in run.clips for own in clip.results if own.stage == last}
    measured = read_measured(storage, last, sorted({clip.shard_id for clip in run.clips}), hashes)
    return storage.write(report_key(), render_page(run, pictures, measured).encode()).uri


def render_page(run: RunView, pictures: Mapping[str, str], measured: Measured) -> str:
    """Return the page; every value is escaped, and what its scripts read is inert data."""
    # Loaded here: importing this package must stay light for the command line.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("magicvideo_core.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": format_seconds, "bytes": format_bytes}
    environment.filters |= {"count": format_count, "minute": format_minute}
    script, style = (_source(environment, name) for name in ("report.js", "report.css"))
    stages = run.record.config.stages
    return environment.get_template("report.html").render(
        run=run,
        record=run.record,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
        listing=to_script(listing(run.clips, stages, pictures, measured)),
        clips_per_page=CLIPS_PER_PAGE,
        stage_titles=STAGE_TITLES,
        timelines={stage: timeline(run.activity, stage) for stage in stages},
        histograms={stage: histogram(run.activity.stage(stage).succeeded_s(), stage) for stage in stages},
        forecast_rows=_forecast_rows(run),
        stage_rows=_stage_rows(run),
        sessions=_session_rows(run),
        settings=json.dumps(run.record.config.model_dump(mode="json"), indent=2, ensure_ascii=False),
    )


def _source(environment: Any, name: str) -> str:
    return str(environment.loader.get_source(environment, name)[0])


def _forecast_rows(run: RunView) -> list[dict[str, Any]]:
    """Return the forecast beside what it took, with both as shares of the larger for the bars."""
    if run.record.forecast is None:
        return []
    return [
        _compared(title, run.record.forecast.get(name), run.actual.get(name), unit)
        for title, name, unit in _FORECAST_ROWS
        if run.record.forecast.get(name) is not None or run.actual.get(name) is not None
    ]


def _stage_rows(run: RunView) -> list[dict[str, Any]]:
    """Return the seconds per clip that the forecast went by beside the mean of what clips took."""
    expected = (run.record.forecast or {}).get("seconds_per_clip") or {}
    rows = []
    for stage in run.record.config.stages:
        took_s = run.activity.stage(stage).succeeded_s()
        if stage in expected:
            mean_s = float(took_s.mean()) if took_s.size else None
            rows.append(_compared(f"{stage}, seconds per clip", expected[stage], mean_s, "s"))
    return rows


def _compared(title: str, expected: float | None, found: float | None, unit: str) -> dict[str, Any]:
    words = {"s": format_seconds, "B": lambda value: format_bytes(round(value)), "": lambda value: f"{value:.4g}"}[unit]
    most = max(expected or 0.0, found or 0.0)
    return {
        "title": title,
        "expected": None if expected is None else words(expected),
        "actual": None if found is None else words(found),
        "ratio": f"{found / expected:.2f}"
        if expected and found is not None and math.isfinite(found / expected)
        else None,
        "shares": [round(100 * (value or 0.0) / most, 2) if most else 0.0 for value in (expected, found)],
    }


def _session_rows(run: RunView) -> list[dict[str, Any]]:
    """Return the sessions in their order: when each began and what it found done, which resuming did not compute again."""
    return [
        {
            "number": each.number,
            "started_at": format_minute(each.started_at),
            "ended_at": format_minute(each.ended_at or ""),
            "found": each.found_done,
        }
        for each in run.sessions
    ]
