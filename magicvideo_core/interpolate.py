"""Frame interpolation alone: an existing video or a series of images in, a video file or a folder of PNG frames out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np

from magicvideo_core.config import RunConfig
from magicvideo_core.errors import InputError, MediaError, StorageUnavailableError
from magicvideo_core.media import decode_image, decode_video, encode_lossless, encode_mp4, encode_png
from magicvideo_core.stages.base import Frames, keyframe_fps
from magicvideo_core.stages.registry import create_stage
from magicvideo_core.storage import Storage, check_writable, expand_uri, is_local, local_path, read_uri

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_FACTOR = 16

Decoded = TypeVar("Decoded")


def interpolate_file(inputs: Sequence[str], output: str, *, factor: int, config: RunConfig) -> int:
    """Interpolate one video, or several images in the order given, by `factor`; returns the number of frames written.

    Each input is a path, URL or glob; a folder stands for the images in it, sorted by name. An output that ends in .mp4
    (H.264) or .mkv (lossless) is a video at `factor` times the input's rate; one without a suffix is a folder for
    000000.png, .... The given frames stay as they are, but for what H.264 loses.

    Raises:
        InputError: in one sentence, before anything is written.
    """
    if not 2 <= factor <= MAX_FACTOR:
        raise InputError(f"--factor {factor}: the factor must be a whole number from 2 to {MAX_FACTOR}.")
    suffix = PurePosixPath(output).suffix.lower()
    if suffix not in ("", ".mp4", ".mkv"):
        raise InputError(f"Output {output}: give a file that ends in .mp4 or .mkv, or a folder for PNG frames.")
    uris = [uri for each in inputs for uri in _expand(each)]
    if not uris:
        raise InputError(f"There is nothing to interpolate at {', '.join(inputs) or 'no input'}.")
    frames_THWC_u8, fps = read_frames(uris, default_fps=keyframe_fps(config))
    height, width = frames_THWC_u8.shape[1:3]
    if suffix == ".mp4" and (height % 2 or width % 2):
        raise InputError(f"Output {output}: mp4 needs even sizes, not {width}x{height}; choose .mkv or a folder.")
    count = (len(frames_THWC_u8) - 1) * factor + 1
    folder, name = _split(output) if suffix else (Storage(output), "")
    names = [name] if suffix else [f"{index:06d}.png" for index in range(count)]
    _check_target(folder, names, uris)
    finished = _finished_frames(frames_THWC_u8, factor, config)
    if not suffix:
        for name, frame in zip(names, finished, strict=True):
            folder.write(name, encode_png(frame))
        return count
    video = np.stack(list(finished))
    if suffix == ".mp4":
        data = encode_mp4(video, fps * factor, crf=config.vfi.crf, preset=config.vfi.x264_preset)
    else:
        data = encode_lossless(video, fps * factor)
    folder.write(name, data)
    return count


def _split(uri: str) -> tuple[Storage, str]:
    name = uri.rpartition("/")[2]
    return Storage(uri.removesuffix(name) or "."), name


def _check_target(folder: Storage, names: list[str], sources: list[str]) -> None:
    check_writable(folder.uri)
    targets = {folder.join(name) for name in names}
    for source in sources:
        source_folder, source_name = _split(source)
        if source_folder.join(source_name) in targets:
            raise InputError(f"Output {folder.join(source_name)} would overwrite an input; choose another place.")
    if len(names) > 1:
        # A longer, earlier series in the folder would go on after the new one's end.
        found = (PurePosixPath(key).name for key in folder.list())
        stale = sorted(each for each in found if re.fullmatch(r"\d{6}\.png", each) and each > names[-1])
        if stale:
            raise InputError(f"Output {folder.uri} holds {stale[0]} of a longer series; empty it or choose another.")


def _finished_frames(frames_THWC_u8: Frames, factor: int, config: RunConfig) -> Iterator[Frames]:
    # Imported here: bad input is refused before torch is loaded.
    import torch

    from magicvideo_core.stages.vfi import VFIStage

    stage = create_stage("vfi", config)
    if not isinstance(stage, VFIStage):
        raise InputError(f"vfi.backend = {config.vfi.backend!r} interpolates no files; choose edsc or rife.")
    found = "cuda" if torch.cuda.is_available() else "cpu"
    stage.load(found if config.device == "auto" else config.device)
    yield from stage.interpolate(frames_THWC_u8, factor)
    stage.close()


def read_frames(uris: Sequence[str], *, default_fps: float) -> tuple[Frames, float]:
    """Frames (THWC uint8) and rate of one video, or of images, whose rate is `default_fps`. Raises InputError."""
    images = [uri for uri in uris if uri.lower().endswith(IMAGE_SUFFIXES)]
    if len(images) == len(uris):
        frames = [_decode(uri, decode_image) for uri in uris]
        for uri, frame in zip(uris, frames, strict=True):
            if frame.shape != frames[0].shape:
                sizes = " and ".join(f"{each.shape[1]}x{each.shape[0]}" for each in (frames[0], frame))
                raise InputError(f"{uris[0]} and {uri} differ in size ({sizes}); the images must have one size.")
        found, fps = np.stack(frames), default_fps
    elif len(uris) > 1:
        other = next(uri for uri in uris if uri not in images)
        raise InputError(f"{other} is one of {len(uris)} inputs and no image; give one video, or images alone.")
    else:
        video = _decode(uris[0], decode_video)
        found, fps = video.frames_THWC_u8, video.fps or default_fps
    if len(found) < 2:
        raise InputError(f"{uris[0]} holds one frame only; interpolation needs at least two.")
    return found, fps


def _expand(source: str) -> list[str]:
    if is_local(source) and local_path(source).is_dir():
        files = sorted(local_path(source).iterdir())
        return [str(file) for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    return expand_uri(source)


def _decode(uri: str, decode: Callable[[bytes], Decoded]) -> Decoded:
    try:
        return decode(read_uri(uri))
    except FileNotFoundError:
        raise InputError(f"There is no {uri}.") from None
    except (OSError, StorageUnavailableError) as error:
        raise InputError(f"{uri} cannot be read: {error}.") from error
    except MediaError as error:
        raise InputError(f"{uri} is neither an image nor a video that can be read: {error}.") from error
