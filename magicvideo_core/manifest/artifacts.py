"""Reads the artifact that a manifest row names, also from a run that was copied elsewhere: its bytes, or its frames."""

import hashlib

import numpy as np
import numpy.typing as npt

from magicvideo_core.errors import MediaError, UpstreamLostError
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.media import decode_image, decode_video
from magicvideo_core.redact import redact
from magicvideo_core.storage import Storage, read_uri


def artifact_key_of(row: ManifestRow) -> str | None:
    """Return the artifact's key in its run, None where the row has none there."""
    return key_in_run(row.artifact_uri)


def key_in_run(artifact_uri: str | None) -> str | None:
    """Return the key in its run of the artifact at a URI, None where it names none."""
    _, separator, key = (artifact_uri or "").rpartition("/artifacts/")
    return f"artifacts/{key}" if separator else None


def read_artifact_frames(storage: Storage, row: ManifestRow) -> npt.NDArray[np.uint8]:
    """Return the artifact as uint8 RGB THWC, an image as T = 1. Raises FileNotFoundError or MediaError."""
    if row.artifact_uri is None:
        raise MediaError(f"clip {row.clip_id} has no artifact in stage {row.stage}: its status is {row.status}")
    key = artifact_key_of(row)
    data = storage.read(key) if key is not None and storage.exists(key) else read_uri(row.artifact_uri)
    return decode_artifact(row, data)


def decode_artifact(row: ManifestRow, data: bytes) -> npt.NDArray[np.uint8]:
    """Return the bytes of a row's artifact as uint8 RGB THWC, an image as T = 1. Raises MediaError."""
    return decode_image(data)[None] if (row.artifact_uri or "").endswith(".png") else decode_video(data).frames_THWC_u8


def read_artifact(storage: Storage, stage: str, artifact_uri: str | None, sha256: str | None) -> bytes:
    """Return the bytes of a run's artifact, hashed as they are read.

    Raises UpstreamLostError where they are not there, or are not those that its row names.
    """
    key = key_in_run(artifact_uri)
    try:
        data = storage.read(key) if key is not None else b""
    except FileNotFoundError:
        data = b""
    if hashlib.sha256(data).hexdigest() != sha256:
        what = f"holds {len(data)} other bytes than its row says" if data else "is gone"
        raise UpstreamLostError(
            f"the artifact {key} of {redact(storage.uri)} {what}: see `magicvideo verify`, and have the run's "
            "`magicvideo generate` make it again",
            stage,
        )
    return data
