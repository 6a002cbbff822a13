"""Writes `report/index.html` of a run: videos by relative path, everything else inside the page."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from magicvideo_core.errors import MediaError, TransientError
from magicvideo_core.manifest.artifacts import read_artifact_frames
from magicvideo_core.manifest.layout import report_key
from magicvideo_core.report.pictures import data_uri, strip, tile
from magicvideo_core.report.run_view import MOST_CLIPS, ClipView, RunView, read_run
from magicvideo_core.storage import Storage

logger = logging.getLogger(__name__)

STAGE_TITLES = {"t2i": "text to image", "i2v": "image to video", "v2v": "video to video", "vfi": "interpolation"}
_POSTER_PX = 256
# Title, name in the forecast, and unit.
_FORECAST_ROWS = (
    ("wall time", "wall_s", "s"),
    ("clips per hour", "clips_per_hour", ""),
    ("GPU-hours busy", "busy_gpu_hours", ""),
    ("GPU-hours held", "held_gpu_hours", ""),
    ("storage", "storage_bytes", "B"),
    ("cost", "cost", ""),
)


@dataclass(frozen=True, slots=True)
class ClipPictures:
    """What the page shows of one clip: its last artifact (video, image or nothing) and one strip per finished stage."""

    video_href: str | None
    image_href: str | None
    poster: str | None
    strips: tuple[tuple[str, str], ...]


def write_report(storage: Storage, max_clips: int = 200, most_clips: int = MOST_CLIPS) -> str:
    """Write the page and return its URI. Videos of at most `max_clips` clips are shown; failures all of them.

    Of a run with more than `most_clips` only the first shards are on the page, which says so.

    Raises:
        RunError: there is no run at the place.
    """
    run = read_run(storage, most_clips)
    shown = run.clips[:max_clips]
    pictures = {clip.clip_id: _pictures(storage, clip) for clip in shown}
    html = render_page(run, shown, pictures)
    return storage.write(report_key(), html.encode()).uri


def render_page(run: RunView, shown: tuple[ClipView, ...], pictures: Mapping[str, ClipPictures]) -> str:
    """Return the page; every value is escaped."""
    # Loaded here: importing this package must stay light for the command line.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("magicvideo_core.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = format_seconds
    environment.filters["bytes"] = format_bytes
    settings = json.dumps(run.record.config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return environment.get_template("report.html").render(
        run=run,
        record=run.record,
        shown=shown,
        pictures=pictures,
        stage_titles=STAGE_TITLES,
        settings=settings,
        forecast_rows=_FORECAST_ROWS,
        prompts={clip.clip_id: clip.prompt for clip in run.clips},
    )


def format_seconds(value: float) -> str:
    """Return a duration for people: `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(value: int) -> str:
    """Return a size for people, in powers of 1000."""
    size = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _pictures(storage: Storage, clip: ClipView) -> ClipPictures:
    strips: list[tuple[str, str]] = []
    poster = video_href = image_href = None
    for row in clip.rows:
        key = clip.artifact_key(row.stage)
        if row.status != "succeeded" or key is None:
            continue
        try:
            frames_THWC_u8 = read_artifact_frames(storage, row)
        except (MediaError, FileNotFoundError, TransientError) as error:
            logger.warning("the report shows no frames of clip %s in stage %s: %s", clip.clip_id, row.stage, error)
            continue
        strips.append((row.stage, strip(frames_THWC_u8)))
        middle = tile(frames_THWC_u8[len(frames_THWC_u8) // 2], _POSTER_PX)
        poster = data_uri(middle)
        video_href = f"../{quote(key)}" if key.endswith(".mp4") else None
        image_href = f"../{quote(key)}" if key.endswith(".png") else None
    return ClipPictures(video_href, image_href, poster, tuple(strips))
