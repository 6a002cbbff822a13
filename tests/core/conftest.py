"""A finished run of rendered clips, for what reads runs: evaluation, report and contact sheet."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from magicvideo_core.clips import Clip, Shards
from magicvideo_core.config import load_config
from magicvideo_core.manifest.layout import artifact_key
from magicvideo_core.manifest.plan import write_plan
from magicvideo_core.manifest.run_record import new_run_record, write_run_json
from magicvideo_core.manifest.schema import ManifestRow
from magicvideo_core.manifest.table import write_manifest
from magicvideo_core.media import encode_lossless, encode_mp4, encode_png
from magicvideo_core.moving_shapes.renderer import render
from magicvideo_core.moving_shapes.world import parse_prompt
from magicvideo_core.prompts import clip_of_prompt
from magicvideo_core.storage import Storage

RENDERED_PROMPTS = (
    "a big red circle moving right on a navy background",
    "a small dotted blue circle spinning on a gray background",
)
FAILED_PROMPT = 'a <script>alert("x")</script> & a star'
_START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def rendered_run(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Three clips: a trained and a held-out triple, rendered in all stages, and one that failed in T2I."""
    storage = Storage(Path(tmp_path_factory.mktemp("runs")) / "rendered")
    clips = [clip_of_prompt(prompt, seed) for seed, prompt in enumerate((*RENDERED_PROMPTS, FAILED_PROMPT))]
    config = load_config("tiny")
    shards = Shards.cut(clips, 2)
    hashes = dict.fromkeys(config.stages, "0" * 16)
    write_run_json(storage, new_run_record("rendered", config, hashes, "prompts.txt", shards))
    write_plan(storage, shards)
    for order, stage in enumerate(config.stages):
        for shard_id, shard in enumerate(shards):
            rows = [_row(storage, stage, shard_id, clip, _START + timedelta(seconds=order)) for clip in shard]
            write_manifest(storage, stage, shard_id, 1, rows)
    return storage


def _row(storage: Storage, stage: str, shard_id: int, clip: Clip, started_at: datetime) -> ManifestRow:
    common = {
        "run_id": "rendered",
        "clip_id": clip.clip_id,
        "shard_id": shard_id,
        "stage": stage,
        "attempt": 1,
        "prompt": clip.prompt,
        "seed": clip.seed,
        "started_at": started_at,
        "duration_s": 0.5,
    }
    scene = parse_prompt(clip.prompt)
    if scene is None:
        status = "failed" if stage == "t2i" else "skipped"
        return ManifestRow.from_dict(
            {**common, "status": status, "error_type": "GateError", "error_message": "all <black>"}
        )
    count, size = {"t2i": (1, 64), "i2v": (8, 32), "v2v": (8, 64), "vfi": (22, 64)}[stage]
    frames = render(scene, [index / max(count - 1, 1) for index in range(count)], size)
    suffix, data = {
        "t2i": (".png", lambda: encode_png(frames[0])),
        "vfi": (".mp4", lambda: encode_mp4(frames, 24.0)),
    }.get(stage, (".mkv", lambda: encode_lossless(frames, 8.0)))
    payload = data()
    sha256 = hashlib.sha256(payload).hexdigest()
    stored = storage.write(artifact_key(stage, clip.clip_id, sha256, suffix), payload)
    return ManifestRow.from_dict(
        {
            **common,
            "status": "succeeded",
            "artifact_uri": stored.uri,
            "sha256": sha256,
            "size_bytes": stored.size_bytes,
            "width": size,
            "height": size,
            "num_frames": count,
            "fps": 24.0,
        }
    )
