"""Small pictures of artifacts for the report: strips of a stage's frames at common times, as data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

STRIP_FRAMES = 6
TILE_PX = 96
_GAP_PX = 4


def frames_at(frames_THWC_u8: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """Return `count` frames evenly over the clip, first and last included (fewer where there are fewer)."""
    total = len(frames_THWC_u8)
    return frames_THWC_u8[np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))]


def tile(frame_HWC_u8: npt.NDArray[np.uint8], height_px: int) -> Image.Image:
    """Return the frame at the given height, its aspect kept."""
    image = Image.fromarray(frame_HWC_u8)
    width_px = max(1, round(image.width * height_px / image.height))
    return image if image.height == height_px else image.resize((width_px, height_px), Image.Resampling.LANCZOS)


def strip(frames_THWC_u8: npt.NDArray[np.uint8], count: int = STRIP_FRAMES) -> str:
    """Return up to `count` frames side by side as one JPEG data URI."""
    tiles = [tile(frame, TILE_PX) for frame in frames_at(frames_THWC_u8, count)]
    row = Image.new("RGB", (len(tiles) * (tiles[0].width + _GAP_PX) - _GAP_PX, TILE_PX), (222, 222, 218))
    for index, each in enumerate(tiles):
        row.paste(each, (index * (each.width + _GAP_PX), 0))
    return data_uri(row)


def data_uri(image: Image.Image) -> str:
    """Return the image as a JPEG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
