"""Where `magicvideo sample` puts its one clip: the folder and name, and the format that the name asks for."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from magicvideo_core.config import RunConfig
from magicvideo_core.errors import RunError
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.stages.base import Frames, keyframe_fps
from magicvideo_core.storage import Storage


def split_uri(output: str) -> tuple[Storage, str]:
    """Return the folder and the name of a file that is to be written."""
    if "://" in output:
        folder, _, name = output.rpartition("/")
        return Storage(folder), name
    return Storage(Path(output).expanduser().parent), Path(output).name


def encoder_for(output: str, config: RunConfig) -> Callable[[Frames], bytes]:
    """Return how to write the last stage's frames to a file of this name."""
    one_frame = config.stages[-1] == "t2i"
    fps = config.vfi.fps if config.stages[-1] == "vfi" else keyframe_fps(config)
    suffix = PurePosixPath(output).suffix.lower()
    if suffix == ".png" and one_frame:
        return lambda frames: encode_png(frames[0])
    if suffix == ".mp4" and not one_frame:
        return lambda frames: encode_mp4(frames, fps, crf=config.vfi.crf, preset=config.vfi.x264_preset)
    if suffix == ".mkv" and not one_frame:
        return lambda frames: encode_lossless(frames, fps)
    wanted = (
        "one frame: give a file that ends in .png" if one_frame else "a video: give a file that ends in .mp4 or .mkv"
    )
    raise RunError(f"Output {output} does not fit stage {config.stages[-1]}, which makes {wanted}.")
