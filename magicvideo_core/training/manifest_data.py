"""A person's own captioned images and videos as training data: decoded once into one file, then drawn from at random.

Shape suffixes: N frames, T frames of a clip, C channels, H, W pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import random
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.nn.functional as F

from magicvideo_core.errors import ConfigError, MediaError
from magicvideo_core.local_files import write_file
from magicvideo_core.media import decode_evenly, decode_image
from magicvideo_core.models.latents import frames_to_unit, resized, unit_to_frames
from magicvideo_core.moving_shapes.captions import VOCABULARY
from magicvideo_core.redact import redact
from magicvideo_core.storage import read_uri
from magicvideo_core.training.data import CAPTION_DROPOUT, FIRST_FRAME_SHARE, NUM_KEYFRAMES, Shown
from magicvideo_core.training.manifest_rows import MediaRow, read_media_rows

logger = logging.getLogger(__name__)

# The largest size that a recipe asks for; smaller ones are made from it.
PIXELS = 128
FRAME_BYTES = PIXELS * PIXELS * 3
# Words beyond these are rare enough to share one token.
MAX_WORDS = 4096
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Sample:
    """One captioned medium: `count` frames in the file from number `first` on; a clip has all `NUM_KEYFRAMES`."""

    caption: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """Samples with the numbers of each one's frames in `frames_NHWC_u8`."""

    captions: Sequence[str]
    numbers: Sequence[Sequence[int]]
    frames_NHWC_u8: np.ndarray

    def show(self, keyframes: Sequence[int], pixels: int) -> Shown:
        chosen = [numbers[index] for numbers in self.numbers for index in keyframes]
        frames_NCHW = frames_to_unit(self.frames_NHWC_u8[chosen])
        if pixels != PIXELS:
            frames_NCHW = F.interpolate(frames_NCHW, size=pixels, mode="area")
        # Nothing is known about what is in the frames: everything weighs the same, and what they are without texture is
        # what is left of them when they are made smaller.
        return Shown(frames_NCHW, torch.zeros(len(chosen), pixels, pixels), lambda: frames_NCHW)


class ManifestData:
    """Captioned media in the file that `prepare` wrote; captions as they are given."""

    def __init__(self, folder: Path, *, caption_dropout: float = CAPTION_DROPOUT) -> None:
        """`folder`: where `prepare` wrote. Holds the frames as a memory map: they need no memory of this process."""
        index = json.loads((folder / "index.json").read_text())
        self.samples = [Sample(**values) for values in index["samples"]]
        shape = (index["num_frames"], PIXELS, PIXELS, 3)
        self.frames_NHWC_u8 = np.memmap(folder / "frames.u8", dtype=np.uint8, mode="r", shape=shape)
        self.videos = [sample for sample in self.samples if sample.count == NUM_KEYFRAMES]
        self.caption_dropout = caption_dropout
        words = Counter(word for sample in self.samples for word in _words(sample.caption))
        common = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))]
        self.vocabulary: Sequence[str] = list(dict.fromkeys([*VOCABULARY, *common]))[:MAX_WORDS]

    def pictures(self, count: int, rng: random.Random) -> StoredBatch:
        drawn = [rng.choice(self.samples) for _ in range(count)]
        return self._batch([""] * count, [[each.first + rng.randrange(each.count)] for each in drawn])

    def stills(self, count: int, rng: random.Random) -> StoredBatch:
        drawn = [rng.choice(self.samples) for _ in range(count)]
        # What a caption says of motion fits the first frame, where the reference image of that clip would be.
        shares = [0 if rng.random() < FIRST_FRAME_SHARE else rng.randrange(each.count) for each in drawn]
        return self._batch(
            [self._caption(each, rng) for each in drawn],
            [[each.first + offset] for each, offset in zip(drawn, shares, strict=True)],
        )

    def clips(self, count: int, rng: random.Random) -> StoredBatch:
        drawn = [rng.choice(self.videos) for _ in range(count)]
        numbers = [range(each.first, each.first + NUM_KEYFRAMES) for each in drawn]
        return self._batch([self._caption(each, rng) for each in drawn], numbers)

    def _caption(self, sample: Sample, rng: random.Random) -> str:
        return "" if rng.random() < self.caption_dropout else sample.caption

    def _batch(self, captions: Sequence[str], numbers: Sequence[Sequence[int]]) -> StoredBatch:
        return StoredBatch(captions, numbers, self.frames_NHWC_u8)


def prepare(sources: Sequence[str], folder: Path, *, needs_videos: bool) -> None:
    """Decode what the manifests `sources` name into `folder`, cropped and resized, once: a second call finds it there.

    Every video becomes 16 keyframes, evenly from its first frame to its last; one with fewer frames serves as stills. A
    row that cannot be used (no such file, not decodable, no caption) is skipped with a warning. Raises ConfigError where
    no row is left, none is a video though `needs_videos`, or `folder` was made from other rows; StorageUnavailableError where a
    store does not answer, which says nothing about its rows.
    """
    rows = read_media_rows(sources)
    fingerprint = hashlib.sha256(json.dumps([[row.uris, row.caption] for row in rows]).encode()).hexdigest()
    index_path = folder / "index.json"
    if index_path.exists():
        found = json.loads(index_path.read_text())
        if found["fingerprint"] != fingerprint:
            raise ConfigError(
                f"This training was begun with other data than {', '.join(map(redact, sources))} holds now: "
                f"choose another --output, or remove {folder} to go on with these."
            )
        logger.info("%d media prepared before in %s (%d skipped then)", len(found["samples"]), folder, found["skipped"])
        _check(found, sources, needs_videos)
        return
    found = _write_frames(rows, folder, fingerprint)
    try:
        _check(found, sources, needs_videos)
    except ConfigError:
        # What is refused leaves nothing behind.
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
        raise
    write_file(index_path, json.dumps(found).encode())


def _check(index: Mapping[str, Any], sources: Sequence[str], needs_videos: bool) -> None:
    problem = f"{len(index['samples']) + index['skipped']} rows, {index['skipped']} of them skipped"
    if not index["samples"]:
        raise ConfigError(f"Training data {', '.join(map(redact, sources))} holds nothing to train on: {problem}.")
    if needs_videos and not any(each["count"] == NUM_KEYFRAMES for each in index["samples"]):
        raise ConfigError(
            f"Training data {', '.join(map(redact, sources))} holds no video of {NUM_KEYFRAMES} frames or more "
            f"({problem}): a video module needs some."
        )


def _write_frames(rows: Sequence[MediaRow], folder: Path, fingerprint: str) -> dict[str, Any]:
    """Write frames.u8; returns its index, which is stored last and says that it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    total = 0
    with (folder / "frames.u8").open("wb") as file:
        for row in rows:
            try:
                frames_THWC_u8 = _load(row)
            except (MediaError, OSError, ValueError, ImportError) as error:
                logger.warning("skipped %s: %s", row.where, redact(str(error)))
                continue
            samples.append(Sample(row.caption, total, len(frames_THWC_u8)))
            total += len(frames_THWC_u8)
            file.write(frames_THWC_u8.tobytes())
    skipped = len(rows) - len(samples)
    logger.log(
        logging.WARNING if skipped else logging.INFO,
        "%d of %d rows of the training data are skipped",
        skipped,
        len(rows),
    )
    return {
        "fingerprint": fingerprint,
        "num_frames": total,
        "skipped": skipped,
        "samples": [asdict(sample) for sample in samples],
    }


def _load(row: MediaRow) -> np.ndarray:
    """The frames of a row, uint8 THWC at `PIXELS`: one of an image, at most `NUM_KEYFRAMES` of a video."""
    if not row.uris:
        raise MediaError("it names no file")
    if not row.caption:
        raise MediaError("its caption is empty")
    for uri in row.uris:
        try:
            data = read_uri(uri)
            break
        except (FileNotFoundError, IsADirectoryError):
            continue
    else:
        raise MediaError(f"there is no file {row.uris[-1]}")
    uri = row.uris[-1]
    name = urlsplit(uri).path if "://" in uri else uri
    is_image = PurePosixPath(name).suffix.lower() in _IMAGE_SUFFIXES
    frames_THWC_u8 = decode_image(data)[None] if is_image else decode_evenly(data, NUM_KEYFRAMES)
    # One at a time: large frames are large as floats.
    return np.concatenate([square(frame[None]) for frame in frames_THWC_u8])


def square(frames_THWC_u8: np.ndarray) -> np.ndarray:
    """Frames cropped to their central square and resized to `PIXELS`, uint8 THWC."""
    height, width = frames_THWC_u8.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cropped = frames_THWC_u8[:, top : top + side, left : left + side]
    return cropped if side == PIXELS else unit_to_frames(resized(frames_to_unit(cropped), PIXELS))


def _words(caption: str) -> list[str]:
    # As the tokenizer splits: words, and punctuation by itself.
    return re.findall(r"\w+|[^\w\s]+", caption.lower())
