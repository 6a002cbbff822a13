"""The contact sheet of a run: one row of frames per finished video, its prompt above it, as one small PNG."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from magicvideo_core.errors import RunError
from magicvideo_core.report.pictures import frames_at, read_evenly, tile
from magicvideo_core.report.run_view import read_run
from magicvideo_core.storage import Storage

_PAPER, _INK = (250, 250, 248), (40, 40, 40)
_GAP_PX, _MARGIN_PX, _CAPTION_PX = 4, 14, 24


def contact_sheet(storage: Storage, max_clips: int = 6, num_columns: int = 8, max_size_bytes: int = 300_000) -> bytes:
    """Return a PNG of the run's first finished videos: rows are clips, columns are times.

    Raises:
        RunError: there is no run at the place, or it has no finished video.
    """
    run = read_run(storage)
    last_stage = run.record.config.stages[-1]
    rows: list[tuple[str, npt.NDArray[np.uint8]]] = []
    for clip in run.clips:
        for each in clip.results:
            if each.stage == last_stage and each.key is not None and len(rows) < max_clips:
                rows.append((clip.prompt, read_evenly(storage, each.key, num_columns)))
    if not rows:
        raise RunError(f"Run {run.record.run_id} at {storage.uri} has no finished video to show.")
    return draw_contact_sheet(rows, num_columns, max_size_bytes)


def draw_contact_sheet(
    rows: list[tuple[str, npt.NDArray[np.uint8]]], num_columns: int = 8, max_size_bytes: int = 300_000
) -> bytes:
    """Draw (prompt, uint8 THWC frames) rows as a PNG of at most `max_size_bytes`; raises ValueError where none is."""
    for tile_px in (128, 112, 96, 80, 64, 48, 32):
        sheet = _draw(rows, num_columns, tile_px)
        # Noise of the codec costs most of the bytes: a palette drops it before the tiles have to shrink.
        for image in (sheet, sheet.quantize(colors=192, dither=Image.Dither.NONE)):
            buffer = io.BytesIO()
            image.save(buffer, format="PNG", optimize=True)
            if buffer.tell() <= max_size_bytes:
                return buffer.getvalue()
    raise ValueError(f"{len(rows)} rows of {num_columns} frames do not fit into {max_size_bytes} bytes")


def _draw(rows: list[tuple[str, npt.NDArray[np.uint8]]], num_columns: int, tile_px: int) -> Image.Image:
    font = ImageFont.load_default(size=max(11.0, tile_px / 9))
    tiles = [[tile(frame, tile_px) for frame in frames_at(frames, num_columns)] for _, frames in rows]
    width_px = max(sum(each.width + _GAP_PX for each in row) for row in tiles) - _GAP_PX + 2 * _MARGIN_PX
    row_px = _CAPTION_PX + tile_px + _MARGIN_PX // 2
    sheet = Image.new("RGB", (width_px, row_px * len(rows) + _MARGIN_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, ((prompt, _), row) in enumerate(zip(rows, tiles, strict=True)):
        top = index * row_px + _MARGIN_PX // 2
        draw.text((_MARGIN_PX, top + _CAPTION_PX // 2), _fitting(prompt, font, width_px), _INK, font, anchor="lm")
        left = _MARGIN_PX
        for each in row:
            sheet.paste(each, (left, top + _CAPTION_PX))
            left += each.width + _GAP_PX
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    line = " ".join(text.split())
    if font.getlength(line) <= width_px - 2 * _MARGIN_PX:
        return line
    while line and font.getlength(line + "...") > width_px - 2 * _MARGIN_PX:
        line = line[:-1]
    return line + "..."
