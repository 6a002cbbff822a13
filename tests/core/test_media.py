"""Media: exact where it must be, close in colour where it may not, and equal bytes for equal frames."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from magicvideo_core.errors import MediaError
from magicvideo_core.media import decode_image, decode_video, encode_lossless, encode_mp4, encode_png

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 90, 230),
    "yellow": (245, 220, 50),
    "purple": (150, 50, 190),
    "orange": (245, 140, 30),
    "cyan": (40, 200, 220),
    "white": (245, 245, 245),
}
BACKGROUNDS = {"black": (16, 16, 16), "gray": (120, 120, 120), "navy": (20, 30, 90), "brown": (100, 65, 35)}


def _moving_square(colour: tuple[int, ...], background: tuple[int, ...]) -> np.ndarray:
    frames = np.empty((12, 128, 128, 3), dtype=np.uint8)
    frames[:] = background
    for index in range(len(frames)):
        frames[index, 40:80, 20 + 4 * index : 60 + 4 * index] = colour
    return frames


def _noise(shape: tuple[int, ...] = (4, 48, 64, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("colour", COLOURS)
def test_palette_colours_survive_h264_within_3_levels(colour: str) -> None:
    for background in BACKGROUNDS.values():
        for level in (1.0, 0.55):
            rgb = tuple(round(level * value) for value in COLOURS[colour])
            found = decode_video(encode_mp4(_moving_square(rgb, background), 24.0)).frames_THWC_u8.astype(int)
            for index, frame in enumerate(found):
                # 4:2:0 blurs colour over an edge: flat colour begins a few pixels inside.
                assert np.abs(frame[44:76, 24 + 4 * index : 56 + 4 * index] - rgb).max() <= 3
                assert np.abs(frame[88:] - background).max() <= 3


def test_h264_is_untagged_yuv420p_of_the_asked_rate() -> None:
    data = encode_mp4(_noise(), 24.0)
    with av.open(io.BytesIO(data), "r") as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        # 2 and 0 are FFmpeg's "unspecified": players then take BT.601, limited range.
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (2, 0, 2, 2)
    decoded = decode_video(data)
    assert decoded.fps == 24.0
    assert decoded.frames_THWC_u8.shape == (4, 48, 64, 3)
    assert decoded.frames_THWC_u8.dtype == np.uint8


@pytest.mark.parametrize("shape", [(4, 48, 64, 3), (1, 64, 64, 3), (3, 33, 47, 3)])
def test_ffv1_gives_back_every_bit(shape: tuple[int, ...]) -> None:
    frames = _noise(shape)
    decoded = decode_video(encode_lossless(frames, 8.0))
    assert np.array_equal(decoded.frames_THWC_u8, frames)
    assert decoded.fps == 8.0


def test_equal_frames_give_equal_bytes() -> None:
    frames = _noise()
    assert encode_mp4(frames, 24.0) == encode_mp4(frames.copy(), 24.0)
    assert encode_lossless(frames, 8.0) == encode_lossless(frames[::-1][::-1], 8.0)
    assert encode_png(frames[0]) == encode_png(frames[0].copy())


def test_an_mp4_has_its_index_before_its_frames() -> None:
    data = encode_mp4(_noise(), 24.0)
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_images_of_any_kind_become_rgb() -> None:
    frame = _noise()[0]
    assert np.array_equal(decode_image(encode_png(frame)), frame)
    buffer = io.BytesIO()
    Image.new("LA", (5, 4), (7, 0)).save(buffer, format="PNG")
    assert decode_image(buffer.getvalue()).shape == (4, 5, 3)


def test_what_is_no_media_is_a_clip_error() -> None:
    video = encode_mp4(_noise(), 24.0)
    for data in (b"", b"no video", video[:200], encode_png(_noise()[0])[:40]):
        with pytest.raises(MediaError):
            decode_video(data)
        with pytest.raises(MediaError):
            decode_image(data)


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 16, 16, 3), dtype=np.float32),
        np.zeros((2, 16, 16), dtype=np.uint8),
        np.zeros((0, 16, 16, 3), dtype=np.uint8),
        np.zeros((2, 16, 15, 3), dtype=np.uint8),
    ],
    ids=["floats", "no channels", "no frames", "odd width"],
)
def test_frames_that_cannot_be_encoded_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(MediaError):
        encode_mp4(frames, 24.0)
