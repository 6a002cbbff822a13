"""Runs without models or media: every artifact is a few bytes that name it."""

import hashlib
from collections.abc import Callable
from typing import Any

from magicvideo_core.clips import Clip, Shards
from magicvideo_core.config import load_config
from magicvideo_core.manifest.layout import artifact_key
from magicvideo_core.manifest.plan import write_plan
from magicvideo_core.manifest.run_record import new_run_record, write_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import write_manifest
from magicvideo_core.storage import Storage

STAGES = ("t2i", "vfi")
_SUFFIX = {"t2i": ".png", "vfi": ".mp4"}


def write_run(
    storage: Storage,
    clips: list[Clip],
    *,
    change: Callable[[str, Clip], dict[str, Any]] = lambda stage, clip: {},
    clips_per_shard: int = 2,
    content: Callable[[str, Clip], bytes] = lambda stage, clip: f"{stage} of {clip.clip_id}".encode() * 50,
) -> Storage:
    """Write a finished run of two stages, `clips_per_shard` a shard; `change` replaces columns of a row."""
    config = load_config("tiny", overrides=["stages=t2i,i2v,v2v,vfi"])
    shards = Shards.cut(clips, clips_per_shard)
    write_run_json(storage, new_run_record(storage.uri.rpartition("/")[2], config, {}, "prompts.txt", shards))
    write_plan(storage, shards)
    for stage in STAGES:
        for shard_id, shard in enumerate(shards):
            rows = [_row(storage, stage, shard_id, clip, content(stage, clip), change(stage, clip)) for clip in shard]
            write_manifest(storage, stage, shard_id, 1, rows)
    return storage


def _row(storage: Storage, stage: str, shard_id: int, clip: Clip, data: bytes, changes: dict[str, Any]) -> ManifestRow:
    values: dict[str, Any] = {
        "run_id": storage.uri.rpartition("/")[2],
        "clip_id": clip.clip_id,
        "shard_id": shard_id,
        "stage": stage,
        "attempt": 1,
        "status": "succeeded",
        "prompt": clip.prompt,
        "seed": clip.seed,
        "source_id": clip.source_id,
        "extra": clip.to_row()["extra"],
        "recipe_hash": f"recipe-{stage}",
        "width": 16,
        "height": 16,
        "num_frames": 10 if stage == "vfi" else 1,
        "fps": 24.0,
        **changes,
    }
    if values["status"] == "succeeded":
        sha256 = hashlib.sha256(data).hexdigest()
        stored = storage.write(artifact_key(stage, clip.clip_id, sha256, _SUFFIX[stage]), data)
        values |= {"artifact_uri": stored.uri, "sha256": sha256, "size_bytes": stored.size_bytes}
    return ManifestRow.from_dict(values)
