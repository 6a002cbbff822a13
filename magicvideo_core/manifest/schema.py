"""The columns of plans and manifests: explicit Arrow schemas with a version, and the row that goes with them."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

# 2: `reused_from`.
SCHEMA_VERSION = 2
_METADATA: dict[bytes | str, bytes | str] = {b"magicvideo.schema_version": str(SCHEMA_VERSION).encode()}

Status = Literal["succeeded", "failed", "quarantined", "skipped"]
STATUSES: tuple[Status, ...] = ("succeeded", "failed", "quarantined", "skipped")

# The first 23 columns are the contract, in its order; what follows is added and may grow.
_MANIFEST_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("run_id", pa.string()),
    ("clip_id", pa.string()),
    ("shard_id", pa.int32()),
    ("stage", pa.string()),
    ("attempt", pa.int32()),
    ("status", pa.string()),
    ("prompt", pa.string()),
    ("seed", pa.int64()),
    ("artifact_uri", pa.string()),
    ("sha256", pa.string()),
    ("size_bytes", pa.int64()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("num_frames", pa.int32()),
    ("fps", pa.float64()),
    ("recipe_hash", pa.string()),
    ("error_type", pa.string()),
    ("error_message", pa.string()),
    ("started_at", pa.timestamp("us", tz="UTC")),
    ("duration_s", pa.float64()),
    ("gpu_s", pa.float64()),
    ("device", pa.string()),
    ("actor_id", pa.string()),
    ("error_traceback", pa.string()),
    ("negative_prompt", pa.string()),
    ("source_id", pa.string()),
    ("extra", pa.string()),
    ("reused_from", pa.string()),
]
MANIFEST_SCHEMA = pa.schema(_MANIFEST_COLUMNS, metadata=_METADATA)

_PLAN_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("shard_id", pa.int32()),
    ("clip_id", pa.string()),
    ("prompt", pa.string()),
    ("negative_prompt", pa.string()),
    ("seed", pa.int64()),
    ("image", pa.string()),
    ("video", pa.string()),
    ("source_id", pa.string()),
    ("extra", pa.string()),
]
PLAN_SCHEMA = pa.schema(_PLAN_COLUMNS, metadata=_METADATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """What one attempt at one clip in one stage came to; the fields are the manifest's columns.

    `started_at` is an aware UTC time; `gpu_s` counts GPU-seconds (0 on a CPU); `extra` is a JSON object.
    `reused_from` is the URI of the run that the artifact was taken over from; the times are then those of that run.
    """

    run_id: str
    clip_id: str
    shard_id: int
    stage: str
    attempt: int
    status: Status
    prompt: str
    seed: int
    artifact_uri: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    fps: float | None = None
    recipe_hash: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    started_at: datetime | None = None
    duration_s: float | None = None
    gpu_s: float | None = None
    device: str | None = None
    actor_id: str | None = None
    error_traceback: str | None = None
    negative_prompt: str = ""
    source_id: str | None = None
    extra: str = "{}"
    reused_from: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the columns by name."""
        return {name: getattr(self, name) for name in _ROW_NAMES}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ManifestRow":
        """Return the row of a mapping; columns of a later version are ignored, those of a later than its own None."""
        return cls(**{name: values[name] for name in _ROW_NAMES if name in values})


# Asked for once, not for each row.
_ROW_NAMES = tuple(field.name for field in fields(ManifestRow))
