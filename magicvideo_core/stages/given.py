"""Inputs that a prompt row brings along: its reference image or video takes the place of what a stage would make."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from magicvideo_core.clips import Clip
from magicvideo_core.config import RunConfig
from magicvideo_core.errors import GivenMediaError, MediaError
from magicvideo_core.media import decode_image, decode_video
from magicvideo_core.redact import redact
from magicvideo_core.storage import read_uri


def is_given(clip: Clip, stage: str) -> bool:
    """Tell whether the clip brings this stage's output along, so that no model has to make it."""
    return (stage == "t2i" and bool(clip.image or clip.video)) or (stage == "i2v" and bool(clip.video))


def given_frames(clip: Clip, stage: str, config: RunConfig) -> np.ndarray:
    """Return the stage's output as the clip brings it: uint8 RGB THWC, at the size and frame count of the stage.

    t2i gives one frame: the image, or the first frame of the video. i2v gives keyframes, evenly spaced over the video,
    its first and last frame included. Pictures of another shape are cut to the stage's, around their centre.
    Raises GivenMediaError when the object cannot be read or does not decode.
    """
    if stage == "t2i":
        image_HWC_u8 = _decoded(clip, clip.image, decode_image) if clip.image else _video_frames(clip)[0]
        return fit(image_HWC_u8, config.t2i.height, config.t2i.width)[None]
    frames_THWC_u8 = _video_frames(clip)
    picks = np.linspace(0, len(frames_THWC_u8) - 1, config.i2v.num_frames).round().astype(int)
    return np.stack([fit(frames_THWC_u8[pick], config.i2v.height, config.i2v.width) for pick in picks])


def fit(image_HWC_u8: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale an image to cover `height` x `width` and cut what stands over, evenly on both sides; antialiased."""
    image = Image.fromarray(image_HWC_u8)
    if image.size == (width, height):
        return image_HWC_u8
    scale = max(width / image.width, height / image.height)
    left, top = (image.width - width / scale) / 2, (image.height - height / scale) / 2
    box = (left, top, left + width / scale, top + height / scale)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))


def _video_frames(clip: Clip) -> np.ndarray:
    assert clip.video is not None
    return _decoded(clip, clip.video, lambda data: decode_video(data).frames_THWC_u8)


def _decoded(clip: Clip, uri: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return decode(read_uri(uri))
    except FileNotFoundError:
        raise GivenMediaError(f"There is no {redact(uri)}, which clip {clip.clip_id} starts from.") from None
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        reason = error.strerror or type(error).__name__
        raise GivenMediaError(
            f"Clip {clip.clip_id} starts from {redact(uri)}, which cannot be read: {reason}."
        ) from None
    except MediaError as error:
        raise GivenMediaError(f"Clip {clip.clip_id} starts from {redact(uri)}: {error}") from None
