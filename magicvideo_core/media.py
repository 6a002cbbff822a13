"""Frames to bytes and back: H.264 for people, FFV1 and PNG where no bit may change (PyAV and Pillow).

Frames are uint8 RGB in [0, 255], laid out THWC (videos) or HWC (images). Equal frames give equal bytes: one thread
and no time or version stamps. H.264 is yuv420p without colour tags, written and read with the BT.601 matrix and limited
range that players assume for such files.
"""

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import Image

from magicvideo_core.errors import MediaError

DEFAULT_CRF = 14
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MATROSKA_SIGNATURE = b"\x1aE\xdf\xa3"
_BITEXACT = {"fflags": "+bitexact"}
# The index before the frames: a player begins with the first bytes that it gets, and asks for no range at the end.
_MUXER_OPTIONS = {"mp4": {"movflags": "+faststart"}}
# swscale's default shortcuts truncate chroma: they cost up to 3 levels of a flat colour, where these stay within 1.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT
# Waking others for a slice takes longer than converting it, and the cores belong to the stages.
_SCALING_THREADS = 1
# Colours of small moving objects drift without these: chroma gets more bits, and frames that others are predicted
# from get no more than the rest.
_X264_PARAMS = "chroma-qp-offset=-6:mbtree=0"


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """A video's frames (uint8 RGB THWC) and its rate."""

    frames_THWC_u8: npt.NDArray[np.uint8]
    fps: float


def encode_mp4(
    frames_THWC_u8: npt.NDArray[np.uint8], fps: float, *, crf: int = DEFAULT_CRF, preset: str = "medium"
) -> bytes:
    """Return an H.264 mp4; `crf` 0..51 (lower is better), height and width even. Raises MediaError."""
    _check_frames(frames_THWC_u8)
    height, width = frames_THWC_u8.shape[1:3]
    if height % 2 or width % 2:
        raise MediaError(f"H.264 in yuv420p needs even sizes, not {width}x{height}")
    options = {"crf": str(crf), "preset": preset, "x264-params": _X264_PARAMS}
    return _encode(frames_THWC_u8, fps, "mp4", "libx264", "yuv420p", options)


def encode_lossless(frames_THWC_u8: npt.NDArray[np.uint8], fps: float) -> bytes:
    """Return an FFV1 Matroska file that decodes to exactly these frames. Raises MediaError."""
    _check_frames(frames_THWC_u8)
    options = {"level": "3", "coder": "1", "context": "0", "slices": "4", "slicecrc": "1"}
    return _encode(frames_THWC_u8, fps, "matroska", "ffv1", "bgr0", options)


def decode_video(data: bytes) -> DecodedVideo:
    """Return all frames of the first video stream. Raises MediaError where there is none or it does not decode."""
    try:
        with _open(data) as container:
            if not container.streams.video:
                raise MediaError(f"the {len(data)} bytes hold no video stream")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 0)
            reformatter = VideoReformatter()
            frames = [_to_rgb(reformatter, frame) for frame in container.decode(stream)]
    except av.FFmpegError as error:
        raise MediaError(f"the {len(data)} bytes do not decode as a video: {error.strerror}") from None
    if not frames:
        raise MediaError(f"the video of {len(data)} bytes holds no frame")
    return DecodedVideo(np.stack(frames), fps)


def decode_evenly(data: bytes, num_frames: int) -> npt.NDArray[np.uint8]:
    """Return `num_frames` frames (uint8 RGB THWC) of a video, evenly from its first to its last; all of a shorter one.

    Only these are held as pixels, so that long videos fit in memory. Raises MediaError.
    """
    try:
        with _open(data) as container:
            if not container.streams.video:
                raise MediaError(f"the {len(data)} bytes hold no video stream")
            count = sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))
        last = max(count - 1, 0)
        wanted = {round(index * last / max(num_frames - 1, 1)) for index in range(num_frames)}
        with _open(data) as container:
            decoded = enumerate(container.decode(container.streams.video[0]))
            reformatter = VideoReformatter()
            frames = [_to_rgb(reformatter, frame) for index, frame in decoded if index in wanted]
    except av.FFmpegError as error:
        raise MediaError(f"the {len(data)} bytes do not decode as a video: {error.strerror}") from None
    if len(frames) < len(wanted):
        raise MediaError(f"of the {count} frames in the {len(data)} bytes some do not decode")
    return np.stack(frames)


def encode_png(frame_HWC_u8: npt.NDArray[np.uint8]) -> bytes:
    """Return a PNG of one frame."""
    _check_frames(frame_HWC_u8[None])
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC_u8).save(buffer, format="PNG")
    return buffer.getvalue()


def decode_image(data: bytes) -> npt.NDArray[np.uint8]:
    """Return an image of any format that Pillow reads as uint8 RGB HWC. Raises MediaError."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"the {len(data)} bytes do not decode as an image: {error}") from None


def stored_shape(data: bytes) -> tuple[int, int, int, int]:
    """Return the shape (T, H, W, 3) of a PNG's or video's frames, decoding only the first. Raises MediaError.

    Frames after the first are counted, each of which must hold bytes.
    """
    if data.startswith(_PNG_SIGNATURE):
        height, width = decode_image(data).shape[:2]
        return 1, height, width, 3
    try:
        with _open(data) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            # Later packets only where the decoder asks for more before it gives its first frame.
            first = next((frame for packet in [*packets, None] for frame in stream.decode(packet)), None)
    except (av.FFmpegError, IndexError) as error:
        raise MediaError(f"the {len(data)} bytes do not decode as a video: {error}") from None
    if first is None:
        raise MediaError(f"the video of {len(data)} bytes holds no frame")
    return len(packets), first.height, first.width, 3


def _open(data: bytes) -> InputContainer:
    """Open a video; of the two kinds that this project writes without trying all other demuxers first."""
    if data.startswith(_MATROSKA_SIGNATURE):
        return av.open(io.BytesIO(data), "r", format="matroska")
    return av.open(io.BytesIO(data), "r", format="mp4" if data[4:8] == b"ftyp" else None)


def _check_frames(frames: npt.NDArray[np.uint8]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise MediaError(f"frames must be uint8 of shape (T, H, W, 3), not {frames.dtype} of {frames.shape}")


def _encode(
    frames: npt.NDArray[np.uint8],
    fps: float,
    container_format: str,
    codec: str,
    pixel_format: str,
    codec_options: dict[str, str],
) -> bytes:
    buffer = io.BytesIO()
    rate = Fraction(fps).limit_denominator(1001)
    options = _BITEXACT | _MUXER_OPTIONS.get(container_format, {})
    # To move the index forward the muxer reads again what it wrote.
    reopen = lambda url, flags, options: io.BytesIO(buffer.getvalue())
    with av.open(buffer, "w", format=container_format, options=options, io_open=reopen) as container:
        stream = container.add_stream(codec, rate=rate, options={"flags": "+bitexact", **codec_options})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        # More threads change the bytes, and the cores belong to the stages.
        stream.codec_context.thread_count = 1
        reformatter, frame_time = VideoReformatter(), 1 / rate
        for index, frame in enumerate(frames):
            picture = _from_rgb(reformatter, np.ascontiguousarray(frame), pixel_format)
            picture.pts, picture.time_base = index, frame_time
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _from_rgb(reformatter: VideoReformatter, frame: npt.NDArray[np.uint8], pixel_format: str) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
    if pixel_format != "yuv420p":
        return reformatter.reformat(picture, format=pixel_format, threads=_SCALING_THREADS)
    return reformatter.reformat(
        picture,
        threads=_SCALING_THREADS,
        format=pixel_format,
        dst_colorspace=Colorspace.ITU601,
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALING,
    )


def _to_rgb(reformatter: VideoReformatter, frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    picture = reformatter.reformat(frame, format="rgb24", interpolation=_SCALING, threads=_SCALING_THREADS)
    rgb = picture.to_ndarray()
    return rgb.astype(np.uint8, copy=False)
