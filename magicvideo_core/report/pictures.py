"""Small pictures of artifacts for the report: one WebP per clip, whose rows are its stages' frames at common times."""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.errors import MediaError, TransientError
from magicvideo_core.ids import short_hash
from magicvideo_core.manifest.layout import STRIPS, strip_key
from magicvideo_core.media import decode_evenly, decode_image
from magicvideo_core.report.clip_views import ClipView
from magicvideo_core.storage import Storage

logger = logging.getLogger(__name__)

STRIP_FRAMES = 6
TILE_PX = 96
_GAP_PX = 4
# Part of a strip's name: another look is another picture.
_LOOK = 1


def read_evenly(storage: Storage, key: str, count: int) -> npt.NDArray[np.uint8]:
    """Return `count` frames (uint8 THWC) evenly over an artifact, an image's one. Raises FileNotFoundError or MediaError."""
    data = storage.read(key)
    return decode_image(data)[None] if key.endswith(".png") else decode_evenly(data, count)


def frames_at(frames_THWC_u8: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """Return `count` frames evenly over the clip, first and last included (fewer where there are fewer)."""
    total = len(frames_THWC_u8)
    return frames_THWC_u8[np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))]


def tile(frame_HWC_u8: npt.NDArray[np.uint8], height_px: int) -> Image.Image:
    """Return the frame at the given height, its aspect kept."""
    image = Image.fromarray(frame_HWC_u8)
    width_px = max(1, round(image.width * height_px / image.height))
    return image if image.height == height_px else image.resize((width_px, height_px), Image.Resampling.LANCZOS)


def strips(rows: Sequence[npt.NDArray[np.uint8]]) -> bytes:
    """Return a WebP with one row of tiles, side by side, for each of several series of frames (uint8 THWC, T may be 0)."""
    tiles = [[tile(frame, TILE_PX) for frame in frames] for frames in rows]
    width_px = max(max(sum(each.width + _GAP_PX for each in row) for row in tiles) - _GAP_PX, TILE_PX)
    # Transparent where nothing is: the page is light or dark.
    picture = Image.new("RGBA", (width_px, len(tiles) * (TILE_PX + _GAP_PX) - _GAP_PX))
    for number, row in enumerate(tiles):
        left = 0
        for each in row:
            picture.paste(each, (left, number * (TILE_PX + _GAP_PX)))
            left += each.width + _GAP_PX
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=80, method=2)
    return buffer.getvalue()


def data_uri(webp: bytes) -> str:
    """Return a WebP as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def strip_names(clips: Sequence[ClipView]) -> dict[str, str]:
    """Return the keys of the clips' strips by clip id, of those that have a frame to show; they name what is shown."""
    names = {}
    for clip in clips:
        shown = [[each.stage, each.sha256] for each in clip.results if each.key is not None]
        if shown:
            names[clip.clip_id] = strip_key(clip.clip_id, short_hash([_LOOK, shown]))
    return names


def write_strips(storage: Storage, clips: Sequence[ClipView], most: int, limit_s: float) -> dict[str, str]:
    """Write the strips of the first `most` clips and return the keys of all that are there, by clip id.

    What an earlier report of the run has made stays; what no clip has any more is deleted. No further strip is begun
    after `limit_s`: the next report goes on.
    """
    names = strip_names(clips)
    there = set(storage.list(STRIPS))
    for key in there - set(names.values()):
        storage.delete(key)
    begun_s = time.monotonic()
    wanted = [clip for clip in clips[:most] if names.get(clip.clip_id, "") not in {"", *there}]

    def write(clip: ClipView) -> bool:
        if time.monotonic() - begun_s > limit_s:
            return False
        webp = picture_of(storage, clip)
        if webp is not None:
            storage.write(names[clip.clip_id], webp)
        return webp is not None

    made: Iterator[bool] = map_concurrently(write, wanted, storage.num_readers)
    there |= {names[clip.clip_id] for clip, is_made in zip(wanted, made, strict=True) if is_made}
    return {clip_id: key for clip_id, key in names.items() if key in there}


def picture_of(storage: Storage, clip: ClipView) -> bytes | None:
    """Return the strips of a clip, a row for each result that has an artifact; None where none of them can be read."""
    rows: list[npt.NDArray[np.uint8]] = []
    for each in clip.results:
        if each.key is None:
            continue
        try:
            rows.append(read_evenly(storage, each.key, STRIP_FRAMES))
        except (MediaError, FileNotFoundError, TransientError) as error:
            logger.warning("the report shows no frames of clip %s, stage %s: %s", clip.clip_id, each.stage, error)
            rows.append(np.empty((0, 1, 1, 3), np.uint8))
    return strips(rows) if any(len(frames) for frames in rows) else None
