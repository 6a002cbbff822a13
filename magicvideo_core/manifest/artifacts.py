"""Reads the frames of an artifact that a manifest row names, also from a run that was copied elsewhere."""

import numpy as np
import numpy.typing as npt

from magicvideo_core.errors import MediaError
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.media import decode_image, decode_video
from magicvideo_core.storage import Storage, read_uri


def artifact_key_of(row: ManifestRow) -> str | None:
    """Return the artifact's key in its run, None where the row has none there."""
    _, separator, key = (row.artifact_uri or "").rpartition("/artifacts/")
    return f"artifacts/{key}" if separator else None


def read_artifact_frames(storage: Storage, row: ManifestRow) -> npt.NDArray[np.uint8]:
    """Return the artifact as uint8 RGB THWC, an image as T = 1. Raises FileNotFoundError or MediaError."""
    if row.artifact_uri is None:
        raise MediaError(f"clip {row.clip_id} has no artifact in stage {row.stage}: its status is {row.status}")
    key = artifact_key_of(row)
    data = storage.read(key) if key is not None and storage.exists(key) else read_uri(row.artifact_uri)
    if row.artifact_uri.endswith(".png"):
        return decode_image(data)[None]
    return decode_video(data).frames_THWC_u8
